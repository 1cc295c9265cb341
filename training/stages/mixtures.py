"""The training lists of the text part by source, how often each is drawn, and its development sets.

Held out: RAG24 dev, MEDIQA dev, 300 SciFact claims, 200 InsuranceQA training questions, 13 DL21
queries (selection). InsuranceQA valid, DL19 and mmdocir never select; DL19 and mmdocir never train.
It knows no learner.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.data import (
    DataFolder,
    GradedList,
    Row,
    distilled,
    insuranceqa,
    mediqa,
    query_text_pairs,
    rag24,
    scifact_claims,
    scifact_corpus,
    take,
    trec,
)
from training.features import QUERY_PREFIX, TextStateCache
from training.teachers import Question, Retriever, mine

DL21_HELD_OUT = 13
INSURANCE_HELD_OUT = 200
INSURANCE_TRAIN = 4_000

# Question and text pairs of a source.
PAIRS = 2_000

# Texts a question that the text encoder fetches, for the ranker in training to choose from.
POOL = 100

# Lists a development set while training; the report has all of them.
SELECTION_LISTS = 40

# Of a distilled list, this share of the grade is the text encoder's view.
ENCODER_SHARE = 0.25

# In lists that are written for vision-language models: questions of InsuranceQA, and answers each
# of about 200 (the right ones first, then wrong ones at random).
WRITTEN_INSURANCE_LISTS = 1_000
WRITTEN_INSURANCE_ANSWERS = 60


def selection_sets(folder: DataFolder, cache: TextStateCache) -> dict[str, list[GradedList]]:
    """Return the development sets that select a model; those with no cached list are left out."""
    _, dl21 = dl21_split(folder)
    _, insurance = insurance_split(folder)
    sets = {
        "rag24": rag24(folder, "dev"),
        "dl21": dl21,
        "scifact": scifact_dev(folder, cache, 100),
        "insuranceqa": insurance,
        "mediqa": mediqa(folder, "dev"),
    }
    cached = {
        name: [graded_list for graded_list in lists if is_cached(cache, graded_list)]
        for name, lists in sets.items()
    }
    return {name: lists[:SELECTION_LISTS] for name, lists in cached.items() if lists}


def scifact_dev(folder: DataFolder, cache: TextStateCache, depth: int) -> list[GradedList]:
    """Return 300 held-out claims over the text encoder's top `depth` of the whole corpus."""
    _, held_out = scifact_claims(folder)
    retriever = cached_retriever(cache)
    questions = _questions(held_out)
    return mine("scifact", questions, scifact_corpus(folder), retriever, depth, add=False)


def dl21_split(folder: DataFolder) -> tuple[list[GradedList], list[GradedList]]:
    """Return (training, held out) of DL21 by query.

    Training lists pool BM25 and SPLADE; held-out lists are BM25's alone.
    """
    lists = sorted(trec(folder, "dl21", ("bm25", "splade")), key=lambda pooled: pooled.qid)
    random.Random(0).shuffle(lists)
    qids = {pooled.qid for pooled in lists[:DL21_HELD_OUT]}
    held_out = [lexical for lexical in trec(folder, "dl21", ("bm25",)) if lexical.qid in qids]
    return lists[DL21_HELD_OUT:], held_out


def insurance_split(folder: DataFolder) -> tuple[list[GradedList], list[GradedList]]:
    """Return (training, held out) of InsuranceQA's training questions, 200 wrong answers each."""
    lists = insuranceqa(folder, "train", INSURANCE_TRAIN + INSURANCE_HELD_OUT, 200)
    return lists[INSURANCE_HELD_OUT:], lists[:INSURANCE_HELD_OUT]


def soften(cache: TextStateCache, graded_list: GradedList) -> GradedList:
    """Return a distilled list with grades that are SPLADE++'s and the text encoder's, 3 to 1.

    The encoder's view of a candidate is the square of its rank's share of the list.
    """
    scores = encoder_scores(cache, graded_list)  # [N]
    # The encoder's first candidate has 1, its last one 0.
    rank_shares = scores.argsort().argsort().float() / max(1, len(scores) - 1)  # [N]
    splade = (1.0 - ENCODER_SHARE) * torch.tensor(graded_list.grades)
    grades = splade + ENCODER_SHARE * 3.0 * rank_shares**2
    return replace(graded_list, grades=tuple((grades - 0.5).clamp_min(0.0).tolist()))


