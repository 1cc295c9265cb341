"""Metadata keys in Qdrant: how a key is stored, and the JSON paths that lead to it. It knows no
values and no filters.

In a path Qdrant reads letters, digits, `_` and `-` as they are and anything else in quotes; inside
them it knows no escapes, so a key with a quote or a backslash in it, and the empty key, are stored
under another name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from llama_index_rnx.collection.metadata import clean_name

ROOT = "metadata"  # the payload field that holds a node's metadata
MOST_DOTS = 3  # a key with more is read flat, or nested at every dot; with fewer in every way
_RENAMED = "%key:"
_UNSTORABLE = re.compile(r'["\\]|^$|^%key:')
_INDEX = re.compile(r"\[([0-9]*)\]")
_WITH_INDEX = re.compile(r"^([^\[\]]+)((?:\[[0-9]*\])+)$")


def stored_key(key: str) -> str:
    r"""The name under which Qdrant holds a key.

    Example:
        >>> [stored_key(key) for key in ("file name", 'the "key"', "")]
        ['file name', '%key:the%20%22key%22', '%key:']
    """
    return _RENAMED + quote(key, safe="") if _UNSTORABLE.search(key) else key


def original_key(stored: str) -> str:
    """The key that `stored_key` was given."""
    return unquote(stored.removeprefix(_RENAMED)) if stored.startswith(_RENAMED) else stored


def stored_keys(value: Any) -> Any:
    """A JSON value with the keys of all its objects as Qdrant holds them."""
    return _renamed(value, stored_key)


def original_keys(value: Any) -> Any:
    """The JSON value that `stored_keys` was given."""
    return _renamed(value, original_key)


def paths(key: str) -> list[str]:
    """The JSON paths of Qdrant for all that a key may mean: one key with dots in it, keys of nested
    objects, items of lists.

    Example:
        >>> paths("file name"), paths("author.name")
        (['metadata."file name"'], ['metadata."author.name"', 'metadata.author.name'])
        >>> paths("authors[]")
        ['metadata."authors[]"', 'metadata.authors[]']
    """
    return [
        ".".join([ROOT, *(_quoted(step.key) + step.indices for step in steps)])
        for steps in _readings(key)
    ]


def fields(key: str) -> list[str]:
    """The payload fields to read for `values_at`: a field cannot be chosen inside the items of a
    list, so the whole list.
    """
    return list(dict.fromkeys(_field(steps) for steps in _readings(key)))


def values_at(metadata: Any, key: str) -> list[Any]:
    """The values that stored metadata has at a key, in all that it may mean; the items of lists one
    by one.
    """
    return [value for steps in _readings(key) for value in _values(metadata, steps)]


class _Step(NamedTuple):
    """A key, and the indices behind it: `[]` for all items of a list, `[0]` for the first."""

    key: str
    indices: str = ""


def _readings(key: str) -> list[list[_Step]]:
    parts = clean_name(key).split(".")
    if len(parts) - 1 > MOST_DOTS:
        keys = [[".".join(parts)], parts]
    else:
        keys = [_joined(parts, dots) for dots in product((True, False), repeat=len(parts) - 1)]
    flat = [[_Step(part) for part in reading] for reading in keys]
    indexed = [[_indexed(part) for part in reading] for reading in keys]
    return flat + [steps for steps in indexed if steps not in flat]


def _field(steps: list[_Step]) -> str:
    lists = [position for position, step in enumerate(steps) if step.indices]
    until = lists[0] + 1 if lists else len(steps)
    return ".".join([ROOT, *(_quoted(step.key) for step in steps[:until])])


def _values(value: Any, steps: list[_Step]) -> list[Any]:
    if not steps:
        return value if isinstance(value, list) else [value]
    step, name = steps[0], stored_key(steps[0].key)
    if not isinstance(value, dict) or name not in value:
        return []
    items = _items(value[name], _INDEX.findall(step.indices))
    return [found for item in items for found in _values(item, steps[1:])]


def _items(value: Any, indices: list[str]) -> list[Any]:
    if not indices:
        return [value]
    if not isinstance(value, list):
        return []
    chosen = value[int(indices[0]) :][:1] if indices[0] else value
    return [item for one in chosen for item in _items(one, indices[1:])]


def _joined(parts: list[str], dots: tuple[bool, ...]) -> list[str]:
    reading = parts[:1]
    for is_part_of_key, part in zip(dots, parts[1:], strict=True):
        if is_part_of_key:
            reading[-1] += f".{part}"
        else:
            reading.append(part)
    return reading


def _quoted(key: str) -> str:
    name = stored_key(key)
    is_plain = all(letter.isalnum() or letter in "_-" for letter in name)
    return name if is_plain else f'"{name}"'


def _indexed(part: str) -> _Step:
    match = _WITH_INDEX.match(part)
    return _Step(match[1], match[2]) if match else _Step(part)


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {rename(key): _renamed(item, rename) for key, item in value.items()}
    return [_renamed(item, rename) for item in value] if isinstance(value, list) else value
