"""Soft grades for the candidates of a list, from any ranker: ours, a sentence embedder, a cross-encoder. It trains nothing.

`python -m training.teachers --lists in.jsonl --teacher rnx-mini FOLDER.. --to out.jsonl [--blend 0.25]`

Rows are those of `rnx rerank`; every candidate comes back with "grade", 0 (as good as the list's mean, or worse) to 3 (its
best). A folder with `modules.json` is a sentence-transformers embedder, one whose config names a sequence classifier a
cross-encoder; everything else is what `load_ranker` knows. With --blend below 1, grades that the rows hold make up the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.batch import read_lists
from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory, MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker, recall
from llama_index_rnx.rerank import rank
from training.data import GradedList, Row

BEST = 3.0  # the grade of a teacher's first: grades are 0 .. 3 everywhere
AT_ONCE = 100_000  # candidates a window: an embedder compares nothing between them


def standardised(scores: Tensor) -> Tensor:
    """[N] -> [N] with mean 0 and deviation 1, so that teachers with different scales can be added; all equal give 0."""
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / spread if float(spread) > 0.0 else torch.zeros_like(scores)


def ensemble(scores: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """Scores of T teachers, [T, N] -> the (weighted) mean of their standardised scores, [N]."""
    shares = torch.tensor(weights or [1.0] * len(scores))
    return (shares / shares.sum()) @ torch.stack([standardised(of) for of in scores])


def soft_grades(scores: Tensor) -> Tensor:
    """[N] -> [N]: 3 for the best, falling with its distance to the mean of the list; the mean and all below it have 0."""
    above = (scores - scores.mean()).clamp_min(0.0)
    return BEST * above / above.max().clamp_min(1e-9)


def blend(judged: Tensor, soft: Tensor, share: float) -> Tensor:
    """Judgments, softened: `share` of the teachers' view. What nobody judged has up to 3 x share instead of a flat 0."""
    return (1.0 - share) * judged + share * soft


def teacher_scores(teachers: Sequence[Ranker], of: GradedList, store: MemoryStore) -> Tensor:
    """What every teacher says of the candidates of a list, [T, N]."""
    images = of.images or (None,) * len(of.texts)
    candidates = [
        Candidate(id=docid, text=text, image=file_source(image) if image else None)
        for docid, text, image in zip(of.docids, of.texts, images, strict=True)
    ]
    return torch.stack([scored_by(teacher, store, Query(text=of.query), candidates) for teacher in teachers])


def graded(of: GradedList, scores: Tensor, share: float = 1.0, weights: Sequence[float] = ()) -> GradedList:
    """A list with the soft grades that follow from its teachers' scores [T, N]; below a share of 1 its own stay in them."""
    grades = blend(torch.tensor(of.grades), soft_grades(ensemble(scores, weights)), share)
    return replace(of, grades=tuple(grades.tolist()))


def scored_by(teacher: Ranker, store: MemoryStore, query: Query, candidates: Sequence[Candidate]) -> Tensor:
    """A teacher's scores in the order of the candidates, [N]; what does not fit one window is read in sliding ones.

    Raises:
        RNXError: a candidate cannot be read; as last with score 0 it would be a grade that nobody gave.
    """
    ranking = rank(teacher, store, query, candidates)
    if ranking.faults:
        raise RNXError(f"a list has a candidate with no text or image to grade: {next(iter(ranking.faults.values()))}")

    found = torch.zeros(len(candidates))
    found[torch.tensor(ranking.order, dtype=torch.long)] = torch.tensor(ranking.scores)
    return found


