"""Can this checkpoint be read by labels? Measures it on lists, answers plainly, and fits a
calibration. It changes no ranker.

A model that reads a list judges contents and positions at once. Shuffling tells the two apart: what
stays with a position over all shuffles is bias, what stays with a candidate is judgement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.vlm.ranker import VLMRanker
from llama_index_rnx.rankers.vlm.readouts import ENOUGH_MASS
from llama_index_rnx.ranking import Calibration, ScoringRequest

SHUFFLES = 4

# Kendall's tau between a list and its reverse below which position outweighs content.
AGREEMENT = 0.3

TEMPERATURES = [2 ** (step / 4) for step in range(-12, 21)]  # 1/8 ... 32
MAX_LOG_ODDS = 20.0  # of a candidate's relevance, either way


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One list as it was read: order, the candidates by position; logits [N], centred, by
    position.
    """

    order: Sequence[int]
    logits: Tensor

    def by_candidate(self) -> Tensor:
        """The logits [N] in the order of the list."""
        logits = torch.empty_like(self.logits)
        logits[list(self.order)] = self.logits
        return logits


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """How a checkpoint reads lists by labels, with its calibration if it has one.

    label_mass: the share of probability on the labels, in [0, 1], averaged over lists; agreement:
    Kendall's tau between the orders of a list and of its reverse, averaged over lists (1: only
    content counts, -1: only positions do); position_bias_share: how much of the spread of the
    logits positions explain, 0 to 1, less what chance explains; position_bias: by position of the
    longest lists, in logits.
    """

    lists: int
    labels: Sequence[str]
    label_mass: float
    agreement: float
    position_bias_share: float
    position_bias: Sequence[float]

    @property
    def usable(self) -> bool:
        """Whether the checkpoint should be read by labels."""
        return self.label_mass >= ENOUGH_MASS and self.agreement >= AGREEMENT

    def __str__(self) -> str:
        verdict = "should NOT be read by labels: use readout='pointwise'"
        if self.usable:
            verdict = "may be read by labels"
        biases = " ".join(f"{bias:+.2f}" for bias in self.position_bias)
        return (
            f"{len(self.labels)} labels, all tokenised alike: {' '.join(self.labels)}\n"
            f"label mass          {self.label_mass:6.1%}   (at least {ENOUGH_MASS:.0%})\n"
            f"list against reverse{self.agreement:+6.2f}   "
            f"(Kendall's tau over {self.lists} lists; at least {AGREEMENT:+.2f})\n"
            f"positions explain   {self.position_bias_share:6.1%}   "
            "of the spread of the logits\n"
            f"position bias       {biases}\n"
            f"This checkpoint {verdict}."
        )


def diagnose(ranker: VLMRanker, requests: Sequence[ScoringRequest], seed: int = 0) -> Diagnosis:
    """Read each list forwards, backwards and shuffled.

    Raises:
        SettingsError: the ranker is not read by labels, or a list has fewer than two candidates or
            more than a window.
    """
    _check_requests(ranker, requests)
    single = ranker.with_single_order()
    orders = [list(range(len(memories))) for _, memories in requests]
    forwards = _read_orders(single, requests, orders)
    backwards = _read_orders(single, requests, [order[::-1] for order in orders])
    lengths = [len(order) for order in orders]
    shuffled = _read_shuffled(single, requests, lengths, random.Random(seed))

    taus = [
        kendall_tau(first.by_candidate(), second.by_candidate())
        for first, second in zip(forwards, backwards, strict=True)
    ]
    return Diagnosis(
        lists=len(requests),
        labels=ranker.labels,
        label_mass=single.label_mass or 0.0,
        agreement=sum(taus) / len(taus),
        position_bias_share=position_bias_share(shuffled),
        position_bias=_group_by_length(shuffled)[-1].mean(0).tolist(),
    )


