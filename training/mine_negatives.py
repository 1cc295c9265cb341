"""Hard negatives: texts that the current retriever, or the current ranker, takes for right and that are not. Trains nothing.

`python -m training.mine_negatives --queries q.jsonl --qrels QRELS --corpus texts.jsonl --to lists.jsonl \\
    [--retriever rnx-mini|FOLDER] [--pool 200 --ranker rnx-mini] [--guard TEACHER..] [--depth 40]`

Rows: queries {"qid","query"}, corpus {"docid","text"}, qrels as TREC writes them (`qid 0 docid grade`). With a ranker, the
retriever's `pool` best are read by it and its own `depth` best wrong ones are kept: mined anew after every round of
training, they follow the ranker as it gets better (ANCE, arXiv 2007.00808). A guard drops what a teacher holds to be as
good as the right text, because in pairs nobody judged the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_queries
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from training.data import GradedList, rows, take
from training.teachers import EmbedderTeacher, ensemble, load_teacher, teacher_scores

Encode = Callable[[Sequence[str]], Tensor]  # texts -> unit vectors [texts, D]
Score = Callable[[GradedList], Tensor]  # a list -> what a ranker says of its candidates, [N]

QUERIES_AT_ONCE = 256  # bounds the matrix of similarities


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """Unit vectors of queries and of texts, in one space."""

    queries: Encode
    texts: Encode


@dataclass(frozen=True, kw_only=True)
class Question:
    """A query and the grades of the texts that are judged, by docid; every other text is taken for wrong."""

    qid: str
    query: str
    grades: Mapping[str, float]


def nearest(queries: Tensor, texts: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Unit vectors [Q, D], [C, D] -> places and cosines of the `depth` nearest texts of every query, [Q, depth] each."""
    depth = min(depth, len(texts))
    found = [(part @ texts.T).topk(depth) for part in torch.split(queries, QUERIES_AT_ONCE)]
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def mine(
    source: str, questions: Sequence[Question], corpus: Mapping[str, str], retriever: Retriever, depth: int, add: bool = True
) -> list[GradedList]:
    """The retriever's best `depth` texts of a corpus for every question; with `add`, its judged texts that were missed too."""
    ids = list(corpus)
    asked = retriever.queries([question.query for question in questions])  # [Q, D]
    places, cosines = nearest(asked, retriever.texts([corpus[docid] for docid in ids]), depth)
    lists = []
    for question, row, values in zip(questions, places.tolist(), cosines.tolist(), strict=True):
        found = {ids[place]: cosine for place, cosine in zip(row, values, strict=True)}
        missed = {docid: 0.0 for docid in question.grades if add and docid in corpus and docid not in found}
        lists.append(_graded(source, question, {**missed, **found}, corpus))
    return lists


def hardest(of: GradedList, scores: Tensor, count: int) -> GradedList:
    """The right candidates and the `count` others that `scores` [N] puts first: a list anew for the ranker as it now is."""
    right = [place for place, grade in enumerate(of.grades) if grade > 0]
    others = [place for place in scores.argsort(descending=True, stable=True).tolist() if of.grades[place] <= 0]
    return take(of, right + others[:count])


def guarded(of: GradedList, teacher: Tensor, margin: float = 0.0) -> GradedList:
    """Without the unjudged candidates that a teacher [N] holds as good as the best right one, or better, less a margin.

    A candidate judged wrong stays, whatever the teacher says; so does a list without any right candidate.
    """
    right = [float(teacher[place]) for place, grade in enumerate(of.grades) if grade > 0]
    if not right:
        return of
    limit = max(right) - margin
    kept = [
        place
        for place, docid in enumerate(of.docids)
        if of.grades[place] > 0 or docid in of.judged or float(teacher[place]) < limit
    ]
    return take(of, kept)


def remined(pools: Sequence[GradedList], ranker: Score, count: int, guard: Score | None = None) -> list[GradedList]:
    """Deep pools -> the lists of the next round of training: guarded once more, then the hardest by the ranker now."""
    safe = [guarded(pool, guard(pool)) if guard else pool for pool in pools]
    return [hardest(pool, ranker(pool), count) for pool in safe]


