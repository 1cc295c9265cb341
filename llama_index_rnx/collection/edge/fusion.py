"""Rankings become one, as a Qdrant server fuses them, but in the same order each time. It searches
nothing.

The engine fuses by itself, and orders equal scores by chance: two points that are first and second
in one ranking, second and first in another, came now one way and now the other, and the fusion of
that ranking with a third gave other scores. Here equal scores are in the order of the first channel
that has them, and in a channel in the order of their ids.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qdrant_client import models

# Points with their scores, best first.
Ranking = list[tuple[str | int, float]]


def rank(
    prefetches: Sequence[models.Prefetch],
    query: Any,
    limit: int,
    search: Callable[[models.Prefetch], Ranking],
) -> Ranking:
    """Return the points of several channels as one ranking.

    Args:
        query: how the channels are fused, an `RrfQuery` or a `FormulaQuery`.
        limit: how many points come out at most.
        search: returns the ranking of a channel that is none of others.
    """
    rankings: list[Ranking] = []
    for prefetch in prefetches:
        inner = _list(prefetch.prefetch)
        if inner:
            assert prefetch.limit is not None
            rankings.append(rank(inner, prefetch.query, prefetch.limit, search))
        else:
            rankings.append(ordered(search(prefetch)))

    if isinstance(query, models.RrfQuery):
        return _by_rank(query.rrf, rankings)[:limit]
    assert isinstance(query, models.FormulaQuery)
    return _by_formula(query, rankings)[:limit]


def ordered(ranking: Ranking) -> Ranking:
    """Return a ranking with equal scores ordered by id."""
    return sorted(ranking, key=lambda hit: (-hit[1], str(hit[0])))


def _by_rank(rrf: models.Rrf, rankings: Sequence[Ranking]) -> Ranking:
    """Fuse by reciprocal rank (Cormack et al. 2009); Qdrant counts from 0."""
    assert rrf.k is not None
    scores: dict[str | int, float] = defaultdict(float)
    for ranking in rankings:
        for position, (point_id, _) in enumerate(ranking):
            scores[point_id] += 1 / (rrf.k + position)
    return _best_first(scores)


def _by_formula(query: models.FormulaQuery, rankings: Sequence[Ranking]) -> Ranking:
    """Fuse by a formula of the scores in each ranking, which it calls `$score[0]`, `$score[1]`."""
    variables: dict[str | int, dict[str, float]] = defaultdict(lambda: dict(query.defaults or {}))
    for number, ranking in enumerate(rankings):
        for point_id, score in ranking:
            variables[point_id][f"$score[{number}]"] = score
    return _best_first(
        {point_id: _value(query.formula, scores) for point_id, scores in variables.items()}
    )


def _best_first(scores: Mapping[str | int, float]) -> Ranking:
    """Return a fusion with equal scores in the order of the first channel that has them."""
    return sorted(scores.items(), key=lambda hit: -hit[1])


def _value(expression: Any, variables: Mapping[str, float]) -> float:
    """Return the value of a formula."""

    def value(inner: Any) -> float:
        return _value(inner, variables)

    if isinstance(expression, str):
        return variables[expression]
    if isinstance(expression, int | float):
        return float(expression)
    if isinstance(expression, models.SumExpression):
        return sum(map(value, expression.sum))
    if isinstance(expression, models.MultExpression):
        return math.prod(map(value, expression.mult))
    if isinstance(expression, models.ExpExpression):
        return math.exp(value(expression.exp))
    if isinstance(expression, models.DivExpression):
        return value(expression.div.left) / value(expression.div.right)
    raise TypeError(f"{type(expression).__name__} has no counterpart here")


def _list(value: Any) -> list[Any]:
    """Return one value, several or none as a list, as the server's API allows all three."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
