"""Text datasets as graded lists. It knows no model."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from llama_index_rnx.pdf import read_pages
from training.data.files import DataFolder
from training.data.graded_list import GradedList
from training.data.jsonl import Row

# A pair of a query and its text.
Pair = tuple[str, str]


def trec(folder: DataFolder, name: str, runs: Iterable[str]) -> list[GradedList]:
    """Return TREC deep learning lists: the union of the runs' candidates, in the order of the runs.

    Unjudged candidates have grade 0; a query without any relevant judgment is left out. DL22 has
    no judgments: its grades are distilled, see `distilled`.
    """
    qrels = _read_qrels(folder.file(f"trec/{name}.qrels"))
    pools: dict[str, Row] = {}
    for run in runs:
        for row in folder.rows(f"trec/{name}.{run}.jsonl.gz"):
            pool = pools.setdefault(row["qid"], {"query": row["query"], "texts": {}, "first": {}})
            for candidate in row["candidates"]:
                pool["texts"].setdefault(candidate["docid"], candidate["text"])
                pool["first"].setdefault(candidate["docid"], candidate["score"])
    return [
        _pool_to_list(name, qid, pool, qrels[qid]) for qid, pool in pools.items() if qid in qrels
    ]


def distilled(folder: DataFolder, name: str) -> list[GradedList]:
    """Return lists without judgments: grades 3 to 0 fall with SPLADE++'s score.

    A BM25 candidate that SPLADE++ has not in its top 100 gets grade 0.
    """
    lists = []
    lexical = {row["qid"]: row for row in folder.rows(f"trec/{name}.bm25.jsonl.gz")}
    for row in folder.rows(f"trec/{name}.splade.jsonl.gz"):
        candidates = row["candidates"]
        best = candidates[0]["score"]
        worst = candidates[-1]["score"]
        texts = {}
        grades = {}
        for candidate in candidates:
            texts[candidate["docid"]] = candidate["text"]
            grades[candidate["docid"]] = 3 * (candidate["score"] - worst) / (best - worst + 1e-9)

        for candidate in lexical.get(row["qid"], {"candidates": []})["candidates"]:
            texts.setdefault(candidate["docid"], candidate["text"])
            grades.setdefault(candidate["docid"], 0.0)
        lists.append(
            _graded_list(name, row["qid"], row["query"], texts, texts.values(), grades.values())
        )
    return lists


def rag24(folder: DataFolder, split: str) -> list[GradedList]:
    """Return TREC RAG 2024: 20 segments a topic, graded 0 to 3 by UMBRELA.

    The order in the file is the first stage's order.
    """
    lists = []
    for row in folder.rows(f"rag24/{split}.jsonl.gz"):
        candidates = [candidate for candidate in row["cands"] if candidate["umbrela"] is not None]
        lists.append(
            _graded_list(
                "rag24",
                row["qid"],
                row["query"],
                [candidate["id"] for candidate in candidates],
                [candidate["text"] for candidate in candidates],
                [float(candidate["umbrela"]) for candidate in candidates],
                [-float(rank) for rank in range(len(candidates))],
            )
        )
    return lists


def mediqa(folder: DataFolder, split: str) -> list[GradedList]:
    """Return MEDIQA 2019: up to 10 answers a question, graded 1 to 4 in the data and 0 to 3 here.

    The first stage's order is the rank in the data.
    """
    lists = []
    for row in folder.rows(f"mediqa/{split}.jsonl.gz"):
        answers = row["answers"]
        lists.append(
            _graded_list(
                "mediqa",
                row["qid"],
                row["question"],
                [f"{row['qid']}-{position}" for position in range(len(answers))],
                [answer["text"] for answer in answers],
                [answer["grade"] - 1.0 for answer in answers],
                [-float(answer["system_rank"]) for answer in answers],
            )
        )
    return lists


def insuranceqa(
    folder: DataFolder, split: str, limit: int, negatives: int, seed: int = 0
) -> list[GradedList]:
    """Return `limit` questions with their right answers (grade 2) and wrong ones (grade 0).

    The data name 200 wrong answers a question; `negatives` of them are sampled.
    """
    answers = {row["id"]: row["text"] for row in folder.rows("insuranceqa/answers.jsonl.gz")}
    questions = list(folder.rows(f"insuranceqa/{split}.jsonl.gz"))
    lists = []
    for row in random.Random(seed).sample(questions, limit):
        pool = [docid for docid in row["neg200"] if docid not in row["pos"]]
        rng = random.Random(f"{seed}-{row['qid']}")
        docids = [*row["pos"], *rng.sample(pool, min(negatives, len(pool)))]
        lists.append(
            _graded_list(
                "insuranceqa",
                row["qid"],
                row["query"],
                docids,
                [answers[docid] for docid in docids],
                [2.0 * (docid in row["pos"]) for docid in docids],
            )
        )
    return lists


def scifact_claims(folder: DataFolder) -> tuple[list[Row], list[Row]]:
    """Return (training claims, 300 held-out claims): {"id", "claim", "docs": graded documents}.

    Evidence documents have grade 2, and cited documents of a claim without evidence too (as in
    BEIR).
    """
    claims: dict[str, Row] = {}
    for row in folder.rows("scifact/claims_train.jsonl.gz"):
        claim = claims.setdefault(row["id"], {"id": row["id"], "claim": row["claim"], "docs": {}})
        claim["docs"].update(dict.fromkeys(re.findall(r"\d+", row["cited_doc_ids"]), 2.0))

    ids = sorted(claims, key=int)
    random.Random(0).shuffle(ids)
    training = [claims[claim_id] for claim_id in ids[300:]]
    held_out = [claims[claim_id] for claim_id in ids[:300]]
    return training, held_out


def scifact_corpus(folder: DataFolder) -> dict[str, str]:
    """Return docid -> title and abstract."""
    corpus = {}
    for row in folder.rows("scifact/corpus.jsonl.gz"):
        sentences = " ".join(
            line.strip().strip("[]").strip("'\"") for line in row["abstract"].splitlines()
        )
        corpus[str(row["doc_id"])] = f"{row['title']} {sentences}"
    return corpus


def mmdocir(folder: DataFolder) -> list[GradedList]:
    """Return questions over the pages of one document each; the answering pages have grade 1.

    The texts are the text layers of the pages; page ids count from 0. These lists give a
    development score only: never train on them.
    """
    lists = []
    for row in folder.rows("mmdocir/questions.jsonl.gz"):
        name = row["doc_name"]
        pages = page_texts(folder.path / "mmdocir" / "pdfs" / name)
        docids = [f"{name}#{page}" for page in range(len(pages))]
        for number, question in enumerate(row["questions"]):
            grades = [float(page in question["page_id"]) for page in range(len(pages))]
            lists.append(
                _graded_list("mmdocir", f"{name}-{number}", question["Q"], docids, pages, grades)
            )
    return lists


def page_texts(path: Path) -> list[str]:
    """Return the text layer of every page of a PDF, with white space folded."""
    return [" ".join(page.text.split()) for page in read_pages(path)]


def query_text_pairs(folder: DataFolder, limit: int, seed: int = 0) -> dict[str, list[Pair]]:
    """Return `limit` pairs (query, its text) of medquad, boolq and OpenStax' glossary each."""
    pairs = {
        "medquad": [
            (row["question"], row["answer"][:3000]) for row in folder.rows("medquad.jsonl.gz")
        ],
        "boolq": [(row["query"], row["passage"]) for row in folder.rows("boolq.jsonl.gz")],
        "glossary": [
            (f"what is {row['term']}", row["definition"])
            for row in folder.rows("openstax/glossary.jsonl.gz")
        ],
    }
    rng = random.Random(seed)
    return {source: rng.sample(source_pairs, limit) for source, source_pairs in pairs.items()}


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """Return the grades of every query that has a relevant document."""
    qrels: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        qid, _, docid, grade = line.split()
        qrels.setdefault(qid, {})[docid] = float(grade)
    return {qid: grades for qid, grades in qrels.items() if max(grades.values()) > 0}


def _pool_to_list(name: str, qid: str, pool: Row, judged: dict[str, float]) -> GradedList:
    docids = list(pool["texts"])
    graded_list = _graded_list(
        name,
        qid,
        pool["query"],
        docids,
        pool["texts"].values(),
        [max(0.0, judged.get(docid, 0.0)) for docid in docids],
        pool["first"].values(),
    )
    return replace(graded_list, judged=judged)


def _graded_list(
    source: str,
    qid: str,
    query: str,
    docids: Iterable[str],
    texts: Iterable[str],
    grades: Iterable[float],
    first: Iterable[float] = (),
) -> GradedList:
    return GradedList(
        source=source,
        qid=qid,
        query=query,
        docids=tuple(docids),
        texts=tuple(texts),
        grades=tuple(grades),
        first=tuple(first),
    )
