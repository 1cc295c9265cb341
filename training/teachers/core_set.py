"""Core-set selection: the share of the training lists that teaches most."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.batch import CandidateList
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker
from training.teachers.grading import ensemble, grades_of_row, remember_all, scored_by, soft_grades


def kendall(one: Tensor, other: Tensor) -> float:
    """Kendall's tau-b of two score vectors [N]: 1 the same order, -1 the reverse, 0 for no
    relation, ties counted as ties.
    """
    signs = [(of.unsqueeze(1) - of.unsqueeze(0)).sign() for of in (one, other)]  # [N, N] each
    norm = math.sqrt(float(signs[0].square().sum()) * float(signs[1].square().sum()))
    return float((signs[0] * signs[1]).sum()) / norm if norm > 0.0 else 0.0


def agreement(scores: Tensor) -> float:
    """The mean tau of all pairs of teachers, [T, N], at least 0; one teacher agrees with itself."""
    pairs = [(one, other) for other in range(len(scores)) for one in range(other)]
    taus = [kendall(scores[one], scores[other]) for one, other in pairs]
    return max(0.0, sum(taus) / len(taus)) if taus else 1.0


def difficulty(grades: Tensor, scores: Tensor, cutoff: int = 10) -> float:
    """1 - nDCG@cutoff of the order by `scores` under `grades` [N]: 0 is known already, or there is
    nothing to order.
    """
    gains = torch.exp2(grades) - 1.0
    discounts = (
        1.0 / (torch.arange(len(grades)) + 2.0).log2() * (torch.arange(len(grades)) < cutoff)
    )
    ideal = float(gains.sort(descending=True).values @ discounts)
    if ideal <= 0.0:
        return 0.0
    return 1.0 - float(gains[scores.argsort(descending=True, stable=True)] @ discounts) / ideal


def facility_location(
    likeness: Tensor, worth: Tensor, count: int, diversity: float = 0.5
) -> list[int]:
    """The `count` lists of greatest value, greedily, in the order in which they were taken.

    likeness: [L, L] in 0..1, worth: [L]. The value of a set is (1 - diversity) x its share of the
    worth that any `count` lists could have + diversity x the mean over all lists of the likeness to
    their nearest one in the set. It is submodular, so greedy has at least 1 - 1/e of the best, and
    a gain computed earlier is a bound (lazy greedy, Minoux 1978).
    """
    total = float(worth.sort(descending=True).values[:count].sum()) or 1.0
    gains = (1.0 - diversity) * worth / total + diversity * likeness.mean(1)
    heap = [(-gain, place, 0) for place, gain in enumerate(gains.tolist())]
    heapq.heapify(heap)
    covered, chosen = torch.zeros(len(likeness)), list[int]()
    while heap and len(chosen) < count:
        _, place, seen = heapq.heappop(heap)
        if seen == len(chosen):
            chosen.append(place)
            covered = torch.maximum(covered, likeness[place])
            continue
        new = diversity * float((likeness[place] - covered).clamp_min(0.0).mean())
        heapq.heappush(
            heap, (-(1.0 - diversity) * float(worth[place]) / total - new, place, len(chosen))
        )
    return chosen


def worth(teachers: Tensor, ranker: Tensor, grades: Tensor | None = None) -> float:
    """Agreement of the teachers [T, N] x difficulty for the ranker [N]. Judged grades are the
    truth, and one more teacher.
    """
    if grades is None:
        return agreement(teachers) * difficulty(soft_grades(ensemble(teachers)), ranker)
    return agreement(torch.cat([teachers, grades.unsqueeze(0)])) * difficulty(grades, ranker)


def core_set(
    worths: Sequence[float], queries: Tensor, share: float, diversity: float = 0.5
) -> list[int]:
    """Places of the lists to keep, in their old order. queries: [L, D], any length.

    Likeness is the cosine, counted from its 5 % quantile: embedders put all questions of one domain
    close together.
    """
    count = max(1, round(share * len(worths)))
    unit = normalize(queries.float(), dim=-1)
    cosine = unit @ unit.T  # [L, L]
    low = float(cosine.flatten()[:: max(1, cosine.numel() // 100_000)].quantile(0.05))
    likeness = ((cosine - low) / max(1e-6, 1.0 - low)).clamp(0.0, 1.0)
    return sorted(facility_location(likeness, torch.tensor(worths), count, diversity))


def worth_of_rows(
    lists: Sequence[CandidateList], rows: Sequence[Any], teachers: Sequence[Ranker], ranker: Ranker
) -> list[float]:
    """The worth of every list of a file; grades in all candidates of a row are its judgments."""
    store = MemoryStore()
    remember_all(
        [*teachers, ranker], store, [candidate for one in lists for candidate in one.candidates]
    )
    found = []
    for one, row in zip(lists, rows, strict=True):
        said = torch.stack(
            [scored_by(teacher, store, one.query, one.candidates) for teacher in teachers]
        )  # [T, N]
        grades = grades_of_row(row)
        judged = None if None in grades else torch.tensor([float(grade or 0.0) for grade in grades])
        found.append(worth(said, scored_by(ranker, store, one.query, one.candidates), judged))
    return found