def fit(
    ranker: VLMRanker,
    requests: Sequence[ScoringRequest],
    grades: Sequence[Sequence[float]] | None = None,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit the calibration of a ranker on the user's own lists.

    The position bias needs no grades: at each of `lengths` it is the mean logit of a position over
    shuffles of all lists that are at least so long. Temperature and offset do: with them the
    scores, read as probabilities of relevance (grade above 0), are the most likely on the lists
    that have grades; without any they stay 1 and 0.

    Args:
        grades: one for each candidate of a list; an empty row for a list without.
        lengths: default: the longest list, two thirds of it, two thirds of that, ..., down to about
            3.

    Raises:
        SettingsError: as `diagnose`; there is not one grade for each candidate; or all, or no,
            candidates are relevant.
    """
    _check_requests(ranker, requests)
    plain = ranker.uncalibrated()
    rng = random.Random(seed)
    list_lengths = [len(memories) for _, memories in requests]
    whole = _read_shuffled(plain, requests, list_lengths, rng)

    biases = []
    for length in lengths or _two_thirds(max(list_lengths)):
        readings = [reading for reading in whole if len(reading.logits) == length]
        readings = readings or _read_samples(plain, requests, length, rng)
        biases.append(_group_by_length(readings)[-1].mean(0))

    calibration = Calibration(slot_bias=[bias.tolist() for bias in biases])
    if not grades or not any(grades):
        return calibration
    logits, relevant = _graded_logits(whole, calibration, requests, grades)
    temperature, offset = _fit_temperature_and_offset(logits, relevant)
    return Calibration(
        temperature=temperature,
        offset=offset,
        slot_bias=[(bias / temperature).tolist() for bias in biases],
    )


def kendall_tau(first: Tensor, second: Tensor) -> float:
    """Return Kendall's tau-a of two score vectors [N]: +1 the same order, -1 the reverse; ties
    count as neither.

    Example:
        >>> kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 1.0, 2.0]))
        0.3333333333333333
    """
    rows, columns = torch.triu_indices(len(first), len(first), offset=1)
    first_signs = (first[rows] - first[columns]).sign()
    second_signs = (second[rows] - second[columns]).sign()
    return float((first_signs * second_signs).double().mean())


def position_bias_share(readings: Sequence[Reading]) -> float:
    """Return how much of the variance of shuffled lists' logits their positions explain, in [0, 1].

    What chance would explain is taken off (adjusted R2).
    """
    residual = 0.0
    total = 0.0
    residual_freedom = 0
    total_freedom = 0
    for logits in _group_by_length(readings):  # [lists, positions]
        residual += float((logits - logits.mean(0)).square().sum())
        total += float((logits - logits.mean()).square().sum())
        residual_freedom += logits.numel() - logits.shape[1]
        total_freedom += logits.numel() - 1

    if residual_freedom <= 0 or total == 0:
        return 0.0
    explained = 1 - (residual / residual_freedom) / (total / total_freedom)
    return min(1.0, max(0.0, explained))


def _check_requests(ranker: VLMRanker, requests: Sequence[ScoringRequest]) -> None:
    if ranker.readout != "labels":
        raise SettingsError(
            f"{ranker.name} is read {ranker.readout}; load it with readout='labels' to examine its "
            "labels."
        )
    lengths = [len(memories) for _, memories in requests]
    if not lengths or min(lengths) < 2 or max(lengths) > ranker.window:
        raise SettingsError(
            f"got lists of {lengths or 'no'} candidates; 2 to {ranker.window} each are allowed, at "
            "least one list."
        )


def _read_shuffled(
    ranker: VLMRanker,
    requests: Sequence[ScoringRequest],
    lengths: Sequence[int],
    rng: random.Random,
) -> list[Reading]:
    """Read every list, or a random sample of it of this length, in `SHUFFLES` random orders."""
    shuffles = []
    for _ in range(SHUFFLES):
        orders = []
        for (_, memories), length in zip(requests, lengths, strict=True):
            orders.append(rng.sample(range(len(memories)), length))
        shuffles.append(orders)
    return [reading for orders in shuffles for reading in _read_orders(ranker, requests, orders)]


def _read_samples(
    ranker: VLMRanker, requests: Sequence[ScoringRequest], length: int, rng: random.Random
) -> list[Reading]:
    """Read random samples of this length of all lists that are at least so long."""
    longer = [request for request in requests if len(request[1]) >= length]
    return _read_shuffled(ranker, longer, [length] * len(longer), rng)


def _read_orders(
    ranker: VLMRanker, requests: Sequence[ScoringRequest], orders: Sequence[Sequence[int]]
) -> list[Reading]:
    """Read each list in one order; its logits are recovered from its scores."""
    reordered = [
        (query, [memories[i] for i in order])
        for (query, memories), order in zip(requests, orders, strict=True)
    ]
    readings = []
    for order, scores in zip(orders, ranker.score_many(reordered), strict=True):
        logits = torch.tensor(scores, dtype=torch.float64).logit(1e-12)
        readings.append(Reading(order=order, logits=logits - logits.mean()))
    return readings


def _group_by_length(readings: Sequence[Reading]) -> list[Tensor]:
    """Return the logits [lists, positions] of all lists of one length, shortest first."""
    groups: dict[int, list[Tensor]] = {}
    for reading in readings:
        groups.setdefault(len(reading.logits), []).append(reading.logits)
    return [torch.stack(groups[length]) for length in sorted(groups)]


def _two_thirds(longest: int) -> list[int]:
    """20 -> [20, 13, 8, 5, 3]."""
    return [longest, *_two_thirds(2 * longest // 3)] if longest > 4 else [longest]


def _graded_logits(
    readings: Sequence[Reading],
    calibration: Calibration,
    requests: Sequence[ScoringRequest],
    grades: Sequence[Sequence[float]],
) -> tuple[Tensor, Tensor]:
    """Return the logits without position bias of all graded candidates [M], reading by reading,
    and whether each is relevant [M].
    """
    _check_grades(requests, grades)
    logits = []
    relevant = []
    for reading, list_grades in zip(readings, list(grades) * SHUFFLES, strict=True):
        if not list_grades:
            continue
        bias = torch.from_numpy(calibration.bias(len(reading.logits)))  # [N]
        logits.append(reading.logits - bias)
        is_relevant = [float(list_grades[i] > 0) for i in reading.order]
        relevant.append(torch.tensor(is_relevant, dtype=torch.float64))
    return torch.cat(logits), torch.cat(relevant)


def _check_grades(requests: Sequence[ScoringRequest], grades: Sequence[Sequence[float]]) -> None:
    counts = [len(memories) for _, memories in requests]
    if len(grades) == len(requests) and all(
        len(list_grades) in (0, count) for list_grades, count in zip(grades, counts, strict=True)
    ):
        return
    raise SettingsError(
        "grades= needs one grade for each candidate of each list, or an empty row for a list "
        "without grades."
    )


def _fit_temperature_and_offset(logits: Tensor, relevant: Tensor) -> tuple[float, float]:
    """Return the temperature and the offset with the least cross-entropy (Platt scaling)."""
    if relevant.min() == relevant.max():
        raise SettingsError(
            "all candidates with a grade are relevant, or none is; a temperature needs grades of 0 "
            "and above 0."
        )

    def loss(pair: tuple[float, float]) -> float:
        temperature, offset = pair
        return float(binary_cross_entropy_with_logits(logits / temperature + offset, relevant))

    pairs = [(t, _fit_offset(logits / t, relevant)) for t in TEMPERATURES]
    return min(pairs, key=loss)


def _fit_offset(logits: Tensor, relevant: Tensor) -> float:
    """Return the offset under which the expected number of relevant candidates is the true one: the
    best for a given temperature. It is found by bisection.
    """
    low = -MAX_LOG_ODDS
    high = MAX_LOG_ODDS
    for _ in range(50):
        middle = (low + high) / 2
        if (logits + middle).sigmoid().mean() > relevant.mean():
            high = middle
        else:
            low = middle
    return (low + high) / 2
