"""Core-set selection: the share of the training lists that teaches most. It trains nothing."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import kendalltau  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.batch import CandidateList, read_lists
from llama_index_rnx.candidates import Query
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker
from training.data import Row, read_jsonl
from training.teachers.grading import (
    cache_memories,
    ensemble,
    grades_of_row,
    score_candidates,
    soft_grades,
)
from training.teachers.models import load_teacher


def agreement(scores: Tensor) -> float:
    """Return the mean Kendall tau-b of all pairs of teachers, at least 0.

    scores: [T, N]. One teacher alone agrees with itself: 1.
    """
    taus = [kendall_tau_b(first, second) for first, second in itertools.combinations(scores, 2)]
    return max(0.0, sum(taus) / len(taus)) if taus else 1.0


def kendall_tau_b(first: Tensor, second: Tensor) -> float:
    """Return Kendall's tau-b of two score vectors [N]; 0 where one of them has no order."""
    tau = float(kendalltau(first.numpy(), second.numpy()).statistic)
    return 0.0 if math.isnan(tau) else tau


def difficulty(grades: Tensor, scores: Tensor, cutoff: int = 10) -> float:
    """Return 1 - nDCG@cutoff of the order by `scores` under `grades`, [N] both.

    0: the ranker knows the order already, or there is nothing to order. ir-measures cannot compute
    it: soft grades are no whole numbers, and the gains are 2^grade - 1.
    """
    gains = torch.exp2(grades) - 1.0
    ranks = torch.arange(len(grades))
    discounts = 1.0 / (ranks + 2.0).log2() * (ranks < cutoff)
    ideal = float(gains.sort(descending=True).values @ discounts)
    if ideal <= 0.0:
        return 0.0
    order = scores.argsort(descending=True, stable=True)
    return 1.0 - float(gains[order] @ discounts) / ideal


def facility_location(
    similarity: Tensor, utilities: Tensor, count: int, diversity: float = 0.5
) -> list[int]:
    """Return the `count` lists of greatest value, chosen greedily, in the order of their choice.

    similarity: [L, L] in 0..1, utilities: [L]. The value of a set is (1 - diversity) x its share of
    the utility that any `count` lists could have + diversity x the mean over all lists of the
    similarity to their nearest one in the set. It is submodular, so greedy has at least 1 - 1/e of
    the best, and a gain computed earlier is a bound (lazy greedy, Minoux 1978).
    """
    total = float(utilities.sort(descending=True).values[:count].sum()) or 1.0
    gains = (1.0 - diversity) * utilities / total + diversity * similarity.mean(1)
    # (-gain, list, how many were chosen when the gain was computed)
    heap = [(-gain, index, 0) for index, gain in enumerate(gains.tolist())]
    heapq.heapify(heap)

    covered = torch.zeros(len(similarity))
    chosen: list[int] = []
    while heap and len(chosen) < count:
        _, index, computed_at = heapq.heappop(heap)
        if computed_at == len(chosen):
            chosen.append(index)
            covered = torch.maximum(covered, similarity[index])
            continue
        # The gain is from an earlier set: compute it anew for this one.
        coverage = float((similarity[index] - covered).clamp_min(0.0).mean())
        cost = -(1.0 - diversity) * float(utilities[index]) / total - diversity * coverage
        heapq.heappush(heap, (cost, index, len(chosen)))
    return chosen


def utility(teachers: Tensor, ranker: Tensor, grades: Tensor | None = None) -> float:
    """Return the agreement of the teachers [T, N] x the difficulty for the ranker [N].

    Judged grades [N], where there are any, are the truth for the difficulty and one more teacher
    for the agreement.
    """
    if grades is None:
        return agreement(teachers) * difficulty(soft_grades(ensemble(teachers)), ranker)
    return agreement(torch.cat([teachers, grades.unsqueeze(0)])) * difficulty(grades, ranker)


def core_set(
    utilities: Sequence[float], queries: Tensor, share: float, diversity: float = 0.5
) -> list[int]:
    """Return the indices of the lists to keep, sorted. queries: [L, D], of any length.

    Similarity is the cosine, counted from its 5 % quantile: embedders put all questions of one
    domain close together.
    """
    count = max(1, round(share * len(utilities)))
    unit = normalize(queries.float(), dim=-1)
    cosine = unit @ unit.T  # [L, L]

    # The quantile is over at most 100,000 of the cosines.
    sample = cosine.flatten()[:: max(1, cosine.numel() // 100_000)]
    low = float(sample.quantile(0.05))
    similarity = ((cosine - low) / max(1e-6, 1.0 - low)).clamp(0.0, 1.0)
    return sorted(facility_location(similarity, torch.tensor(utilities), count, diversity))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows of a file to keep, in their order, and the mean utility of these and of all."""

    rows: list[Row]
    count: int
    utility: float
    utility_of_all: float

    def __str__(self) -> str:
        return (
            f"kept {len(self.rows)} of {self.count}; "
            f"utility {self.utility:.3f}, all {self.utility_of_all:.3f}"
        )


def select_rows(options: Namespace) -> Selection:
    """Return the rows that `python -m training.coreset` writes.

    Raises:
        RNXError: the file, a share or the name of a model does not fit.
    """
    if not 0.0 < options.share <= 1.0:
        raise SettingsError(f"--share is {options.share}; it must be above 0 and at most 1.")
    lists = read_lists(options.lists)
    rows = list(read_jsonl(options.lists))
    teachers = [load_teacher(name) for name in options.teacher]
    utilities = row_utilities(lists, rows, teachers, load_ranker(options.ranker))

    embedding = RNXEmbedding()
    # A query that is an image alone has no text.
    texts = [candidate_list.query.text or " " for candidate_list in lists]
    queries = torch.tensor([embedding.query_vector(Query(text=text)) for text in texts])
    indices = core_set(utilities, queries, options.share, options.diversity)
    if options.random is not None:
        indices = sorted(random.Random(options.random).sample(range(len(lists)), len(indices)))
    return Selection(
        rows=[rows[index] for index in indices],
        count=len(lists),
        utility=sum(utilities[index] for index in indices) / len(indices),
        utility_of_all=sum(utilities) / len(utilities),
    )


def row_utilities(
    lists: Sequence[CandidateList], rows: Sequence[Row], teachers: Sequence[Ranker], ranker: Ranker
) -> list[float]:
    """Return the utility of every list of a file.

    Grades in all candidates of a row are its judgments; grades in some of them are not used.
    """
    store = MemoryStore()
    candidates = [candidate for ranked in lists for candidate in ranked.candidates]
    cache_memories([*teachers, ranker], store, candidates)

    utilities = []
    for candidate_list, row in zip(lists, rows, strict=True):
        query = candidate_list.query
        candidates = candidate_list.candidates
        by_teacher = torch.stack(
            [score_candidates(teacher, store, query, candidates) for teacher in teachers]
        )  # [T, N]
        by_ranker = score_candidates(ranker, store, query, candidates)  # [N]
        grades = grades_of_row(row)
        judged = None if None in grades else torch.tensor([float(grade or 0.0) for grade in grades])
        utilities.append(utility(by_teacher, by_ranker, judged))
    return utilities
