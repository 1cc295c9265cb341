"""What `rnx doctor` and `rnx calibrate` do: lists become memories, a ranker is examined on them,
its recipe is written.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from llama_index_rnx.batch.lists import CandidateList, read_lists
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
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

BUILT_IN, LENGTH = 8, 10  # lists for a check without lists of one's own, and their candidates


def skip_reason(model: str) -> str | None:
    """Why a model needs no examination, in a line; None for one that may be read by labels."""
    if model == MINI or holds_mini(Path(model)):
        return f"{model}: candidates have no slots in rnx-mini, so the order of a list cannot mislead it."
    if model.startswith(("http://", "https://")):
        return f"{model}: a service; examine its checkpoint where it runs."
    if not is_checkpoint_name(model):
        return None  # no name of a checkpoint: who loads it will say so
    readout = config_of(resolve_checkpoint(model)).readout
    return {
        "pointwise": f"{model}: read pointwise, as its {CONFIG_NAME} says: each candidate alone, so that no order can mislead it.",
        "permutation": f"{model}: writes orders, as its {CONFIG_NAME} says; only labels can be examined.",
    }.get(readout or "")


def diagnose_checkpoint(model: str, path: Path | None = None) -> Diagnosis:
    """A checkpoint read by labels, on the lists of a JSONL file or on a few built-in ones.

    Raises:
        RNXError: the model reads no labels, or the file holds no list of two candidates or more.
    """
    ranker = _reader_of_labels(model)
    lists = _usable(read_lists(path)) if path else built_in_lists()
    return diagnose(ranker, [_ask(ranker, one) for one in lists])


def calibrate(path: Path, model: str, to: Path | None = None) -> tuple[Calibration, Diagnosis]:
    """Fits slot bias, and with grades temperature and offset, and writes them into the recipe of a
    folder, or into a file.

    The diagnosis is that of the calibrated model on the same lists.

    Raises:
        RNXError: as `diagnose_checkpoint`; or the model is no folder and `to` is not given.
    """
    if to is None and not Path(model).is_dir():
        raise RNXError(
            f"model={model!r} is no folder whose {CONFIG_NAME} could be written; name a file with --to."
        )
    recipe = config_of(resolve_checkpoint(model))
    ranker, lists = _reader_of_labels(model), _usable(read_lists(path))
    asks = [_ask(ranker, one) for one in lists]
    grades = [_grades(path, one)[: ranker.window] for one in lists]
    calibration = fit(ranker, asks, grades)
    replace(recipe, calibration=calibration).write(to or Path(model) / CONFIG_NAME)
    return calibration, diagnose(ranker.with_calibration(calibration), asks)


def built_in_lists() -> list[CandidateList]:
    """From the demo's notes: the title of one as query, and its first paragraph among those of
    others.
    """
    notes = sorted(
        files("llama_index_rnx").joinpath("demo/data/notes").iterdir(), key=lambda note: note.name
    )
    titled = [
        note.read_text(encoding="utf-8").removeprefix("# ").split("\n\n")[:2] for note in notes
    ]
    step = len(titled) // BUILT_IN
    return [
        CandidateList(
            qid=title,
            query=Query(text=title),
            candidates=[
                Candidate(id=str(i), text=titled[(own * step + i) % len(titled)][1])
                for i in range(LENGTH)
            ],
        )
        for own, (title, _) in enumerate(titled[: BUILT_IN * step : step])
    ]


def _reader_of_labels(model: str) -> VLMRanker:
    """The model by labels; whether it should be read so is what is examined, so nothing is said
    about it here.
    """
    reason = skip_reason(model)
    if reason is not None:
        raise RNXError(reason)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        ranker = load_ranker(model, readout="labels")
    assert isinstance(ranker, VLMRanker)
    return ranker


def _usable(lists: Sequence[CandidateList]) -> list[CandidateList]:
    found = [one for one in lists if len(one.candidates) > 1]
    if not found:
        raise RNXError(
            "the file has no list of two candidates or more; each row needs a query and its candidates."
        )
    return found


def _grades(path: Path, one: CandidateList) -> list[float]:
    """A number for each candidate; where some have none it is 0, where all have none there are no
    grades.
    """
    strange = [
        grade
        for grade in one.grades
        if isinstance(grade, bool) or not isinstance(grade, int | float | None)
    ]
    if strange:
        raise RNXError(
            f'{path}, qid {one.qid!r}: "grade" is {strange[0]!r}; it must be a number, 0 for what is not relevant.'
        )
    return (
        [float(grade or 0) for grade in one.grades]
        if any(grade is not None for grade in one.grades)
        else []
    )


def _ask(ranker: VLMRanker, one: CandidateList) -> ScoringRequest:
    """The first candidates of a list, as many as a window holds."""
    return one.query, get_or_compute_memories(
        ranker, one.candidates[: ranker.window], MemoryStore()
    )
