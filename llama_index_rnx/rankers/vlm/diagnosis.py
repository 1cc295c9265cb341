"""Can this checkpoint be read by labels? Measures it on lists, says so plainly, and fits a
calibration. It changes nothing.

A model that reads a list judges contents and slots at once. Shuffling tells the two apart: what
stays with a slot over all shuffles is prejudice, what stays with a candidate is judgement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.ranker import ENOUGH_MASS, VLMRanker
from llama_index_rnx.ranking import Calibration, ScoringRequest

SHUFFLES = 4
AGREEMENT = 0.3  # Kendall's tau between a list and its reverse below which order rules over content
TEMPERATURES = [2 ** (step / 4) for step in range(-12, 21)]  # 1/8 ... 32
ODDS = 20.0  # of a candidate, at most
LogitReader = list[
    tuple[Sequence[int], Tensor]
]  # of each list: its order (candidates by slot), its centred logits [N] by slot


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of the checkpoint as it is, with its calibration if it has one.

    label_mass: share of probability on the labels, meaned over lists; agreement: Kendall's tau
    between the orders of a list and of its reverse, meaned over lists (1: only content counts, -1:
    only slots do); position_bias_share: how much of the spread of the logits is explained by slots,
    0 to 1, less what chance explains; slot_bias: by slot of the longest lists, in logits.
    """

    lists: int
    labels: Sequence[str]
    label_mass: float
    agreement: float
    position_bias_share: float
    slot_bias: Sequence[float]

    @property
    def usable(self) -> bool:
        """Whether the checkpoint should be read by labels."""
        return self.label_mass >= ENOUGH_MASS and self.agreement >= AGREEMENT

    def __str__(self) -> str:
        verdict = (
            "may be read by labels"
            if self.usable
            else "should NOT be read by labels: use readout='pointwise'"
        )
        return (
            f"{len(self.labels)} labels, all tokenised alike: {' '.join(self.labels)}\n"
            f"label mass          {self.label_mass:6.1%}   (at least {ENOUGH_MASS:.0%})\n"
            f"list against reverse{self.agreement:+6.2f}   (Kendall's tau over {self.lists} lists; at least {AGREEMENT:+.2f})\n"
            f"slots explain       {self.position_bias_share:6.1%}   of the spread of the logits\n"
            f"bias of the slots   {' '.join(f'{bias:+.2f}' for bias in self.slot_bias)}\n"
            f"This checkpoint {verdict}."
        )


def diagnose(ranker: VLMRanker, asks: Sequence[ScoringRequest], seed: int = 0) -> Diagnosis:
    """Reads each list forwards, backwards and shuffled.

    Raises:
        RNXError: the ranker is not read by labels, or a list has fewer than two candidates or more
            than a window.
    """
    _check(ranker, asks)
    once = ranker.read_once()
    forwards = [list(range(len(memories))) for _, memories in asks]
    there, back = (
        _centred(once, asks, forwards),
        _centred(once, asks, [order[::-1] for order in forwards]),
    )
    reads = _shuffled(once, asks, [len(order) for order in forwards], random.Random(seed))
    taus = [
        kendall_tau(_by_candidate(*a), _by_candidate(*b)) for a, b in zip(there, back, strict=True)
    ]
    return Diagnosis(
        lists=len(asks),
        labels=ranker.labels,
        label_mass=once.label_mass or 0.0,
        agreement=sum(taus) / len(taus),
        position_bias_share=position_bias_share(reads),
        slot_bias=_by_slot(reads)[-1].mean(0).tolist(),
    )


def fit(
    ranker: VLMRanker,
    asks: Sequence[ScoringRequest],
    grades: Sequence[Sequence[float]] | None = None,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> Calibration:
    """The calibration of a ranker on the user's own lists.

    The slot bias needs no grades: at each of `lengths` it is the mean logit of a slot over shuffles
    of all lists that are so long. Temperature and offset do: with them the scores, read as
    probabilities of relevance (grade above 0), are the most likely on the lists that have grades;
    without any they stay 1 and 0.

    Args:
        grades: one for each candidate of a list; an empty row for a list without.
        lengths: default: the longest list, two thirds of it, two thirds of that, ..., down to 3 or
            so.

    Raises:
        RNXError: as `diagnose`; there is not one grade a candidate; or all, or no, candidates are
            relevant.
    """
    _check(ranker, asks)
    plain, dice = ranker.uncalibrated(), random.Random(seed)
    full = _shuffled(plain, asks, [len(memories) for _, memories in asks], dice)
    longest = max(len(memories) for _, memories in asks)
    rows = []
    for length in lengths or _two_thirds(longest):
        long_enough = [ask for ask in asks if len(ask[1]) >= length]
        same = [read for read in full if len(read[1]) == length]
        reads = same or _shuffled(plain, long_enough, [length] * len(long_enough), dice)
        rows.append(_by_slot(reads)[-1].mean(0))
    calibration = Calibration(slot_bias=[row.tolist() for row in rows])
    if not grades or not any(grades):
        return calibration
    temperature, offset = _temperature_and_offset(*_judged(full, calibration, asks, grades))
    return Calibration(
        temperature=temperature,
        offset=offset,
        slot_bias=[(row / temperature).tolist() for row in rows],
    )


def kendall_tau(first: Tensor, second: Tensor) -> float:
    """Kendall's tau-a of two score vectors [N]: +1 the same order, -1 the reverse; ties count as
    neither.

    Example:
        >>> kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0]))
        0.3333333333333333
    """
    pairs = torch.triu_indices(len(first), len(first), offset=1)
    signs = [(scores[pairs[0]] - scores[pairs[1]]).sign() for scores in (first, second)]
    return float((signs[0] * signs[1]).double().mean())


def position_bias_share(reads: LogitReader) -> float:
    """How much of the variance of shuffled lists' logits their slots explain; what chance would is
    taken off (adjusted R2).
    """
    left = whole = 0.0
    freedom = total = 0
    for table in _by_slot(reads):  # [lists, slots]
        left += float((table - table.mean(0)).square().sum())
        whole += float((table - table.mean()).square().sum())
        freedom += table.numel() - table.shape[1]
        total += table.numel() - 1
    if freedom <= 0 or whole == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - (left / freedom) / (whole / total)))


