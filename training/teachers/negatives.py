"""Hard negatives: wrong candidates that the current retriever or ranker takes for right ones.

It trains nothing.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_queries
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from training.data import GradedList, read_jsonl, take
from training.evaluation import read_qrels
from training.teachers.grading import ensemble, teacher_scores
from training.teachers.models import EmbedderTeacher, load_teacher

# texts -> unit vectors [texts, D]
Encode = Callable[[Sequence[str]], Tensor]

# a list -> a ranker's scores of its candidates, [N]
Score = Callable[[GradedList], Tensor]

# Queries that are compared with all texts in one product: it bounds the matrix of similarities.
QUERY_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """Functions that give the unit vectors of queries and of texts, in one space."""

    queries: Encode
    texts: Encode


@dataclass(frozen=True, kw_only=True)
class Question:
    """A query and the grades of its judged texts by docid; every other text counts as wrong."""

    qid: str
    query: str
    grades: Mapping[str, float]


def nearest(queries: Tensor, texts: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return indices and cosines of the `depth` nearest texts of every query, [Q, depth] each.

    queries: unit vectors [Q, D], texts: unit vectors [C, D].
    """
    depth = min(depth, len(texts))
    chunks = [(chunk @ texts.T).topk(depth) for chunk in torch.split(queries, QUERY_CHUNK)]
    indices = torch.cat([chunk.indices for chunk in chunks])
    cosines = torch.cat([chunk.values for chunk in chunks])
    return indices, cosines


def mine(
    source: str,
    questions: Sequence[Question],
    corpus: Mapping[str, str],
    retriever: Retriever,
    depth: int,
    add: bool = True,
) -> list[GradedList]:
    """Return the retriever's best `depth` texts of a corpus for every question.

    With `add`, the judged texts that the retriever missed stand before them, with first score 0.
    """
    docids = list(corpus)
    query_vectors = retriever.queries([question.query for question in questions])  # [Q, D]
    text_vectors = retriever.texts([corpus[docid] for docid in docids])  # [C, D]
    indices, cosines = nearest(query_vectors, text_vectors, depth)

    lists = []
    for question, row, values in zip(questions, indices.tolist(), cosines.tolist(), strict=True):
        scores = {docids[index]: cosine for index, cosine in zip(row, values, strict=True)}
        if add:
            judged = [docid for docid in question.grades if docid in corpus]
            missed = {docid: 0.0 for docid in judged if docid not in scores}
            scores = {**missed, **scores}
        lists.append(_graded_list(source, question, scores, corpus))
    return lists


def keep_hardest(graded_list: GradedList, scores: Tensor, count: int) -> GradedList:
    """Return the right candidates and the `count` others that `scores` [N] puts first.

    The scores are those of the ranker as it now is.
    """
    grades = graded_list.grades
    relevant = [position for position, grade in enumerate(grades) if grade > 0]
    order = scores.argsort(descending=True, stable=True).tolist()
    others = [position for position in order if grades[position] <= 0]
    return take(graded_list, relevant + others[:count])


def drop_false_negatives(
    graded_list: GradedList, teacher: Tensor, margin: float = 0.0
) -> GradedList:
    """Return the list without unjudged candidates that a teacher scores like a right one.

    These are the candidates whose score [N] is not below the best right one's, less a margin. A
    candidate that was judged wrong stays, whatever the teacher's score; so does a list without any
    right candidate.
    """
    grades = graded_list.grades
    relevant = [float(teacher[position]) for position, grade in enumerate(grades) if grade > 0]
    if not relevant:
        return graded_list
    limit = max(relevant) - margin
    positions = [
        position
        for position, docid in enumerate(graded_list.docids)
        if grades[position] > 0 or docid in graded_list.judged or float(teacher[position]) < limit
    ]
    return take(graded_list, positions)


def remine(
    pools: Sequence[GradedList], ranker: Score, count: int, guard: Score | None = None
) -> list[GradedList]:
    """Return the lists of the next round of training, from deep pools.

    The guard drops false negatives first; then the `count` negatives that the ranker now puts
    highest are kept.
    """
    lists = []
    for pool in pools:
        safe = drop_false_negatives(pool, guard(pool)) if guard else pool
        lists.append(keep_hardest(safe, ranker(safe), count))
    return lists


def _graded_list(
    source: str, question: Question, scores: Mapping[str, float], corpus: Mapping[str, str]
) -> GradedList:
    return GradedList(
        source=source,
        qid=question.qid,
        query=question.query,
        docids=tuple(scores),
        texts=tuple(corpus[docid] for docid in scores),
        grades=tuple(max(0.0, question.grades.get(docid, 0.0)) for docid in scores),
        first=tuple(scores.values()),
        judged=question.grades,
    )


def load_retriever(name: str) -> Retriever:
    """Load `rnx-mini` (its text encoder) or the folder of a sentence-transformers embedder.

    Raises:
        SettingsError: the name is neither.
    """
    if name == "rnx-mini":
        return Retriever(
            queries=_encode_each(RNXEmbedding().get_query_embedding),
            texts=_encode_each(RNXEmbedding().get_text_embedding),
        )
    if not (Path(name) / "modules.json").is_file():
        raise SettingsError(
            f"--retriever is {name!r}; "
            "it must be rnx-mini or a folder of a sentence-transformers embedder."
        )
    encode = EmbedderTeacher(Path(name)).vectors
    return Retriever(queries=encode, texts=encode)


def _encode_each(embed: Callable[[str], list[float]]) -> Encode:
    return lambda texts: torch.tensor([embed(text) for text in texts])


def load_score(names: Sequence[str], store: MemoryStore) -> Score:
    """Load the rankers of these names as one function: a list -> their mean score, [N]."""
    teachers = [load_teacher(name) for name in names]
    return lambda graded_list: ensemble(teacher_scores(teachers, graded_list, store))


def read_judged_questions(queries: Path, qrels: Path) -> list[Question]:
    """Return the queries that have at least one right text in the judgments.

    Raises:
        RNXError: one of the files is not there, or is not what it must be.
    """
    grades = read_qrels(qrels)
    questions = [
        Question(
            qid=row["qid"],
            query=row["query"],
            grades={docid: float(grade) for docid, grade in grades.get(row["qid"], {}).items()},
        )
        for row in read_queries(queries)
    ]
    return [question for question in questions if any(question.grades.values())]


def mine_files(options: Namespace) -> list[GradedList]:
    """Return the lists that `python -m training.mine_negatives` writes.

    Raises:
        RNXError: a file or the name of a model does not fit.
    """
    store = MemoryStore()
    questions = read_judged_questions(options.queries, options.qrels)
    corpus = {str(row["docid"]): str(row["text"]) for row in read_jsonl(options.corpus)}
    retriever = load_retriever(options.retriever)
    pools = mine("mined", questions, corpus, retriever, max(options.pool, options.depth))

    score = load_score(options.ranker, store) if options.ranker else _first_scores
    guard = load_score(options.guard, store) if options.guard else None
    return remine(pools, score, options.depth, guard)


def _first_scores(graded_list: GradedList) -> Tensor:
    return torch.tensor(graded_list.first)
