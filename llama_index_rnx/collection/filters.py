"""LlamaIndex's metadata filters as Qdrant's. It knows no collection: whoever has one looks up texts
for it.

Values are compared as they are stored (`json_value`): 2024, 2024.0 and numpy's 2024 are equal,
"2024" and True are not; dates are equal when they are the same moment. For a part of a text servers
have no condition that means the same on every version and with every index, so the points that hold
it are looked up first, and the filter names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)
from qdrant_client import models

from llama_index_rnx.collection.json_paths import fields, paths, values_at
from llama_index_rnx.collection.metadata import json_value
from llama_index_rnx.errors import RNXError, shown

EXACT_INT = 2**53 - 1  # Qdrant compares ranges as doubles: larger integers only by value
NEVER = models.HasIdCondition(has_id=[])  # true of no point
_BOUNDS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}
_TEXT_OPERATORS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_EXCLUDING = (FilterOperator.NE, FilterOperator.NIN)
_INCLUDING = (FilterOperator.EQ, FilterOperator.CONTAINS, FilterOperator.IN, FilterOperator.ANY)
_DATE = re.compile(  # the spellings that Qdrant reads as a date
    r"\s*(?P<day>\d{4}-\d\d-\d\d)"
    r"([T ](?P<time>\d\d:\d\d(:\d\d(?P<fraction>\.\d+)?)?) ?(?P<zone>Z|z|UTC|[+-]\d\d(:?\d\d)?)?)?",
    re.ASCII,
)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """A part that the text at a metadata key must have."""

    key: str
    part: str
    ignore_case: bool

    @property
    def fields(self) -> list[str]:
        """The fields of the payload in which the text may stand."""
        return fields(self.key)

    def matches(self, metadata: Any) -> bool:
        """Whether stored metadata holds the part, as LlamaIndex's own stores read it."""
        part = self._cased(self.part)
        texts = (value for value in values_at(metadata, self.key) if isinstance(value, str))
        return any(part in self._cased(text) for text in texts)

    def spelling(self, metadata: Any) -> str:
        """The part as the first text that holds it spells it, for metadata that matches."""
        texts = [value for value in values_at(metadata, self.key) if isinstance(value, str)]
        text = next(text for text in texts if self._cased(self.part) in self._cased(text))
        start, length = self._cased(text).index(self._cased(self.part)), len(self._cased(self.part))
        has_moved = len(self._cased(text)) != len(text)  # some letters become two in lower case
        return text if has_moved else text[start : start + length]

    def _cased(self, text: str) -> str:
        return text.lower() if self.ignore_case else text


Lookup = Callable[
    [TextMatch, models.Filter | None], models.Condition
]  # true of what matches among the points of a filter