def _check(ranker: VLMRanker, asks: Sequence[ScoringRequest]) -> None:
    if ranker.readout != "labels":
        raise RNXError(
            f"{ranker.name} is read {ranker.readout}; load it with readout='labels' to examine its labels."
        )
    lengths = [len(memories) for _, memories in asks]
    if not lengths or min(lengths) < 2 or max(lengths) > ranker.window:
        raise RNXError(
            f"got lists of {lengths or 'no'} candidates; 2 to {ranker.window} each are allowed, at least one list."
        )


def _shuffled(
    ranker: VLMRanker, asks: Sequence[ScoringRequest], lengths: Sequence[int], dice: random.Random
) -> LogitReader:
    """Every list, or a random part of it of this length, in `SHUFFLES` random orders."""
    orders = [
        [
            dice.sample(range(len(memories)), length)
            for (_, memories), length in zip(asks, lengths, strict=True)
        ]
        for _ in range(SHUFFLES)
    ]
    return [read for one in orders for read in _centred(ranker, asks, one)]


def _centred(
    ranker: VLMRanker, asks: Sequence[ScoringRequest], orders: Sequence[Sequence[int]]
) -> LogitReader:
    shuffled = [
        (query, [memories[i] for i in order])
        for (query, memories), order in zip(asks, orders, strict=True)
    ]
    logits = [
        torch.tensor(row, dtype=torch.float64).logit(1e-12) for row in ranker.score_many(shuffled)
    ]
    return [(order, row - row.mean()) for order, row in zip(orders, logits, strict=True)]


def _by_candidate(order: Sequence[int], by_slot: Tensor) -> Tensor:
    found = torch.empty_like(by_slot)
    found[list(order)] = by_slot
    return found


def _by_slot(reads: LogitReader) -> list[Tensor]:
    """The logits [lists, slots] of all lists of one length, for each length, shortest first."""
    lengths = sorted({len(logits) for _, logits in reads})
    return [
        torch.stack([logits for _, logits in reads if len(logits) == length]) for length in lengths
    ]


def _two_thirds(longest: int) -> list[int]:
    """20 -> [20, 13, 8, 5, 3]."""
    return [longest, *_two_thirds(2 * longest // 3)] if longest > 4 else [longest]


def _judged(
    reads: LogitReader,
    calibration: Calibration,
    asks: Sequence[ScoringRequest],
    grades: Sequence[Sequence[float]],
) -> tuple[Tensor, Tensor]:
    """The logits without slot bias of all graded candidates, read by read, and whether each is
    relevant.
    """
    if [len(row) or len(memories) for row, (_, memories) in zip(grades, asks, strict=False)] != [
        len(m) for _, m in asks
    ]:
        raise RNXError(
            "grades= needs one grade for each candidate of each list, or an empty row for a list without grades."
        )
    logits, relevant = [], []
    for (order, by_slot), row in zip(reads, list(grades) * SHUFFLES, strict=True):
        if row:
            logits.append(by_slot - calibration.bias(len(by_slot)))
            relevant.append(torch.tensor([float(row[i] > 0) for i in order], dtype=torch.float64))
    return torch.cat(logits), torch.cat(relevant)


def _temperature_and_offset(logits: Tensor, relevant: Tensor) -> tuple[float, float]:
    """Those with the least cross-entropy (Platt scaling)."""
    if relevant.min() == relevant.max():
        raise RNXError(
            "all candidates with a grade are relevant, or none is; a temperature needs grades of 0 and above 0."
        )

    def loss(pair: tuple[float, float]) -> float:
        return float(binary_cross_entropy_with_logits(logits / pair[0] + pair[1], relevant))

    return min(
        ((temperature, _offset(logits / temperature, relevant)) for temperature in TEMPERATURES),
        key=loss,
    )


def _offset(logits: Tensor, relevant: Tensor) -> float:
    """Under which as many candidates are expected to be relevant as are: the best for a given
    temperature. By bisection.
    """
    low, high = -ODDS, ODDS
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (low, middle)
            if (logits + middle).sigmoid().mean() > relevant.mean()
            else (middle, high)
        )
    return (low + high) / 2
