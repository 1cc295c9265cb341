"""Text datasets as graded lists. It knows no model."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_rnx.pdf import read_pages
from training.data.files import Row, _read, data_folder, rows
from training.data.graded_list import GradedList


def trec(name: str, runs: Sequence[str]) -> list[GradedList]:
    """TREC deep learning lists: the union of runs, first come first. Unjudged candidates have grade
    0; a query without any relevant judgment is left out. DL22 has no judgments: its grades are
    distilled, see `distilled`."""
    folder = data_folder() / "trec"
    grades = _qrels(folder / f"{name}.qrels")
    pools: dict[str, Row] = {}
    for run in runs:
        for row in rows(folder / f"{name}.{run}.jsonl.gz"):
            pool = pools.setdefault(row["qid"], {"query": row["query"], "texts": {}, "first": {}})
            for candidate in row["candidates"]:
                pool["texts"].setdefault(candidate["docid"], candidate["text"])
                pool["first"].setdefault(candidate["docid"], candidate["score"])
    return [
        _pool_to_list(name, qid, pool, grades.get(qid, {}))
        for qid, pool in pools.items()
        if qid in grades
    ]


def distilled(name: str) -> list[GradedList]:
    """Lists without judgments: grade 3 .. 0 falls with SPLADE++'s score; what it did not find in
    its top 100 has 0.
    """
    folder = data_folder() / "trec"
    lists = []
    lexical = {row["qid"]: row for row in rows(folder / f"{name}.bm25.jsonl.gz")}
    for row in rows(folder / f"{name}.splade.jsonl.gz"):
        best, worst = row["candidates"][0]["score"], row["candidates"][-1]["score"]
        found = {
            c["docid"]: (c["text"], 3 * (c["score"] - worst) / (best - worst + 1e-9))
            for c in row["candidates"]
        }
        for candidate in lexical.get(row["qid"], {"candidates": []})["candidates"]:
            found.setdefault(candidate["docid"], (candidate["text"], 0.0))
        texts, grades = zip(*found.values(), strict=True)
        lists.append(_make(name, row["qid"], row["query"], tuple(found), texts, grades))
    return lists


def rag24(split: str) -> list[GradedList]:
    """TREC RAG 2024: 20 segments a topic, graded 0..3 by UMBRELA; the given order is the first
    order.
    """
    lists = []
    for row in rows(data_folder() / "rag24" / f"{split}.jsonl.gz"):
        found = [c for c in row["cands"] if c["umbrela"] is not None]
        ids, texts, grades = zip(
            *((c["id"], c["text"], float(c["umbrela"])) for c in found), strict=True
        )
        first = tuple(-float(rank) for rank in range(len(ids)))
        lists.append(_make("rag24", row["qid"], row["query"], ids, texts, grades, first))
    return lists


def mediqa(split: str) -> list[GradedList]:
    """MEDIQA 2019: up to 10 answers a question, graded 1..4 (here 0..3), with the rank of the first
    stage.
    """
    lists = []
    for row in rows(data_folder() / "mediqa" / f"{split}.jsonl.gz"):
        texts, grades, ranks = zip(
            *((a["text"], a["grade"] - 1.0, -float(a["system_rank"])) for a in row["answers"]),
            strict=True,
        )
        ids = tuple(f"{row['qid']}-{place}" for place in range(len(texts)))
        lists.append(_make("mediqa", row["qid"], row["question"], ids, texts, grades, ranks))
    return lists


def insuranceqa(split: str, limit: int, negatives: int, seed: int = 0) -> list[GradedList]:
    """Questions with their right answers (grade 2) and `negatives` of the 200 wrong ones that the
    data name.
    """
    folder = data_folder() / "insuranceqa"
    answers = {row["id"]: row["text"] for row in rows(folder / "answers.jsonl.gz")}
    chosen = random.Random(seed).sample(list(rows(folder / f"{split}.jsonl.gz")), limit)
    lists = []
    for row in chosen:
        wrong = [docid for docid in row["neg200"] if docid not in row["pos"]]
        ids = [
            *row["pos"],
            *random.Random(f"{seed}-{row['qid']}").sample(wrong, min(negatives, len(wrong))),
        ]
        grades = [2.0 * (docid in row["pos"]) for docid in ids]
        lists.append(
            _make("insuranceqa", row["qid"], row["query"], ids, [answers[i] for i in ids], grades)
        )
    return lists


def scifact_claims() -> tuple[list[Row], list[Row]]:
    """(training claims, held-out claims): {"id", "claim", "docs": graded documents}; 300 claims
    held out by their id.

    Evidence documents have grade 2, and cited documents of a claim without evidence too (as in
    BEIR).
    """
    claims: dict[str, Row] = {}
    for row in rows(data_folder() / "scifact" / "claims_train.jsonl.gz"):
        claim = claims.setdefault(row["id"], {"id": row["id"], "claim": row["claim"], "docs": {}})
        claim["docs"].update(dict.fromkeys(re.findall(r"\d+", row["cited_doc_ids"]), 2.0))
    ids = sorted(claims, key=int)
    random.Random(0).shuffle(ids)
    return [claims[i] for i in ids[300:]], [claims[i] for i in ids[:300]]


def scifact_corpus() -> dict[str, str]:
    """docid -> title and abstract."""
    corpus = {}
    for row in rows(data_folder() / "scifact" / "corpus.jsonl.gz"):
        sentences = " ".join(
            line.strip().strip("[]").strip("'\"") for line in row["abstract"].splitlines()
        )
        corpus[str(row["doc_id"])] = f"{row['title']} {sentences}"
    return corpus


def mmdocir() -> list[GradedList]:
    """Questions over the pages of one document each (their text layers); the answering pages have
    grade 1.

    Page ids count from 0. A development score only: never train on it.
    """
    folder = data_folder() / "mmdocir"
    lists = []
    for row in rows(folder / "questions.jsonl.gz"):
        pages = page_texts(folder / "pdfs" / row["doc_name"])
        ids = tuple(f"{row['doc_name']}#{page}" for page in range(len(pages)))
        for number, question in enumerate(row["questions"]):
            grades = [float(page in question["page_id"]) for page in range(len(pages))]
            lists.append(
                _make("mmdocir", f"{row['doc_name']}-{number}", question["Q"], ids, pages, grades)
            )
    return lists


def page_texts(path: Path) -> list[str]:
    """The text layer of every page of a PDF, white space folded."""
    return [" ".join(page.text.split()) for page in read_pages(path)]


def pairs(limit: int, seed: int = 0) -> dict[str, list[tuple[str, str]]]:
    """(query, its text) by source: medquad, boolq and OpenStax' glossary, `limit` of each."""
    folder, chance = data_folder(), random.Random(seed)
    medquad = [(row["question"], row["answer"][:3000]) for row in rows(folder / "medquad.jsonl.gz")]
    boolq = [(row["query"], row["passage"]) for row in rows(folder / "boolq.jsonl.gz")]
    terms = list(rows(folder / "openstax" / "glossary.jsonl.gz"))
    glossary = [(f"what is {row['term']}", row["definition"]) for row in terms]
    return {
        name: chance.sample(found, limit)
        for name, found in zip(
            ("medquad", "boolq", "glossary"), (medquad, boolq, glossary), strict=True
        )
    }


def _qrels(path: Path) -> dict[str, dict[str, float]]:
    grades: dict[str, dict[str, float]] = {}
    _read.add(path)
    for line in path.read_text().splitlines():
        qid, _, docid, grade = line.split()
        grades.setdefault(qid, {})[docid] = float(grade)
    return {qid: of for qid, of in grades.items() if max(of.values()) > 0}


def _pool_to_list(name: str, qid: str, pool: Row, grades: dict[str, float]) -> GradedList:
    ids = tuple(pool["texts"])
    found = [max(0.0, grades.get(docid, 0.0)) for docid in ids]
    made = _make(
        name, qid, pool["query"], ids, pool["texts"].values(), found, pool["first"].values()
    )
    return replace(made, judged=grades)


def _make(
    source: str, qid: str, query: str, ids: Any, texts: Any, grades: Any, first: Any = ()
) -> GradedList:
    return GradedList(
        source=source,
        qid=qid,
        query=query,
        docids=tuple(ids),
        texts=tuple(texts),
        grades=tuple(grades),
        first=tuple(first),
    )