def qdrant_filter(filters: MetadataFilters | None, lookup: Lookup) -> models.Filter | None:
    """LlamaIndex's metadata filters as Qdrant's, nested ones too.

    Args:
        lookup: gives a condition that is true of the points whose text matches, at least among
            those that meet a filter; called for text operators. `with_ids` and `with_substrings`
            make one.

    Raises:
        RNXError: an operator cannot be used with its value, or something else than filters was
            handed over.

    Example:
        >>> year = MetadataFilters(filters=[MetadataFilter(key="year", value=2024)])
        >>> found = qdrant_filter(year, lookup=lambda match, among: with_ids([]))
        >>> found.must[0].should[0].key, found.must[0].should[0].range.gte
        ('metadata.year', 2024.0)
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise RNXError(
            f"filters= got a {type(filters).__name__}; MetadataFilters(filters=[...]) is needed."
        )
    return _group(filters, lookup, None)


def with_ids(ids: Sequence[str]) -> models.Condition:
    """True of these points: for a server."""
    return models.HasIdCondition(has_id=list(ids))


def with_substrings(match: TextMatch, spellings: Collection[str]) -> models.Condition:
    """True where one of the spellings is a part of the text: for the embedded engine, which
    compares ids one by one.
    """
    conditions: list[Any] = [
        models.FieldCondition(key=place, match=models.MatchSubstring(substring=spelling))
        for place in paths(match.key)
        for spelling in sorted(spellings)
    ]
    return _any_of(conditions)


def _group(
    filters: MetadataFilters, lookup: Lookup, among: models.Filter | None
) -> models.Filter | None:
    """`among`: what all points of the result must meet anyway, so that no others are looked up."""
    quick = [part for part in filters.filters if not _needs_lookup(part)]
    slow = [part for part in filters.filters if _needs_lookup(part)]

    conditions: list[Any] = [found for part in quick if (found := _part(part, lookup, among))]
    if filters.condition in (FilterCondition.AND, None) and conditions:
        among = models.Filter(must=[*conditions, *([among] if among else [])])
    conditions += [found for part in slow if (found := _part(part, lookup, among))]

    if not conditions:
        return None
    if filters.condition == FilterCondition.OR:
        return models.Filter(should=conditions)
    if filters.condition == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def _needs_lookup(part: MetadataFilter | MetadataFilters) -> bool:
    if isinstance(part, MetadataFilters):
        return any(_needs_lookup(inner) for inner in part.filters)
    return part.operator in _TEXT_OPERATORS


def _part(
    part: MetadataFilter | MetadataFilters, lookup: Lookup, among: models.Filter | None
) -> models.Filter | None:
    if isinstance(part, MetadataFilters):
        return _group(part, lookup, among)
    if part.operator not in _TEXT_OPERATORS:
        return _one_line(part, lambda value: _compared(paths(part.key), value, part.operator))
    match = _one_line(part, lambda value: _text_match(part, value))
    return models.Filter(must=[lookup(match, among)])


def _one_line(part: MetadataFilter, convert: Callable[[Any], T]) -> T:
    try:
        return convert(json_value(part.value))
    except ValueError as error:
        raise RNXError(
            f"metadata filter {shown(part.key)}: {part.operator.value!r} cannot be used with {shown(part.value)} ({error})."
        ) from error


def _text_match(part: MetadataFilter, value: Any) -> TextMatch:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    ignore_case = part.operator == FilterOperator.TEXT_MATCH_INSENSITIVE
    return TextMatch(key=part.key, part=value, ignore_case=ignore_case)


def _compared(places: list[str], value: Any, operator: FilterOperator) -> models.Filter:
    """The condition at each path that the key may mean: one of them must meet it, or none for the
    negative operators.
    """
    if operator == FilterOperator.IS_EMPTY:
        return models.Filter(must=[_is_empty(place) for place in places])
    if operator in _BOUNDS:
        bound = {_BOUNDS[operator]: _bound(value)}
        return _any_of([_within(place, bound) for place in places])
    values = value if isinstance(value, list) else [value]
    if operator == FilterOperator.ALL:
        return models.Filter(must=[_any_of(_equal(places, [item])) for item in values])
    if operator in _EXCLUDING:
        return models.Filter(must_not=_equal(places, values))
    if operator in _INCLUDING:
        return _any_of(_equal(places, values))
    raise ValueError("it is not supported")


def _any_of(conditions: list[Any]) -> models.Filter:
    return models.Filter(should=conditions or [NEVER])


def _is_empty(place: str) -> models.Filter:
    """Absent, null, an empty list or an empty text."""
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=place))
    blank = models.FieldCondition(key=place, match=models.MatchValue(value=""))
    return models.Filter(should=[empty, blank])


def _equal(places: list[str], values: list[Any]) -> list[Any]:
    """Conditions of which one is met by each point that has one of the values at one of the paths."""
    texts = [value for value in values if isinstance(value, str) and _moment(value) is None]
    others = [value for value in values if value not in texts]
    conditions: list[Any] = []
    for place in places:
        if texts:
            conditions.append(models.FieldCondition(key=place, match=models.MatchAny(any=texts)))
        conditions += [condition for value in others for condition in _equals(place, value)]
    return conditions


def _equals(place: str, value: Any) -> list[models.FieldCondition]:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > EXACT_INT):
        return [models.FieldCondition(key=place, match=models.MatchValue(value=value))]
    if isinstance(value, int | float):
        return [_within(place, {"gte": value, "lte": value})]
    if isinstance(value, str):
        return _same_moment(place, value)
    raise ValueError(
        "null is found with is_empty"
        if value is None
        else "a text, a number or a boolean is needed"
    )


def _same_moment(place: str, text: str) -> list[models.FieldCondition]:
    moment = _moment(text)
    same = _within(place, {"gte": moment, "lte": moment})
    fraction = (_DATE.fullmatch(text) or {"fraction": None})["fraction"] or ""
    if len(fraction) <= len(".123456"):
        return [same]
    exact = models.FieldCondition(key=place, match=models.MatchValue(value=text))
    return [same, exact]  # a Python date ends at microseconds, a server's does not


def _bound(value: Any) -> float | datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    moment = _moment(value) if isinstance(value, str) else None
    if moment is None:
        raise ValueError("a number or an ISO 8601 date is needed")
    return moment


def _within(place: str, bounds: dict[str, Any]) -> models.FieldCondition:
    dates = any(isinstance(bound, datetime) for bound in bounds.values())
    found = models.DatetimeRange(**bounds) if dates else models.Range(**bounds)
    return models.FieldCondition(key=place, range=found)


def _moment(text: str) -> datetime | None:
    """The moment that Qdrant reads in a text; None when it is no date."""
    match = _DATE.fullmatch(text)
    if match is None or (match["zone"] and len(match["time"]) < len("12:00:00")):
        return None
    zone = (match["zone"] or "Z").upper().replace("UTC", "Z")
    time = (match["time"] or "00:00").split(".")[0]
    fraction = (match["fraction"] or "")[: len(".123456")]
    try:
        moment = datetime.fromisoformat(
            f"{match['day']}T{time}{fraction.ljust(7, '0') if fraction else ''}{zone}"
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the 31st of February, or an hour before the year 1
        return None
