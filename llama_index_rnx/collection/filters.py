"""LlamaIndex's metadata filters as Qdrant's. It knows no collection: the caller looks up texts for
it.

Values are compared as they are stored (`json_value`): 2024, 2024.0 and numpy's 2024 are equal,
"2024" and True are not; dates are equal when they are the same moment. For a substring of a text
servers have no condition that means the same on every version and with every index, so the points
that hold it are looked up first, and the filter names them.
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
from llama_index_rnx.errors import SettingsError, shown

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
# The spellings that Qdrant reads as a date.
_DATE = re.compile(
    r"\s*(?P<day>\d{4}-\d\d-\d\d)"
    r"([T ](?P<time>\d\d:\d\d(:\d\d(?P<fraction>\.\d+)?)?) ?(?P<zone>Z|z|UTC|[+-]\d\d(:?\d\d)?)?)?",
    re.ASCII,
)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """A substring that the text at a metadata key must have."""

    key: str
    substring: str
    ignore_case: bool

    @property
    def fields(self) -> list[str]:
        """The fields of the payload in which the text may stand."""
        return fields(self.key)

    def matches(self, metadata: Any) -> bool:
        """Return whether stored metadata holds the substring, as LlamaIndex's own stores do."""
        substring = self._cased(self.substring)
        return any(substring in self._cased(text) for text in self._texts(metadata))

    def spelling(self, metadata: Any) -> str:
        """Return the substring as the first text that holds it spells it.

        Args:
            metadata: stored metadata that matches.
        """
        substring = self._cased(self.substring)
        text = next(text for text in self._texts(metadata) if substring in self._cased(text))
        cased = self._cased(text)
        # Some letters become two in lower case, and then the positions differ.
        if len(cased) != len(text):
            return text
        start = cased.index(substring)
        return text[start : start + len(substring)]

    def _texts(self, metadata: Any) -> list[str]:
        return [value for value in values_at(metadata, self.key) if isinstance(value, str)]

    def _cased(self, text: str) -> str:
        return text.lower() if self.ignore_case else text


# Returns a condition that is true of what matches among the points of a filter.
Lookup = Callable[[TextMatch, models.Filter | None], models.Condition]


