"""Checks the arguments of public methods: errors say what was got and what is needed. It knows no
Qdrant and no model.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore
from pydantic import ValidationError

from llama_index_rnx.errors import SettingsError, shown


def checked_count(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number, of numpy, too.

    Raises:
        SettingsError: it is something else, or too small.

    Example:
        >>> checked_count(5, "k")
        5
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise SettingsError(f"{name}={shown(value)} was given; a whole number is needed.")
    if count < least:
        raise SettingsError(f"{name}={count} was given; it must be {least} or more.")
    return count


def checked_nodes(nodes: Any) -> list[BaseNode]:
    """Return the nodes of a list or of any other iterable.

    Raises:
        SettingsError: it is no iterable of nodes.
    """
    items = _to_list(nodes, "nodes", "a list of nodes is needed, [node] for a single one")
    for position, node in enumerate(items):
        if isinstance(node, NodeWithScore):
            raise SettingsError(
                f"nodes[{position}] is a NodeWithScore, as a retriever gives them; "
                "nodes are needed: [hit.node for hit in hits]."
            )
        if not isinstance(node, BaseNode):
            raise SettingsError(
                f"nodes[{position}] is a {type(node).__name__}; a LlamaIndex node is needed, "
                "for a text TextNode(text=...)."
            )
    return items


def checked_hits(nodes: Any) -> list[NodeWithScore]:
    """Return the retrieved nodes of a list or of any other iterable.

    Raises:
        SettingsError: it is no iterable of NodeWithScore.
    """
    needed = "a list of NodeWithScore is needed, as a retriever gives it"
    hits = _to_list(nodes, "nodes", needed)
    for position, hit in enumerate(hits):
        if not isinstance(hit, NodeWithScore):
            raise SettingsError(
                f"nodes[{position}] is a {type(hit).__name__}; a NodeWithScore is needed: "
                "NodeWithScore(node=...)."
            )
    return hits


def checked_ids(node_ids: Any) -> list[str]:
    """Return the node ids of a list or of any other iterable.

    Raises:
        SettingsError: it is no iterable of strings.
    """
    ids = _to_list(node_ids, "node_ids", "a list of ids is needed, [id] for a single one")
    for position, node_id in enumerate(ids):
        if not isinstance(node_id, str):
            raise SettingsError(
                f"node_ids[{position}] is a {type(node_id).__name__}; "
                "the id of a node is a string (node.node_id)."
            )
    return ids


def checked_asks(asks: Any) -> list[tuple[Any, list[NodeWithScore]]]:
    """Return queries with their retrieved nodes.

    Raises:
        SettingsError: it is no iterable of such pairs.
    """
    needed = "a list of pairs is needed, (QueryBundle(...), its nodes)"
    pairs = _to_list(asks, "asks", needed)
    for position, ask in enumerate(pairs):
        if not isinstance(ask, tuple | list) or len(ask) != 2:
            raise SettingsError(f"asks[{position}] is {shown(ask)}; {needed}.")
    return [(query, checked_hits(nodes)) for query, nodes in pairs]


def checked_texts(texts: Any, name: str) -> list[str]:
    """Return the texts of a list or of any other iterable.

    Raises:
        SettingsError: it is no iterable of strings.
    """
    strings = _to_list(texts, name, "a list of texts is needed, [text] for a single one")
    for position, text in enumerate(strings):
        if not isinstance(text, str):
            raise SettingsError(f"{name}[{position}] is {shown(text)}; a string is needed.")
    return strings


def checked_images(images: Any) -> list[Any]:
    """Return the paths, data: URIs or open files of a list or of any other iterable.

    Raises:
        SettingsError: it is no such iterable.
    """
    needed = "a list of images is needed, [image] for a single one"
    if isinstance(images, io.IOBase):
        raise SettingsError(f"img_file_paths is an open file; {needed}.")
    return _to_list(images, "img_file_paths", needed)


def checked_callbacks(manager: Any) -> CallbackManager:
    """Return LlamaIndex's callback manager; an empty one for None.

    Raises:
        SettingsError: it is something else.
    """
    if manager is None:
        return CallbackManager([])
    if not isinstance(manager, CallbackManager):
        raise SettingsError(
            f"callback_manager={shown(manager)} was given; a CallbackManager is needed."
        )
    return manager


def describe_refused_fields(error: ValidationError, owner: str) -> str:
    """Return in one line which fields of a class pydantic refuses, and why."""
    details = error.errors(include_url=False, include_context=False)
    reasons = []
    for detail in details:
        field = ".".join(map(str, detail["loc"])) or owner
        reasons.append(f"{field}={shown(detail['input'])}: {detail['msg']}")
    return f"{owner}: {'; '.join(reasons)}."


def _to_list(values: Any, name: str, needed: str) -> list[Any]:
    is_single = isinstance(values, str | bytes | dict | BaseNode | NodeWithScore)
    if is_single or not isinstance(values, Iterable):
        raise SettingsError(f"{name} got a {type(values).__name__}; {needed}.")
    return list(values)