def _graded(source: str, question: Question, found: Mapping[str, float], corpus: Mapping[str, str]) -> GradedList:
    return GradedList(
        source=source,
        qid=question.qid,
        query=question.query,
        docids=tuple(found),
        texts=tuple(corpus[docid] for docid in found),
        grades=tuple(max(0.0, question.grades.get(docid, 0.0)) for docid in found),
        first=tuple(found.values()),
        judged=question.grades,
    )


def write_lists(path: Path, lists: Sequence[GradedList]) -> None:
    """JSONL rows as in `rnx rerank`, with grades."""
    with path.open("w", encoding="utf-8") as file:
        for of in lists:
            row = {"qid": of.qid, "query": of.query, "candidates": _rows_of(of)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows_of(of: GradedList) -> list[dict[str, object]]:
    """A row for each candidate, with its picture and its first score where there are any."""
    found: list[dict[str, object]] = []
    for place, (docid, text, grade) in enumerate(zip(of.docids, of.texts, of.grades, strict=True)):
        picture = of.images[place] if of.images else None
        extra = {} if picture is None else {"image": str(picture)}
        score = {"score": of.first[place]} if of.first else {}
        found.append({"docid": docid, "text": text, **extra, **score, "grade": grade})
    return found


def load_retriever(name: str) -> Retriever:
    """`rnx-mini` (its text tower) or the folder of a sentence-transformers embedder."""
    if name == "rnx-mini":
        return Retriever(queries=_by(RNXEmbedding().get_query_embedding), texts=_by(RNXEmbedding().get_text_embedding))
    if not (Path(name) / "modules.json").is_file():
        raise RNXError(f"--retriever is {name!r}; it must be rnx-mini or a folder of a sentence-transformers embedder.")
    encode = EmbedderTeacher(Path(name)).vectors
    return Retriever(queries=encode, texts=encode)


def _by(embed: Callable[[str], list[float]]) -> Encode:
    return lambda texts: torch.tensor([embed(text) for text in texts])


def load_score(names: Sequence[str], store: MemoryStore) -> Score:
    """The mean of what the named rankers say, as one function of a list."""
    teachers = [load_teacher(name) for name in names]
    return lambda of: ensemble(teacher_scores(teachers, of, store))


def read_questions(queries: Path, qrels: Path) -> list[Question]:
    """Queries that have at least one right text in the qrels."""
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(qrels.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        if len(columns) != 4:
            raise RNXError(f"{qrels}, line {number}: got {line!r}; four columns are allowed: qid 0 docid grade.")
        grades.setdefault(columns[0], {})[columns[2]] = float(columns[3])
    asked = [(row["qid"], row["query"]) for row in read_queries(queries)]
    found = [Question(qid=qid, query=text, grades=grades.get(qid, {})) for qid, text in asked]
    return [question for question in found if any(grade > 0 for grade in question.grades.values())]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("queries", "qrels", "corpus", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--retriever", default="rnx-mini")
    parser.add_argument("--ranker", nargs="*", default=[], help="rnx-mini or a folder: keep what it puts first")
    parser.add_argument("--pool", type=int, default=200, help="what the retriever fetches for the ranker")
    parser.add_argument("--guard", nargs="*", default=[], help="teachers that drop what is as good as the right text")
    parser.add_argument("--depth", type=int, default=40, help="negatives a list")
    found = parser.parse_args(arguments)
    store = MemoryStore()
    try:
        questions = read_questions(found.queries, found.qrels)
        corpus = {str(row["docid"]): str(row["text"]) for row in rows(found.corpus)}
        pools = mine("mined", questions, corpus, load_retriever(found.retriever), max(found.pool, found.depth))
        ranker = load_score(found.ranker, store) if found.ranker else lambda of: torch.tensor(of.first)
        lists = remined(pools, ranker, found.depth, load_score(found.guard, store) if found.guard else None)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    write_lists(found.to, lists)
    print(f"{len(lists)} lists, {sum(len(of.texts) for of in lists) / max(1, len(lists)):.1f} candidates each -> {found.to}")


if __name__ == "__main__":
    main()
