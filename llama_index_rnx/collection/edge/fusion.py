"""Rankings become one, as a Qdrant server fuses them, but in the same order each time. It searches
nothing.

The engine fuses by itself, and orders equal scores by chance: two points that are first and second
in one ranking, second and first in another, came now one way and now the other, and the fusion of
that ranking with a third gave other scores. Here equal scores are in the order of the first channel
that has them, and in a channel in the order of their ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from qdrant_client import models

from llama_index_rnx.collection.edge.requests import as_list

# Points with their scores, best first.
Ranking = list[tuple[str | int, float]]

# The scores of all points in one ranking, [N].
Scores = Any


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
        inner = as_list(prefetch.prefetch)
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
    ids = list(dict.fromkeys(point_id for ranking in rankings for point_id, _ in ranking))
    defaults = query.defaults or {}
    variables: dict[str, Scores] = {}
    for number, ranking in enumerate(rankings):
        name = f"$score[{number}]"
        scores = dict(ranking)
        default = defaults.get(name, 0.0)
        variables[name] = np.array([scores.get(point_id, default) for point_id in ids])  # [N]

    values = np.broadcast_to(_value(query.formula, variables), len(ids))  # [N]
    return _best_first(dict(zip(ids, values.tolist(), strict=True)))


def _best_first(scores: Mapping[str | int, float]) -> Ranking:
    """Return a fusion with equal scores in the order of the first channel that has them."""
    return sorted(scores.items(), key=lambda hit: -hit[1])


def _value(expression: Any, variables: Mapping[str, Scores]) -> Scores:
    """Return the values of a formula for all points at once, [N] or a single number."""

    def value(inner: Any) -> Scores:
        return _value(inner, variables)

    if isinstance(expression, str):
        return variables[expression]
    if isinstance(expression, int | float):
        return np.float64(expression)
    if isinstance(expression, models.SumExpression):
        return reduce(np.add, map(value, expression.sum))
    if isinstance(expression, models.MultExpression):
        return reduce(np.multiply, map(value, expression.mult))
    if isinstance(expression, models.ExpExpression):
        return np.exp(value(expression.exp))
    if isinstance(expression, models.DivExpression):
        return np.divide(value(expression.div.left), value(expression.div.right))
    raise TypeError(f"{type(expression).__name__} has no counterpart here")
