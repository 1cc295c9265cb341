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
    r"""Return the name under which Qdrant holds a key.

    Example:
        >>> [stored_key(key) for key in ("file name", 'the "key"', "")]
        ['file name', '%key:the%20%22key%22', '%key:']
    """
    return _RENAMED + quote(key, safe="") if _UNSTORABLE.search(key) else key


def original_key(stored: str) -> str:
    """Return the key that `stored_key` was given."""
    return unquote(stored.removeprefix(_RENAMED)) if stored.startswith(_RENAMED) else stored


def stored_keys(value: Any) -> Any:
    """Return a JSON value with the keys of all its objects as Qdrant holds them."""
    return _renamed(value, stored_key)


def original_keys(value: Any) -> Any:
    """Return the JSON value that `stored_keys` was given."""
    return _renamed(value, original_key)


def paths(key: str) -> list[str]:
    """Return the JSON paths of Qdrant for all that a key may mean: one key with dots in it, keys of
    nested objects, items of lists.

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
    """Return the payload fields to read for `values_at`. A field cannot be chosen inside the items
    of a list, so of a list it is the whole.
    """
    return list(dict.fromkeys(_field(steps) for steps in _readings(key)))


def values_at(metadata: Any, key: str) -> list[Any]:
    """Return the values that stored metadata has at a key, in all that the key may mean; the items
    of lists one by one.
    """
    return [value for steps in _readings(key) for value in _values(metadata, steps)]


class _Step(NamedTuple):
    """A key, and the indices behind it: `[]` for all items of a list, `[0]` for the first."""

    key: str
    indices: str = ""


def _readings(key: str) -> list[list[_Step]]:
    """Return what a key may mean: each reading is a list of steps from the outer key inwards."""
    names = clean_name(key).split(".")
    if len(names) - 1 > MOST_DOTS:
        keys = [[".".join(names)], names]
    else:
        joints = product((True, False), repeat=len(names) - 1)
        keys = [_join(names, is_joined) for is_joined in joints]

    flat = [[_Step(name) for name in reading] for reading in keys]
    indexed = [[_indexed(name) for name in reading] for reading in keys]
    return flat + [steps for steps in indexed if steps not in flat]


def _field(steps: list[_Step]) -> str:
    lists = [position for position, step in enumerate(steps) if step.indices]
    until = lists[0] + 1 if lists else len(steps)
    return ".".join([ROOT, *(_quoted(step.key) for step in steps[:until])])


def _values(value: Any, steps: list[_Step]) -> list[Any]:
    if not steps:
        return value if isinstance(value, list) else [value]

    step = steps[0]
    name = stored_key(step.key)
    if not isinstance(value, dict) or name not in value:
        return []
    values = []
    for item in _items(value[name], _INDEX.findall(step.indices)):
        values += _values(item, steps[1:])
    return values


def _items(value: Any, indices: list[str]) -> list[Any]:
    """Return the items of a list at an index, of all its items where the index is empty."""
    if not indices:
        return [value]
    if not isinstance(value, list):
        return []
    chosen = value[int(indices[0]) :][:1] if indices[0] else value
    return [inner for item in chosen for inner in _items(item, indices[1:])]


def _join(names: list[str], is_joined: tuple[bool, ...]) -> list[str]:
    """Return the names with a dot between those that are joined to the one before."""
    keys = names[:1]
    for joined, name in zip(is_joined, names[1:], strict=True):
        if joined:
            keys[-1] += f".{name}"
        else:
            keys.append(name)
    return keys


def _quoted(key: str) -> str:
    name = stored_key(key)
    is_plain = all(letter.isalnum() or letter in "_-" for letter in name)
    return name if is_plain else f'"{name}"'


def _indexed(name: str) -> _Step:
    match = _WITH_INDEX.match(name)
    return _Step(match[1], match[2]) if match else _Step(name)


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {rename(key): _renamed(item, rename) for key, item in value.items()}
    return [_renamed(item, rename) for item in value] if isinstance(value, list) else value
