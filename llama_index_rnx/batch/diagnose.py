"""The work of `rnx doctor` and `rnx calibrate`: lists become memories, a ranker is examined on
them, its config is written. It knows no command line.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from llama_index_rnx.batch.lists import CandidateList, read_lists
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.mini import NAME as MINI
from llama_index_rnx.rankers.mini import holds_mini
from llama_index_rnx.rankers.vlm import (
    CONFIG_NAME,
    Diagnosis,
    VLMRanker,
    config_of,
    diagnose,
    fit,
    is_checkpoint_name,
    resolve_checkpoint,
)
from llama_index_rnx.ranking import Calibration, ScoringRequest, get_or_compute_memories

# The lists of a check without lists of one's own, and the candidates of each.
BUILT_IN_LISTS = 8
BUILT_IN_CANDIDATES = 10


def skip_reason(model: str) -> str | None:
    """Return in one line why `rnx doctor` does not apply to a model, or None if it does."""
    if model == MINI or holds_mini(Path(model)):
        return (
            f"{model}: candidates have no positions in rnx-mini, so the order of a list cannot "
            "mislead it."
        )
    if model.startswith(("http://", "https://")):
        return f"{model}: a service; examine its checkpoint where it runs."
    if not is_checkpoint_name(model):
        # It is no name of a checkpoint: `load_ranker` will say so.
        return None

    readout = config_of(resolve_checkpoint(model)).readout
    if readout == "pointwise":
        return (
            f"{model}: read pointwise, as its {CONFIG_NAME} says: each candidate alone, so that no "
            "order can mislead it."
        )
    if readout == "permutation":
        return f"{model}: writes orders, as its {CONFIG_NAME} says; only labels can be examined."
    return None


def diagnose_checkpoint(model: str, path: Path | None = None) -> Diagnosis:
    """Examine a checkpoint that is read by labels, on the lists of a JSONL file or on a few
    built-in ones.

    Raises:
        SettingsError: the model reads no labels, or the file holds no list of two candidates or
            more.
    """
    ranker = _load_label_ranker(model)
    lists = _lists_to_compare(read_lists(path)) if path else built_in_lists()
    return diagnose(ranker, [_request(ranker, each) for each in lists])


def calibrate(path: Path, model: str, to: Path | None = None) -> tuple[Calibration, Diagnosis]:
    """Fit a position-bias correction, and with grades temperature and offset; write them into the
    config of a folder, or into a file.

    The diagnosis is that of the calibrated model on the same lists.

    Raises:
        SettingsError: as `diagnose_checkpoint`; or the model is no folder and `to` is not given.
    """
    if to is None and not Path(model).is_dir():
        raise SettingsError(
            f"model={model!r} is no folder whose {CONFIG_NAME} could be written; name a file with "
            "--to."
        )

    config = config_of(resolve_checkpoint(model))
    ranker = _load_label_ranker(model)
    lists = _lists_to_compare(read_lists(path))
    requests = [_request(ranker, each) for each in lists]
    grades = [_grades(path, each)[: ranker.window] for each in lists]

    calibration = fit(ranker, requests, grades)
    replace(config, calibration=calibration).write(to or Path(model) / CONFIG_NAME)
    return calibration, diagnose(ranker.with_calibration(calibration), requests)


def built_in_lists() -> list[CandidateList]:
    """Return lists of the demo's notes: the title of one is the query, and its first paragraph
    stands among those of others.
    """
    folder = files("llama_index_rnx").joinpath("demo/data/notes")
    notes = sorted(folder.iterdir(), key=lambda note: note.name)

    titles: list[str] = []
    paragraphs: list[str] = []
    for note in notes:
        title, paragraph = note.read_text(encoding="utf-8").removeprefix("# ").split("\n\n")[:2]
        titles.append(title)
        paragraphs.append(paragraph)

    step = len(titles) // BUILT_IN_LISTS
    return [
        _built_in_list(titles[number * step], paragraphs, number * step)
        for number in range(BUILT_IN_LISTS)
    ]


def _built_in_list(title: str, paragraphs: Sequence[str], start: int) -> CandidateList:
    """Return a list whose candidates are the paragraphs from `start` on, the relevant one first."""
    candidates = [
        Candidate(id=str(index), text=paragraphs[(start + index) % len(paragraphs)])
        for index in range(BUILT_IN_CANDIDATES)
    ]
    return CandidateList(qid=title, query=Query(text=title), candidates=candidates)


def _load_label_ranker(model: str) -> VLMRanker:
    """Load the model with the readout by labels. Whether it should be read so is what is examined,
    so its warning about that is not shown.
    """
    reason = skip_reason(model)
    if reason is not None:
        raise SettingsError(reason)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        ranker = load_ranker(model, readout="labels")
    assert isinstance(ranker, VLMRanker)
    return ranker


def _lists_to_compare(lists: Sequence[CandidateList]) -> list[CandidateList]:
    """Return the lists of two candidates or more."""
    comparable = [each for each in lists if len(each.candidates) > 1]
    if not comparable:
        raise SettingsError(
            "the file has no list of two candidates or more; each row needs a query and its "
            "candidates."
        )
    return comparable


def _grades(path: Path, candidate_list: CandidateList) -> list[float]:
    """Return a number for each candidate, 0 where it has no grade; an empty list where none has."""
    grades = candidate_list.grades
    for grade in grades:
        if isinstance(grade, bool) or not isinstance(grade, int | float | None):
            raise SettingsError(
                f'{path}, qid {candidate_list.qid!r}: "grade" is {grade!r}; it must be a number, 0 '
                "for what is not relevant."
            )
    if all(grade is None for grade in grades):
        return []
    return [float(grade or 0) for grade in grades]


def _request(ranker: VLMRanker, candidate_list: CandidateList) -> ScoringRequest:
    """Return the query with the memories of the first candidates, as many as a window holds."""
    candidates = candidate_list.candidates[: ranker.window]
    return candidate_list.query, get_or_compute_memories(ranker, candidates, MemoryStore())
