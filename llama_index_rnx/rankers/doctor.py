"""Can this checkpoint be read by labels? Measures it on lists, says so plainly, and fits a calibration. It changes nothing.

A model that reads a list judges contents and slots at once. Shuffling tells the two apart: what stays with a slot over all
shuffles is prejudice, what stays with a candidate is judgement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.base import Ask
from llama_index_rnx.rankers.vlm import ENOUGH_MASS, Calibration, VLMRanker

SHUFFLES = 4
AGREEMENT = 0.3  # Kendall's tau between a list and its reverse below which order rules over content
TEMPERATURES = [2 ** (step / 4) for step in range(-12, 21)]  # 1/8 ... 32


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """label_mass: share of probability on the labels; agreement: Kendall's tau between the orders of a list and of its
    reverse, meaned over lists (1: only content counts, -1: only slots do); slot_share: how much of the spread of the
    logits is explained by slots, 0 to 1; slot_bias: by slot, in logits."""

    lists: int
    labels: Sequence[str]
    label_mass: float
    agreement: float
    slot_share: float
    slot_bias: Sequence[float]

    @property
    def usable(self) -> bool:
        """Whether the checkpoint should be read by labels."""
        return self.label_mass >= ENOUGH_MASS and self.agreement >= AGREEMENT

    def __str__(self) -> str:
        verdict = "may be read by labels" if self.usable else "should NOT be read by labels: use readout='pointwise'"
        return (
            f"{len(self.labels)} labels, all tokenised alike: {' '.join(self.labels)}\n"
            f"label mass          {self.label_mass:6.1%}   (at least {ENOUGH_MASS:.0%})\n"
            f"list against reverse{self.agreement:+6.2f}   (Kendall's tau over {self.lists} lists; at least {AGREEMENT:+.2f})\n"
            f"slots explain       {self.slot_share:6.1%}   of the spread of the logits\n"
            f"This checkpoint {verdict}."
        )


def diagnose(ranker: VLMRanker, asks: Sequence[Ask], seed: int = 0) -> Diagnosis:
    """Reads each list forwards, backwards and shuffled.

    Raises:
        RNXError: the ranker is read pointwise, or a list has fewer than two candidates or more than a window.
    """
    _check(ranker, asks)
    plain = ranker.uncalibrated()
    backwards = [list(range(len(memories)))[::-1] for _, memories in asks]
    there = _centred(plain, asks, [order[::-1] for order in backwards])
    back = _centred(plain, asks, backwards)
    tables = [_centred(plain, asks, orders) for orders in _shuffles(asks, seed)]
    bias = _slot_bias(tables)
    spread = torch.cat([logits for table in tables for _, logits in table])
    explained = torch.cat([bias[: len(logits)] for table in tables for _, logits in table])
    taus = [kendall_tau(_by_candidate(*a), _by_candidate(*b)) for a, b in zip(there, back, strict=True)]
    return Diagnosis(
        lists=len(asks),
        labels=ranker.labels,
        label_mass=plain.label_mass or 0.0,
        agreement=sum(taus) / len(taus),
        slot_share=min(1.0, float(explained.var() / spread.var().clamp_min(1e-12))),
        slot_bias=bias.tolist(),
    )


def fit(ranker: VLMRanker, asks: Sequence[Ask], grades: Sequence[Sequence[float]] | None = None, seed: int = 0) -> Calibration:
    """The calibration of a ranker on the user's own lists; better lists of a full window, since slots shift with length.

    The slot bias needs no grades. The temperature does: it is the one under which the scores, read as probabilities of
    relevance (grade above 0), are the most likely; without grades it stays 1.

    Raises:
        RNXError: as `diagnose`; or there is not one grade a candidate.
    """
    _check(ranker, asks)
    plain = ranker.uncalibrated()
    tables = [_centred(plain, asks, orders) for orders in _shuffles(asks, seed)]
    bias = _slot_bias(tables)
    temperature = 1.0
    if grades is not None:
        if [len(row) for row in grades] != [len(memories) for _, memories in asks]:
            raise RNXError("grades= needs one grade for each candidate of each list.")
        unbiased = [_by_candidate(order, logits - bias[: len(logits)]) for table in tables for order, logits in table]
        relevant = torch.tensor([float(grade > 0) for row in grades for grade in row] * len(tables), dtype=torch.float64)
        temperature = _temperature(torch.cat(unbiased), relevant)
    return Calibration(temperature=temperature, slot_bias=(bias / temperature).tolist())


def kendall_tau(first: Tensor, second: Tensor) -> float:
    """Kendall's tau-a of two score vectors [N]: +1 the same order, -1 the reverse; ties count as neither.

    Example:
        >>> kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0]))
        0.3333333333333333
    """
    pairs = torch.triu_indices(len(first), len(first), offset=1)
    signs = [(scores[pairs[0]] - scores[pairs[1]]).sign() for scores in (first, second)]
    return float((signs[0] * signs[1]).double().mean())


def _check(ranker: VLMRanker, asks: Sequence[Ask]) -> None:
    if ranker.readout != "labels":
        raise RNXError(f"{ranker.name} is read {ranker.readout}; load it with readout='labels' to examine its labels.")
    lengths = [len(memories) for _, memories in asks]
    if not lengths or min(lengths) < 2 or max(lengths) > ranker.window:
        raise RNXError(f"got lists of {lengths or 'no'} candidates; 2 to {ranker.window} each are allowed, at least one list.")


def _shuffles(asks: Sequence[Ask], seed: int) -> list[list[list[int]]]:
    dice = random.Random(seed)
    return [[dice.sample(range(len(memories)), len(memories)) for _, memories in asks] for _ in range(SHUFFLES)]


def _centred(ranker: VLMRanker, asks: Sequence[Ask], orders: Sequence[Sequence[int]]) -> list[tuple[Sequence[int], Tensor]]:
    """For each list its order (candidates by slot) and its centred logits [N], by slot."""
    shuffled = [(query, [memories[i] for i in order]) for (query, memories), order in zip(asks, orders, strict=True)]
    scores = ranker.score_many(shuffled)
    return [(order, torch.tensor(row, dtype=torch.float64).logit(1e-12)) for order, row in zip(orders, scores, strict=True)]


def _by_candidate(order: Sequence[int], by_slot: Tensor) -> Tensor:
    found = torch.empty_like(by_slot)
    found[list(order)] = by_slot
    return found


def _slot_bias(tables: Sequence[Sequence[tuple[Sequence[int], Tensor]]]) -> Tensor:
    """The mean centred logit of each slot over all lists and shuffles [slots]."""
    rows = [logits for table in tables for _, logits in table]
    return torch.stack(
        [torch.stack([row[slot] for row in rows if len(row) > slot]).mean() for slot in range(max(map(len, rows)))]
    )


def _temperature(logits: Tensor, relevant: Tensor) -> float:
    """The one of `TEMPERATURES` with the least cross-entropy."""

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits / temperature, relevant))

    return min(TEMPERATURES, key=loss)
