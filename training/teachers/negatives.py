"""Hard negatives: what the current retriever or ranker takes for right and is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_queries
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from training.data import GradedList, take
from training.teachers.grading import ensemble, teacher_scores
from training.teachers.models import EmbedderTeacher, load_teacher

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
    """A query and the grades of the texts that are judged, by docid; every other text is taken for
    wrong.
    """

    qid: str
    query: str
    grades: Mapping[str, float]


def nearest(queries: Tensor, texts: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Unit vectors [Q, D], [C, D] -> places and cosines of the `depth` nearest texts of every
    query, [Q, depth] each.
    """
    depth = min(depth, len(texts))
    found = [(part @ texts.T).topk(depth) for part in torch.split(queries, QUERIES_AT_ONCE)]
    return torch.cat([top.indices for top in found]), torch.cat([top.values for top in found])


def mine(
    source: str,
    questions: Sequence[Question],
    corpus: Mapping[str, str],
    retriever: Retriever,
    depth: int,
    add: bool = True,
) -> list[GradedList]:
    """The retriever's best `depth` texts of a corpus for every question; with `add`, its judged
    texts that were missed too.
    """
    ids = list(corpus)
    asked = retriever.queries([question.query for question in questions])  # [Q, D]
    places, cosines = nearest(asked, retriever.texts([corpus[docid] for docid in ids]), depth)
    lists = []
    for question, row, values in zip(questions, places.tolist(), cosines.tolist(), strict=True):
        found = {ids[place]: cosine for place, cosine in zip(row, values, strict=True)}
        missed = {
            docid: 0.0
            for docid in question.grades
            if add and docid in corpus and docid not in found
        }
        lists.append(_graded(source, question, {**missed, **found}, corpus))
    return lists


def hardest(of: GradedList, scores: Tensor, count: int) -> GradedList:
    """The right candidates and the `count` others that `scores` [N] puts first: a list anew for the
    ranker as it now is.
    """
    right = [place for place, grade in enumerate(of.grades) if grade > 0]
    others = [
        place
        for place in scores.argsort(descending=True, stable=True).tolist()
        if of.grades[place] <= 0
    ]
    return take(of, right + others[:count])


def guarded(of: GradedList, teacher: Tensor, margin: float = 0.0) -> GradedList:
    """Without the unjudged candidates that a teacher [N] holds as good as the best right one, or
    better, less a margin.

    A candidate judged wrong stays, whatever the teacher says; so does a list without any right
    candidate.
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


def remined(
    pools: Sequence[GradedList], ranker: Score, count: int, guard: Score | None = None
) -> list[GradedList]:
    """Deep pools -> the lists of the next round of training: guarded once more, then the hardest by
    the ranker now.
    """
    safe = [guarded(pool, guard(pool)) if guard else pool for pool in pools]
    return [hardest(pool, ranker(pool), count) for pool in safe]


def _graded(
    source: str, question: Question, found: Mapping[str, float], corpus: Mapping[str, str]
) -> GradedList:
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


def load_retriever(name: str) -> Retriever:
    """`rnx-mini` (its text tower) or the folder of a sentence-transformers embedder."""
    if name == "rnx-mini":
        return Retriever(
            queries=_by(RNXEmbedding().get_query_embedding),
            texts=_by(RNXEmbedding().get_text_embedding),
        )
    if not (Path(name) / "modules.json").is_file():
        raise RNXError(
            f"--retriever is {name!r}; it must be rnx-mini or a folder of a sentence-transformers embedder."
        )
    encode = EmbedderTeacher(Path(name)).vectors
    return Retriever(queries=encode, texts=encode)


def _by(embed: Callable[[str], list[float]]) -> Encode:
    return lambda texts: torch.tensor([embed(text) for text in texts])


def load_score(names: Sequence[str], store: MemoryStore) -> Score:
    """The mean of what the named rankers say, as one function of a list."""
    teachers = [load_teacher(name) for name in names]
    return lambda of: ensemble(teacher_scores(teachers, of, store))


def read_judged_questions(queries: Path, qrels: Path) -> list[Question]:
    """Queries that have at least one right text in the qrels."""
    grades: dict[str, dict[str, float]] = {}
    for number, line in enumerate(qrels.read_text(encoding="utf-8").splitlines(), 1):
        columns = line.split()
        if len(columns) != 4:
            raise RNXError(
                f"{qrels}, line {number}: got {line!r}; four columns are allowed: qid 0 docid grade."
            )
        grades.setdefault(columns[0], {})[columns[2]] = float(columns[3])
    asked = [(row["qid"], row["query"]) for row in read_queries(queries)]
    found = [Question(qid=qid, query=text, grades=grades.get(qid, {})) for qid, text in asked]
    return [question for question in found if any(grade > 0 for grade in question.grades.values())]
