"""Graded lists from the development data: a query, its candidate texts, a grade each. It knows no
model.

Grades are gains on one scale: 0 not relevant .. 3 perfect. The folder comes from the environment
variable RNX_DATA.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from training.data.files import Row, rows


@dataclass(frozen=True, kw_only=True)
class GradedList:
    """One query with its candidates. first: the scores of the first stage (empty where it has
    none); judged: every judged document of the query, also what the first stage missed (empty: the
    candidates are all there is); images: the picture of every candidate, None for one without
    (empty: no pictures at all); with pictures, an empty text is no text; image_logits: the image
    part's logit of every candidate where it was computed before, in place of `images`."""

    source: str
    qid: str
    query: str
    docids: tuple[str, ...]
    texts: tuple[str, ...]
    grades: tuple[float, ...]
    first: tuple[float, ...] = ()
    judged: Mapping[str, float] = field(default_factory=dict)
    images: tuple[Path | None, ...] = ()
    image_logits: tuple[float | None, ...] = ()


def take(of: GradedList, places: Sequence[int]) -> GradedList:
    """The candidates at `places`, in that order."""
    columns: Row = {
        name: getattr(of, name)
        for name in ("docids", "texts", "grades", "first", "images", "image_logits")
    }
    taken: Row = {
        name: tuple(column[place] for place in places) for name, column in columns.items() if column
    }
    return replace(of, **taken)


def kept_lists(path: Path, make: Callable[[], Sequence[GradedList]]) -> list[GradedList]:
    """What is in the file, or what `make` gives, kept in it: lists that were mined are mined once,
    also for a resumed run.
    """
    if not path.exists():
        lines = [json.dumps(asdict(of), default=str) for of in make()]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text("\n".join(lines) + "\n")
        part.replace(path)
    return [_kept(row) for row in rows(path)]


def _kept(row: Row) -> GradedList:
    columns: Row = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    columns["images"] = tuple(None if path is None else Path(path) for path in row["images"])
    return GradedList(**columns)
