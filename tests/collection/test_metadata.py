"""What is stored for a Python value, and how the keys of metadata stand in Qdrant's paths."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from qdrant_client.local.json_path_parser import parse_json_path

from llama_index_rnx.collection.json_paths import (
    fields,
    original_keys,
    paths,
    stored_keys,
    values_at,
)
from llama_index_rnx.collection.metadata import clean_name, json_metadata, json_value, original_path
from llama_index_rnx.errors import RNXError


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Author:
    name: str
    born: Any = None


class Model(BaseModel):
    x: int = 1


class NAType:
    """As pandas calls its missing value."""


class Tea:
    def __str__(self) -> str:
        return "tea"


class Timestamp(dt.datetime):
    """As pandas calls its dates: with nanoseconds in its text."""

    def isoformat(self, *args: Any, **options: Any) -> str:
        return super().isoformat() + "789"


class Series:
    def tolist(self) -> list[Any]:
        return [np.int64(1), float("nan")]


Point = collections.namedtuple("Point", "x y")
UTC, BERLIN = dt.UTC, dt.timezone(dt.timedelta(hours=1))
VALUES: list[tuple[Any, Any]] = [
    (np.int64(2024), 2024),
    (np.uint8(7), 7),
    (np.float32(0.5), 0.5),
    (np.longdouble(1.5), 1.5),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (np.bytes_(b"a"), "a"),
    (np.array(5), 5),
    (np.array([[1.0, np.nan]]), [[1.0, None]]),
    (np.array(["a", None], dtype=object), ["a", None]),
    (np.array([(1, 0.5)], dtype=[("a", int), ("b", float)]), [{"a": 1, "b": 0.5}]),
    (np.datetime64("2024-05-01"), "2024-05-01"),
    (np.datetime64("2024-05-01T01:02:03.123456789"), "2024-05-01T01:02:03.123456"),
    (np.datetime64("NaT"), None),
    (np.timedelta64(5, "s"), "PT5S"),
    (np.uint64(2**64 - 1), "18446744073709551615"),
    (NAType(), None),
    (Series(), [1, None]),
    (Timestamp(2024, 5, 1), "2024-05-01T00:00:00"),
    (dt.datetime(2024, 5, 1, 12), "2024-05-01T12:00:00"),
    (dt.datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00:00:00Z"),
    (dt.datetime(2024, 5, 1, tzinfo=BERLIN), "2024-05-01T00:00:00+01:00"),
    (dt.date(2024, 5, 1), "2024-05-01"),
    (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(days=1), "P1D"),
    (decimal.Decimal("19.99"), 19.99),
    (decimal.Decimal("2"), 2),
    (decimal.Decimal("NaN"), None),
    (decimal.Decimal("sNaN"), None),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    ({10, 9, 1}, [1, 9, 10]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({"a", 1}, ["a", 1]),
    ((1, (2,)), [1, [2]]),
    (range(3), [0, 1, 2]),
    (collections.deque([1]), [1]),
    (Point(1, np.int8(2)), {"x": 1, "y": 2}),
    (Author("a", born=np.int16(1900)), {"name": "a", "born": 1900}),
    (Model(), {"x": 1}),
    (b"abc", "abc"),
    (b"\xff", "/w=="),
    (1 + 2j, "1+2j"),
    (Tea(), "tea"),
    (float("nan"), None),
    (float("-inf"), None),
    (True, True),
    (10**30, str(10**30)),
    ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "null": "b", "[1, 2]": "c"}),
    ({"a": {"b": [np.float64(1.5)]}}, {"a": {"b": [1.5]}}),
    ("half \ud83d", "half \\ud83d"),
    ({"k\ud800": {"\udfff"}}, {"k\\ud800": ["\\udfff"]}),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    VALUES,
    ids=[f"{type(v).__name__}-{i}" for i, (v, _) in enumerate(VALUES)],
)
def test_the_natural_json_value(value: Any, expected: Any) -> None:
    stored = json_value(value)
    assert stored == expected
    assert type(stored) is type(expected)
    assert json_value(stored) == stored, "what comes out goes in unchanged"
    json.dumps(stored, allow_nan=False).encode()


def holding_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 1, holding_itself(), {1: "a", "1": "b"}, 10**5_000],
    ids=["object", "function", "loop", "keys", "digits"],
)
def test_what_has_no_json_value_is_one_line_that_names_its_key(value: Any) -> None:
    with pytest.raises(RNXError, match="metadata 'v' cannot be stored") as caught:
        json_metadata({"v": value})
    assert "\n" not in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_json_stays_what_it_is_but_for_what_json_cannot_say(value: Any) -> None:
    stored = json_value(value)
    json.dumps(stored, allow_nan=False, ensure_ascii=False).encode()
    assert json_value(stored) == stored
    assert original_keys(stored_keys(stored)) == stored


def test_different_names_stay_different_and_paths_come_back() -> None:
    names = ["a\ud800", "a\ud801", "a?", "a"]
    assert len({clean_name(name) for name in names}) == 4
    assert original_path(clean_name("/b\udcff/ä.png")) == "/b\udcff/ä.png"


KEYS = [
    "file name",
    "dc:title",
    "a/b",
    "@id",
    "owner's",
    'the "key"',
    "back\\slash",
    "a[0]",
    "]",
    "",
    " ",
    "ключ",
    "1st",
    "%key:x",
    "a\0b",
    "*",
    "a\nb",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_path_names_the_stored_key(key: str) -> None:
    (stored,) = stored_keys({key: 1})
    root, *steps = parse_json_path(paths(key)[0])
    assert root.key == "metadata"
    assert [step.key for step in steps] == [stored]
    assert original_keys({stored: 1}) == {key: 1}
    assert values_at({stored: 1}, key) == [1]


def test_a_dot_is_part_of_a_key_or_a_step_into_an_object() -> None:
    metadata = stored_keys(
        {
            "v1.2": "flat",
            "author": {"first.name": "Ada", "born": {"year": 1815}},
            "tags": [{"n": 1}, {"n": 2}],
        }
    )
    assert values_at(metadata, "v1.2") == ["flat"]
    assert values_at(metadata, "author.first.name") == ["Ada"]
    assert values_at(metadata, "author.born.year") == [1815]
    assert values_at(metadata, "tags[].n") == [1, 2]
    assert values_at(metadata, "tags[1].n") == [2]
    assert (
        values_at(metadata, "tags[5].n")
        == values_at(metadata, "author.none")
        == values_at(None, "a")
        == []
    )
    assert "metadata.tags" in fields("tags[].n")
    assert len(paths("a.b.c.d.e.f")) == 2
