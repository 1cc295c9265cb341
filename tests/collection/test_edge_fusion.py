"""Channels become one ranking, in the same order each time."""

from __future__ import annotations

import math

import pytest
from fakes import FakeEmbedding
from llama_index.core.schema import TextNode
from qdrant_client import models

from llama_index_rnx import NodeCollection
from llama_index_rnx.candidates import Query
from llama_index_rnx.collection.edge.fusion import Ranking, rank

DENSE: Ranking = [("a", 0.9), ("b", 0.5), ("c", 0.1)]
WORDS: Ranking = [("b", 7.0), ("a", 3.0)]
PICTURES: Ranking = [("d", 0.3), ("a", 0.2)]
RRF = models.RrfQuery(rrf=models.Rrf(k=60))


def channel(name: str) -> models.Prefetch:
    return models.Prefetch(query=[1.0], using=name, limit=10)


def search(prefetch: models.Prefetch) -> Ranking:
    """Return the ranking of a channel."""
    assert prefetch.using is not None
    return {"dense": DENSE, "words": WORDS, "pictures": PICTURES}[prefetch.using]


def test_equal_sums_of_ranks_are_in_the_order_of_the_first_channel() -> None:
    ranking = rank([channel("words"), channel("dense")], RRF, 10, search)
    assert [name for name, _ in ranking] == ["b", "a", "c"]
    assert dict(ranking) == {"a": 1 / 61 + 1 / 60, "b": 1 / 60 + 1 / 61, "c": 1 / 62}


def test_a_fusion_is_a_channel_of_another_one() -> None:
    texts = models.Prefetch(prefetch=[channel("dense"), channel("words")], query=RRF, limit=2)
    ranking = rank([texts, channel("pictures")], RRF, 3, search)
    assert [name for name, _ in ranking] == ["a", "d", "b"]
    assert dict(ranking)["a"] == pytest.approx(1 / 60 + 1 / 61)


def test_a_formula_takes_its_defaults_where_a_point_is_not_in_a_channel() -> None:
    formula = models.SumExpression(
        sum=[
            "$score[0]",
            models.MultExpression(mult=[2.0, "$score[1]"]),
            models.DivExpression(
                div=models.DivParams(left=1.0, right=models.ExpExpression(exp="$score[1]"))
            ),
        ]
    )
    query = models.FormulaQuery(formula=formula, defaults={"$score[0]": 0.0, "$score[1]": -1.0})
    ranking = dict(rank([channel("dense"), channel("pictures")], query, 10, search))
    assert ranking["a"] == pytest.approx(0.9 + 0.4 + math.exp(-0.2))
    assert ranking["b"] == pytest.approx(0.5 - 2.0 + math.e)
    assert ranking["d"] == pytest.approx(0.6 + math.exp(-0.3))


def test_the_same_question_has_the_same_answer() -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding(), ranker=None)
    texts = ["red apple", "apple red", "red pear", "green apple", "apple", "red"]
    collection.add([TextNode(id_=text, text=text) for text in texts])
    answers = {
        tuple((hit.node_id, hit.score) for hit in collection.search(Query(text="red apple"), k=5))
        for _ in range(20)
    }
    collection.close()
    assert len(answers) == 1