def qdrant_filter(filters: MetadataFilters | None, lookup: Lookup) -> models.Filter | None:
    """Return LlamaIndex's metadata filters as Qdrant's, nested ones too.

    Args:
        lookup: returns a condition that is true of the points whose text matches, at least among
            those that meet a filter; called for text operators. `with_ids` and `with_substrings`
            make such a condition.

    Raises:
        SettingsError: an operator cannot be used with its value, or `filters` is something else.

    Example:
        >>> year = MetadataFilters(filters=[MetadataFilter(key="year", value=2024)])
        >>> condition = qdrant_filter(year, lookup=lambda match, among: with_ids([]))
        >>> (field,) = condition.must[0].should
        >>> field.key, field.range.gte
        ('metadata.year', 2024.0)
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise SettingsError(
            f"filters= got a {type(filters).__name__}; MetadataFilters(filters=[...]) is needed."
        )
    return _group(filters, lookup, None)


def with_ids(ids: Sequence[str]) -> models.Condition:
    """Return a condition that is true of these points: for an engine with indexes."""
    return models.HasIdCondition(has_id=list(ids))


def with_substrings(match: TextMatch, spellings: Collection[str]) -> models.Condition:
    """Return a condition that is true where the text contains one of the spellings: for
    local mode, which compares ids one by one.
    """
    conditions: list[Any] = [
        models.FieldCondition(key=path, match=models.MatchSubstring(substring=spelling))
        for path in paths(match.key)
        for spelling in sorted(spellings)
    ]
    return _any_of(conditions)


def _group(
    filters: MetadataFilters, lookup: Lookup, among: models.Filter | None
) -> models.Filter | None:
    """Return a group of filters as one.

    Args:
        among: what all points of the result must meet anyway, so that no others are looked up.
    """
    quick = [item for item in filters.filters if not _needs_lookup(item)]
    slow = [item for item in filters.filters if _needs_lookup(item)]

    conditions = _conditions(quick, lookup, among)
    if filters.condition in (FilterCondition.AND, None) and conditions:
        among = models.Filter(must=[*conditions, *([among] if among else [])])
    conditions += _conditions(slow, lookup, among)

    if not conditions:
        return None
    if filters.condition == FilterCondition.OR:
        return models.Filter(should=conditions)
    if filters.condition == FilterCondition.NOT:
        return models.Filter(must_not=conditions)
    return models.Filter(must=conditions)


def _needs_lookup(item: MetadataFilter | MetadataFilters) -> bool:
    if isinstance(item, MetadataFilters):
        return any(_needs_lookup(inner) for inner in item.filters)
    return item.operator in _TEXT_OPERATORS


def _conditions(
    items: Sequence[MetadataFilter | MetadataFilters], lookup: Lookup, among: models.Filter | None
) -> list[Any]:
    """Return the items of a group as conditions, without empty groups."""
    conditions = [_condition(item, lookup, among) for item in items]
    return [condition for condition in conditions if condition]


def _condition(
    item: MetadataFilter | MetadataFilters, lookup: Lookup, among: models.Filter | None
) -> models.Filter | None:
    if isinstance(item, MetadataFilters):
        return _group(item, lookup, among)
    if item.operator in _TEXT_OPERATORS:
        match = _converted(item, lambda value: _text_match(item, value))
        return models.Filter(must=[lookup(match, among)])
    return _converted(item, lambda value: _compare(paths(item.key), value, item.operator))


def _converted(item: MetadataFilter, convert: Callable[[Any], T]) -> T:
    """Convert the value of a filter as it is stored; name the filter where that is not possible."""
    try:
        return convert(json_value(item.value))
    except ValueError as error:
        raise SettingsError(
            f"metadata filter {shown(item.key)}: {item.operator.value!r} cannot be used with "
            f"{shown(item.value)} ({error})."
        ) from error


def _text_match(item: MetadataFilter, value: Any) -> TextMatch:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    ignore_case = item.operator == FilterOperator.TEXT_MATCH_INSENSITIVE
    return TextMatch(key=item.key, substring=value, ignore_case=ignore_case)


def _compare(json_paths: list[str], value: Any, operator: FilterOperator) -> models.Filter:
    """Return the condition at each path that the key may mean: one of them must meet it, or none
    for the negative operators.
    """
    if operator == FilterOperator.IS_EMPTY:
        return models.Filter(must=[_is_empty(path) for path in json_paths])
    if operator in _BOUNDS:
        bound = {_BOUNDS[operator]: _bound(value)}
        return _any_of([_within(path, bound) for path in json_paths])

    values = value if isinstance(value, list) else [value]
    if operator == FilterOperator.ALL:
        return models.Filter(must=[_any_of(_equal(json_paths, [item])) for item in values])
    if operator in _EXCLUDING:
        return models.Filter(must_not=_equal(json_paths, values))
    if operator in _INCLUDING:
        return _any_of(_equal(json_paths, values))
    raise ValueError("it is not supported")


def _any_of(conditions: list[Any]) -> models.Filter:
    return models.Filter(should=conditions or [NEVER])


def _is_empty(path: str) -> models.Filter:
    """Return a condition for a value that is absent, null, an empty list or an empty text."""
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=path))
    blank = models.FieldCondition(key=path, match=models.MatchValue(value=""))
    return models.Filter(should=[empty, blank])


def _equal(json_paths: list[str], values: list[Any]) -> list[Any]:
    """Return conditions of which each point meets one that has one of the values at one of the
    paths.
    """
    texts = [value for value in values if isinstance(value, str) and _moment(value) is None]
    others = [value for value in values if value not in texts]
    conditions: list[Any] = []
    for path in json_paths:
        if texts:
            conditions.append(models.FieldCondition(key=path, match=models.MatchAny(any=texts)))
        for value in others:
            conditions += _equals(path, value)
    return conditions


def _equals(path: str, value: Any) -> list[models.FieldCondition]:
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) > EXACT_INT):
        return [models.FieldCondition(key=path, match=models.MatchValue(value=value))]
    if isinstance(value, int | float):
        return [_within(path, {"gte": value, "lte": value})]
    if isinstance(value, str):
        return _same_moment(path, value)
    if value is None:
        raise ValueError("null is found with is_empty")
    raise ValueError("a text, a number or a boolean is needed")


def _same_moment(path: str, text: str) -> list[models.FieldCondition]:
    moment = _moment(text)
    same = _within(path, {"gte": moment, "lte": moment})
    match = _DATE.fullmatch(text)
    fraction = (match["fraction"] if match else None) or ""
    if len(fraction) <= len(".123456"):
        return [same]
    # A Python date ends at microseconds, a server's does not.
    exact = models.FieldCondition(key=path, match=models.MatchValue(value=text))
    return [same, exact]


def _bound(value: Any) -> float | datetime:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    moment = _moment(value) if isinstance(value, str) else None
    if moment is None:
        raise ValueError("a number or an ISO 8601 date is needed")
    return moment


def _within(path: str, bounds: dict[str, Any]) -> models.FieldCondition:
    are_dates = any(isinstance(bound, datetime) for bound in bounds.values())
    limits = models.DatetimeRange(**bounds) if are_dates else models.Range(**bounds)
    return models.FieldCondition(key=path, range=limits)


def _moment(text: str) -> datetime | None:
    """Return the moment that Qdrant reads in a text; None when it is no date."""
    match = _DATE.fullmatch(text)
    if match is None or (match["zone"] and len(match["time"]) < len("12:00:00")):
        return None

    zone = (match["zone"] or "Z").upper().replace("UTC", "Z")
    time = (match["time"] or "00:00").split(".")[0]
    digits = (match["fraction"] or "")[: len(".123456")]
    fraction = digits.ljust(7, "0") if digits else ""
    try:
        moment = datetime.fromisoformat(f"{match['day']}T{time}{fraction}{zone}")
        return moment.astimezone(UTC)
    # The 31st of February, or an hour before the year 1.
    except (ValueError, OverflowError):
        return None
