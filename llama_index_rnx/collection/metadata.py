"""Turn Python values into the JSON that is stored. It knows no nodes, no filters and no Qdrant.

Metadata comes from pandas rows, PDF readers and user code, so it holds more than JSON does: numpy
scalars, dates, sets, NaN, halves of surrogate pairs. One rule turns each into JSON, for what is
stored and for what a filter compares with.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Set
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from pydantic_core import PydanticSerializationError, to_jsonable_python

from llama_index_rnx.errors import RNXError, SettingsError

MAX_DEPTH = 24  # gRPC servers refuse messages that are nested deeper than about 30 JSON levels

# The integers that every Qdrant engine stores exactly.
_SMALLEST_INT = -(2**63)
_LARGEST_INT = 2**63 - 1

# What holds other values; the frequent ones first, as abstract classes are slow to ask.
_CONTAINERS = (dict, list, tuple, Mapping, Set, range)
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_ESCAPED_BYTE = re.compile(r"\\udc[89a-f][0-9a-f]")


def json_value(value: Any, depth: int = 0) -> Any:
    """Return the JSON value that is stored for a Python value, made of new lists and dictionaries.

    Numbers, booleans and strings stay what they are; numpy and pandas scalars and `Decimal` become
    plain numbers; dates and times ISO 8601 text; sets sorted lists; NaN, infinity, NaT and NA null;
    bytes their UTF-8 text, or base64. Integers beyond 64 bits become text: servers would round
    them.

    Raises:
        SettingsError: the value has no JSON value that is the same tomorrow, or is nested more than
            24 levels deep.

    Example:
        >>> json_value({"year": np.int64(2024), "tags": {"b", "a"}, "score": float("nan")})
        {'year': 2024, 'tags': ['a', 'b'], 'score': None}
        >>> json_value(np.datetime64("2024-05-01"))
        '2024-05-01'
    """
    if value is None or isinstance(value, bool):
        return value
    # Plain strings and numbers first: nearly all values are, and to look for the others takes ten
    # times as long.
    if type(value) is str:
        return clean_name(value)
    if type(value) in (int, float):
        return _number(value)
    if isinstance(value, np.generic | np.ndarray):
        return json_value(_from_numpy(value), depth)
    if isinstance(value, _CONTAINERS):
        return _container(value, depth)
    if isinstance(value, str) and type(value).__str__ is str.__str__:
        return clean_name(value)
    return _object(value, depth)


def json_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a node as it is stored.

    Raises:
        SettingsError: a value has no JSON value; the message names its key.
    """
    stored: dict[str, Any] = {}
    for key, value in metadata.items():
        try:
            stored[_key(key)] = json_value(value, depth=1)
        except (RNXError, RecursionError) as error:
            raise SettingsError(
                f"metadata {key!r} cannot be stored ({error}); change or remove it."
            ) from error
    if len(stored) < len(metadata):
        raise SettingsError("two metadata keys are the same text; name them apart.")
    return stored


def clean_name(text: str) -> str:
    r"""Return a string that UTF-8 can write: halves of surrogate pairs become their escapes, so
    different names stay different.

    Example:
        >>> clean_name("a\ud800")
        'a\\ud800'
    """
    name = str(text)
    # Nearly all names are ASCII, which is known without reading them.
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def original_path(name: str) -> str:
    """Return the path that `clean_name` was given, so that a file whose name is not UTF-8 can be
    opened again.
    """
    return _ESCAPED_BYTE.sub(lambda escape: chr(int(escape[0][2:], 16)), name)


def json_text(value: Any) -> str:
    """Return a JSON value as text, equal for equal values."""
    return _ENCODER.encode(value)


def _container(value: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        raise SettingsError(f"it is nested more than {MAX_DEPTH} levels deep, or holds itself")
    if isinstance(value, Mapping):
        return _mapping(value, depth)
    # A named tuple.
    if hasattr(value, "_asdict"):
        return _mapping(value._asdict(), depth)
    items = [json_value(item, depth + 1) for item in value]
    return _ordered(items) if isinstance(value, Set) else items


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    stored = {_key(key): json_value(item, depth + 1) for key, item in value.items()}
    if len(stored) < len(value):
        raise SettingsError("two of its keys are the same text")
    return stored


def _key(key: Any) -> str:
    """Return a key as text, as JSON has no others: a key of another kind is written as JSON writes
    the value.
    """
    if type(key) is str:
        return clean_name(key)
    name = json_value(key)
    return name if isinstance(name, str) else json_text(name)


def _ordered(items: list[Any]) -> list[Any]:
    """Return the items of a set in an order: the stored list must be the same each time."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=json_text)


def _number(value: int | float) -> int | float | str | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if _SMALLEST_INT <= value <= _LARGEST_INT:
        return value
    try:
        return str(value)
    # Python writes at most 4,300 digits.
    except ValueError as error:
        raise SettingsError("it is an integer of thousands of digits") from error


def _from_numpy(value: Any) -> Any:
    """Return arrays as lists, scalars as Python's own. Dates finer than a microsecond are cut:
    `item()` would make numbers of them.
    """
    kind = value.dtype.kind
    if kind in "mM" and np.datetime_data(value.dtype)[0] in ("ns", "ps", "fs", "as"):
        value = value.astype(f"{kind}8[us]")

    # Rows of a structured array.
    if value.dtype.names:
        return _fields(value) if value.ndim == 0 else [_fields(row) for row in value]

    plain = value.tolist()
    # A longdouble has no Python type.
    is_unchanged = isinstance(plain, np.generic | np.ndarray)
    return float(plain) if is_unchanged else plain


def _fields(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in row.dtype.names}


def _object(value: Any, depth: int) -> Any:
    """Return the JSON value of what is neither JSON nor numpy: pydantic knows the standard library,
    and other objects are asked for their text.
    """
    # The missing values of pandas, by name: pandas need not be installed.
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_text(bytes(value))
    if isinstance(value, datetime):
        return to_jsonable_python(_plain_datetime(value))
    # A pandas Series or Index, a tensor.
    if hasattr(value, "tolist"):
        return json_value(value.tolist(), depth + 1)
    return _by_pydantic(value, depth)


def _by_pydantic(value: Any, depth: int) -> Any:
    try:
        plain = to_jsonable_python(value, inf_nan_mode="constants", fallback=_inside)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise SettingsError(f"its {type(value).__name__} has no JSON value") from error
    if isinstance(plain, str) and plain == clean_name(plain):
        return plain
    return json_value(plain, depth + 1)


def _plain_datetime(value: Any) -> datetime:
    """Return the value of a subclass as Python's own: a pandas `Timestamp` has nanoseconds, which
    no engine compares.
    """
    return datetime(
        value.year,
        value.month,
        value.day,
        value.hour,
        value.minute,
        value.second,
        value.microsecond,
        value.tzinfo,
    )


def _decimal(value: Decimal) -> int | float | str | None:
    if not value.is_finite():
        return None
    whole = value == value.to_integral_value() and abs(value) <= _LARGEST_INT
    return _number(int(value) if whole else float(value))


def _bytes_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")


def _inside(value: Any) -> Any:
    """Return the JSON value of what pydantic does not know inside a dataclass or a model.

    Of an unknown class it is the object's text, unless that changes from one run to the next.

    Raises:
        TypeError: the text is an address in memory.
    """
    if isinstance(value, np.generic | np.ndarray):
        return json_value(value)
    text = str(value)
    if _MEMORY_ADDRESS.search(text):
        raise TypeError("its text is its place in memory")
    return text
