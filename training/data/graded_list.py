"""The graded list: a query, its candidates, a grade each. It knows no dataset and no model.

Grades are gains on one scale: 0 is not relevant, 3 is perfect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

COLUMNS = ("docids", "texts", "grades", "first", "images", "image_logits")


@dataclass(frozen=True, kw_only=True)
class GradedList:
    """One query with its candidates, as columns of equal length; optional columns may be empty.

    first: the scores of the first stage; empty where it has none.
    judged: the grade of every judged document of the query, also of those that the first stage
        missed; empty where the candidates are all there is.
    images: the image of every candidate, None for one without; empty where no candidate has one.
        In a list with images, an empty text is no text.
    image_logits: the image part's logit of every candidate, computed before; it stands in place of
        `images`.
    """

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


def take(graded_list: GradedList, positions: Sequence[int]) -> GradedList:
    """Return the list with the candidates at these positions only, in the order of `positions`."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        column = getattr(graded_list, name)
        if column:
            columns[name] = tuple(column[position] for position in positions)
    return replace(graded_list, **columns)
