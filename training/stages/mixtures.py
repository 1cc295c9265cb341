"""The training lists of the text part by source, how often each is drawn, and its development sets.

Held out: RAG24 dev, MEDIQA dev, 300 SciFact claims, 200 InsuranceQA training questions, 13 DL21
queries (selection); InsuranceQA valid, DL19 and mmdocir are never used to select, and DL19 and
mmdocir never to train.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.nn.functional import normalize

from training.data import (
    GradedList,
    Row,
    distilled,
    insuranceqa,
    mediqa,
    pairs,
    rag24,
    scifact_claims,
    scifact_corpus,
    trec,
)
from training.features import TextStateCache
from training.teachers import Question, Retriever, mine

DL21_HELD_OUT = 13
INSURANCE_HELD_OUT = 200
INSURANCE_TRAIN = 4_000
PAIRS = 2_000
POOL = 100  # what the text tower fetches for the ranker in training to choose its negatives from
SELECTION_LISTS = 40  # a set while training; all of them in the report


def development(cache: TextStateCache) -> dict[str, list[GradedList]]:
    """The sets that select a model."""
    _, dl21 = dl21_split()
    _, insurance = insurance_split()
    found = {
        "rag24": rag24("dev"),
        "dl21": dl21,
        "scifact": scifact_dev(cache, 100),
        "insuranceqa": insurance,
        "mediqa": mediqa("dev"),
    }
    known = {
        name: [of for of in lists if _known(cache, of)][:SELECTION_LISTS]
        for name, lists in found.items()
    }
    return {name: lists for name, lists in known.items() if lists}


def scifact_dev(cache: TextStateCache, depth: int) -> list[GradedList]:
    """300 held-out claims over the text tower's dense top `depth` of the whole corpus."""
    _, held = scifact_claims()
    return mine(
        "scifact", _questions(held), scifact_corpus(), cached_retriever(cache), depth, add=False
    )


def dl21_split() -> tuple[list[GradedList], list[GradedList]]:
    """DL21 (bm25 and splade pools) by query: training, held out."""
    lists = sorted(trec("dl21", ("bm25", "splade")), key=lambda of: of.qid)
    random.Random(0).shuffle(lists)
    held = {of.qid for of in lists[:DL21_HELD_OUT]}
    first = [of for of in trec("dl21", ("bm25",)) if of.qid in held]
    return lists[DL21_HELD_OUT:], first


def insurance_split() -> tuple[list[GradedList], list[GradedList]]:
    """InsuranceQA training questions: training (200 wrong answers each), held out."""
    lists = insuranceqa("train", INSURANCE_TRAIN + INSURANCE_HELD_OUT, 200)
    return lists[INSURANCE_HELD_OUT:], lists[:INSURANCE_HELD_OUT]


def softened(cache: TextStateCache, of: GradedList) -> GradedList:
    """A distilled list: SPLADE++'s grade and the text tower's view of it, 3 to 1; both as shares of
    the list.
    """
    scores = tower_scores(cache, of)  # [N]
    place = scores.argsort().argsort().float() / max(
        1, len(scores) - 1
    )  # [N], 1 = the tower's first
    grades = 0.75 * torch.tensor(of.grades) + 0.25 * 3.0 * place**2
    return replace(of, grades=tuple((grades - 0.5).clamp_min(0.0).tolist()))


def pair_pools(cache: TextStateCache, source: str) -> list[GradedList]:
    """Question and text pairs with the texts of the same source that the text tower finds most
    alike.
    """
    known = [
        (query, text)
        for query, text in pairs(PAIRS)[source]
        if text in cache and f"query:{query}" in cache
    ]
    questions = [
        Question(qid=f"{source}-{n}", query=query, grades={text: 2.0})
        for n, (query, text) in enumerate(known)
    ]
    corpus = {text: text for _, text in known}
    return mine(source, questions, corpus, cached_retriever(cache), POOL) if known else []


def scifact_pools(cache: TextStateCache) -> list[GradedList]:
    """The training claims over the text tower's dense top of the whole corpus, their evidence put
    in where it was missed.
    """
    claims, _ = scifact_claims()
    return mine("scifact", _questions(claims), scifact_corpus(), cached_retriever(cache), POOL)


def cached_retriever(cache: TextStateCache) -> Retriever:
    """The frozen text tower as a retriever, by what the cache holds of it."""
    return Retriever(
        queries=lambda queries: torch.stack([query_vector(cache, query) for query in queries]),
        texts=lambda texts: normalize(_vectors(cache, texts), dim=-1),
    )


def tower_scores(cache: TextStateCache, of: GradedList) -> torch.Tensor:
    """The text tower's cosine of every candidate, [N]."""
    return normalize(_vectors(cache, of.texts), dim=-1) @ query_vector(cache, of.query)


def _questions(claims: Sequence[Row]) -> list[Question]:
    return [
        Question(qid=f"scifact-{n}", query=c["claim"], grades=c["docs"])
        for n, c in enumerate(claims)
        if c["docs"]
    ]


def _known(cache: TextStateCache, of: GradedList) -> bool:
    return f"query:{of.query}" in cache and all(text in cache for text in of.texts)


def _vectors(cache: TextStateCache, texts: Sequence[str]) -> torch.Tensor:
    return torch.stack([cache[text].chunks.float().mean(0) for text in texts])  # [texts, 384]


def query_vector(cache: TextStateCache, query: str) -> torch.Tensor:
    """The text tower's unit vector of a query that was read, [384]."""
    return normalize(cache[f"query:{query}"].chunks[0].float(), dim=0)  # [384]


SOURCES: dict[str, Callable[[TextStateCache], list[GradedList]]] = {
    "rag24": lambda cache: rag24("train"),
    "dl21": lambda cache: dl21_split()[0],
    "dl22": lambda cache: [softened(cache, of) for of in distilled("dl22")],
    "mediqa": lambda cache: mediqa("train"),
    "insuranceqa": lambda cache: insurance_split()[0],
    "scifact": scifact_pools,
    "medquad": partial(pair_pools, source="medquad"),
    "boolq": partial(pair_pools, source="boolq"),
    "glossary": partial(pair_pools, source="glossary"),
}
WEIGHTS = {
    "rag24": 3.0,
    "dl21": 3.0,
    "dl22": 2.0,
    "mediqa": 1.0,
    "insuranceqa": 1.5,
    "scifact": 1.0,
    "medquad": 0.5,
    "boolq": 0.5,
    "glossary": 0.5,
}  # how often each is drawn
NEGATIVES = {
    "insuranceqa": 40,
    "scifact": 60,
    "medquad": 30,
    "boolq": 30,
    "glossary": 30,
}  # mined ones a list