class EmbedderTeacher:
    """A sentence-transformers embedder as a ranker: a memory is a text's unit vector, a score the cosine."""

    window = AT_ONCE

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.name, self.fingerprint = folder.name, f"embedder {folder.resolve()}"
        self.model = SentenceTransformer(str(folder), device=_device(), model_kwargs={"torch_dtype": torch.bfloat16})

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, [texts, D]."""
        found = self.model.encode(list(texts), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return [{"vector": vector.half()} for vector in self.vectors([_text(one, self.name) for one in candidates])]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        asked = self.vectors([query.text])[0]
        found: list[float] = (torch.stack([memory["vector"].float() for memory in memories]) @ asked).tolist()
        return found


class CrossEncoderTeacher:
    """A sentence-transformers cross-encoder as a ranker. It reads query and text together, so a memory is the text."""

    window = AT_ONCE

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import CrossEncoder

        self.name, self.fingerprint = folder.name, f"cross-encoder {folder.resolve()}"
        self.model = CrossEncoder(str(folder), device=_device())

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return [{"text": torch.tensor(list(_text(one, self.name).encode()), dtype=torch.uint8)} for one in candidates]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        texts = [bytes(memory["text"].tolist()).decode() for memory in memories]
        found = self.model.predict([(query.text, text) for text in texts], show_progress_bar=False)
        return [float(score) for score in found]


def load_teacher(name: str) -> Ranker:
    """A folder of a sentence-transformers model, or whatever `load_ranker` knows."""
    folder = Path(name)
    if (folder / "modules.json").is_file():
        return EmbedderTeacher(folder)
    config = folder / "config.json"
    made_of = json.loads(config.read_text()).get("architectures") or [""] if config.is_file() else [""]
    return CrossEncoderTeacher(folder) if made_of[0].endswith("ForSequenceClassification") else load_ranker(name)


def remember_all(teachers: Sequence[Ranker], store: MemoryStore, candidates: Iterable[Candidate]) -> None:
    """Every candidate through every teacher once, texts of like length together: batches of one list waste padding."""
    ordered = sorted({one.digest: one for one in candidates}.values(), key=lambda one: len(one.text))
    for teacher in teachers:
        with progress_bar(f"reading as {teacher.name}", len(ordered), "candidates") as advance:
            for start in range(0, len(ordered), 512):
                recall(teacher, ordered[start : start + 512], store)
                advance(len(ordered[start : start + 512]))


def grade_rows(path: Path, teachers: Sequence[Ranker], store: MemoryStore, share: float = 1.0) -> list[Row]:
    """The rows of a file of lists with a grade for every candidate; `share` as in `blend`, 1 for the teachers alone."""
    lists, rows = read_lists(path), read_rows(path)
    remember_all(teachers, store, [candidate for one in lists for candidate in one.candidates])
    for one, row in zip(lists, rows, strict=True):
        said = torch.stack([scored_by(teacher, store, one.query, one.candidates) for teacher in teachers])  # [T, N]
        judged = torch.tensor([float(grade or 0.0) for grade in grades_of_row(row)])
        grades = blend(judged, soft_grades(ensemble(said)), share)
        for candidate, grade in zip(candidates_of_row(row), grades.tolist(), strict=True):
            candidate["grade"] = round(grade, 4)
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows as they stand, to be written again with more in them; `read_lists` says what is wrong with them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def candidates_of_row(row: Row) -> list[Row]:
    """The candidates of a row."""
    found: list[Row] = row["candidates"] if "candidates" in row else row["cands"]
    return found


def grades_of_row(row: Row) -> list[float | None]:
    """The grades that a row holds, None for a candidate without.

    Raises:
        RNXError: a grade is no number.
    """
    found = [candidate.get("grade") for candidate in candidates_of_row(row)]
    for grade in found:
        if isinstance(grade, bool) or not isinstance(grade, int | float | None):
            raise RNXError(f'list {row.get("qid")!r} has "grade": {grade!r}; it must be a number, 0 to 3, or be left out.')
    return found


def _text(candidate: Candidate, teacher: str) -> str:
    if not candidate.text:
        raise RNXError(f"candidate {candidate.id!r} has no text and {teacher} reads nothing else; give a text or a caption.")
    return candidate.text


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, required=True, help="JSONL rows as in `rnx rerank`")
    parser.add_argument("--teacher", nargs="+", required=True, help="rnx-mini, a folder, a hub id; their mean is taken")
    parser.add_argument("--to", type=Path, required=True, help="the same rows with grades")
    parser.add_argument(
        "--blend", type=float, default=1.0, help="the teachers' share of the grades; the rest is what the rows hold"
    )
    parser.add_argument("--memory", type=Path, help="a folder that keeps what the teachers read, for the next run")
    found = parser.parse_args(arguments)
    try:
        rows = grade_rows(found.lists, [load_teacher(name) for name in found.teacher], MemoryStore(found.memory), found.blend)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    found.to.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