def pair_pools(folder: DataFolder, cache: TextStateCache, source: str) -> list[GradedList]:
    """Return question and text pairs with the most similar texts of the same source."""
    pairs = [
        (query, text)
        for query, text in query_text_pairs(folder, PAIRS)[source]
        if text in cache and f"{QUERY_PREFIX}{query}" in cache
    ]
    if not pairs:
        return []
    questions = [
        Question(qid=f"{source}-{number}", query=query, grades={text: 2.0})
        for number, (query, text) in enumerate(pairs)
    ]
    corpus = {text: text for _, text in pairs}
    return mine(source, questions, corpus, cached_retriever(cache), POOL)


def scifact_pools(folder: DataFolder, cache: TextStateCache) -> list[GradedList]:
    """Return the training claims over the text encoder's top of the whole corpus.

    Evidence that the encoder missed is added.
    """
    claims, _ = scifact_claims(folder)
    retriever = cached_retriever(cache)
    return mine("scifact", _questions(claims), scifact_corpus(folder), retriever, POOL)


def cached_retriever(cache: TextStateCache) -> Retriever:
    """Return the frozen text encoder as a retriever, by the vectors in the cache."""
    return Retriever(
        queries=lambda queries: torch.stack([query_vector(cache, query) for query in queries]),
        texts=lambda texts: normalize(_text_vectors(cache, texts), dim=-1),
    )


def encoder_scores(cache: TextStateCache, graded_list: GradedList) -> Tensor:
    """Return the text encoder's cosine of every candidate, [N]."""
    texts = normalize(_text_vectors(cache, graded_list.texts), dim=-1)
    return texts @ query_vector(cache, graded_list.query)


def query_vector(cache: TextStateCache, query: str) -> Tensor:
    """Return the text encoder's unit vector of a cached query, [384]."""
    return normalize(cache[f"{QUERY_PREFIX}{query}"].chunks[0].float(), dim=0)


def is_cached(cache: TextStateCache, graded_list: GradedList) -> bool:
    """Whether the cache holds the query and every text of a list."""
    has_texts = all(text in cache for text in graded_list.texts)
    return has_texts and f"{QUERY_PREFIX}{graded_list.query}" in cache


def _text_vectors(cache: TextStateCache, texts: Sequence[str]) -> Tensor:
    return torch.stack([cache[text].chunks.float().mean(0) for text in texts])  # [texts, 384]


def _questions(claims: Sequence[Row]) -> list[Question]:
    return [
        Question(qid=f"scifact-{number}", query=claim["claim"], grades=claim["docs"])
        for number, claim in enumerate(claims)
        if claim["docs"]
    ]


def _first(graded_list: GradedList, count: int) -> GradedList:
    return take(graded_list, range(min(count, len(graded_list.docids))))


def _written_insurance_lists(folder: DataFolder) -> list[GradedList]:
    training, _ = insurance_split(folder)
    return [
        _first(graded_list, WRITTEN_INSURANCE_ANSWERS)
        for graded_list in training[:WRITTEN_INSURANCE_LISTS]
    ]


# The training lists of every source.
SOURCES: dict[str, Callable[[DataFolder, TextStateCache], list[GradedList]]] = {
    "rag24": lambda folder, cache: rag24(folder, "train"),
    "dl21": lambda folder, cache: dl21_split(folder)[0],
    "dl22": lambda folder, cache: [soften(cache, lists) for lists in distilled(folder, "dl22")],
    "mediqa": lambda folder, cache: mediqa(folder, "train"),
    "insuranceqa": lambda folder, cache: insurance_split(folder)[0],
    "scifact": scifact_pools,
    "medquad": partial(pair_pools, source="medquad"),
    "boolq": partial(pair_pools, source="boolq"),
    "glossary": partial(pair_pools, source="glossary"),
}

# How often each source is drawn.
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
}

# How many mined negatives a list has, by source; the lists of other sources are read as they are.
NEGATIVES = {
    "insuranceqa": 40,
    "scifact": 60,
    "medquad": 30,
    "boolq": 30,
    "glossary": 30,
}

# The lists that `training.write_lists` writes; names that end in -dev select weights.
WRITTEN_LISTS: dict[str, Callable[[DataFolder], Sequence[GradedList]]] = {
    "rag24": lambda folder: rag24(folder, "train"),
    "dl21": lambda folder: dl21_split(folder)[0],
    "dl22": lambda folder: distilled(folder, "dl22"),
    "mediqa": lambda folder: mediqa(folder, "train"),
    "insuranceqa": _written_insurance_lists,
    "rag24-dev": lambda folder: rag24(folder, "dev"),
    "dl21-dev": lambda folder: dl21_split(folder)[1],
    "dl19": lambda folder: trec(folder, "dl19", ("bm25",)),
    "dl19-top20": lambda folder: [_first(lists, 20) for lists in trec(folder, "dl19", ("bm25",))],
}
