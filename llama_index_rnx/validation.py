"""Checks what is handed to public methods: one line says what was got and what is needed. It knows
no Qdrant and no model.
"""

from __future__ import annotations

import io
import operator
from collections.abc import Iterable
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, NodeWithScore
from pydantic import ValidationError

from llama_index_rnx.errors import RNXError, shown


def checked_count(value: Any, name: str, least: int = 1) -> int:
    """A whole number, numpy's too.

    Raises:
        RNXError: it is something else, or too small.

    Example:
        >>> checked_count(5, "k")
        5
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise RNXError(f"{name}={shown(value)} was given; a whole number is needed.")
    if count < least:
        raise RNXError(f"{name}={count} was given; it must be {least} or more.")
    return count


def checked_nodes(nodes: Any) -> list[BaseNode]:
    """The nodes of a list or of any other iterable.

    Raises:
        RNXError: it is no iterable of nodes.
    """
    found = _listed(nodes, "nodes", "a list of nodes is needed, [node] for a single one")
    for position, node in enumerate(found):
        if isinstance(node, NodeWithScore):
            raise RNXError(
                f"nodes[{position}] is a NodeWithScore, as a retriever gives them; nodes are needed: "
                "[hit.node for hit in hits]."
            )
        if not isinstance(node, BaseNode):
            raise RNXError(
                f"nodes[{position}] is a {type(node).__name__}; a LlamaIndex node is needed, for a text TextNode(text=...)."
            )
    return found


def checked_hits(nodes: Any) -> list[NodeWithScore]:
    """The retrieved nodes of a list or of any other iterable.

    Raises:
        RNXError: it is no iterable of NodeWithScore.
    """
    found = _listed(nodes, "nodes", "a list of NodeWithScore is needed, as a retriever gives it")
    for position, hit in enumerate(found):
        if not isinstance(hit, NodeWithScore):
            raise RNXError(
                f"nodes[{position}] is a {type(hit).__name__}; a NodeWithScore is needed: NodeWithScore(node=...)."
            )
    return found


def checked_ids(node_ids: Any) -> list[str]:
    """The node ids of a list or of any other iterable.

    Raises:
        RNXError: it is no iterable of strings.
    """
    found = _listed(node_ids, "node_ids", "a list of ids is needed, [id] for a single one")
    for position, node_id in enumerate(found):
        if not isinstance(node_id, str):
            raise RNXError(
                f"node_ids[{position}] is a {type(node_id).__name__}; the id of a node is a string (node.node_id)."
            )
    return found


def checked_asks(asks: Any) -> list[tuple[Any, list[NodeWithScore]]]:
    """Queries with their retrieved nodes.

    Raises:
        RNXError: it is no iterable of such pairs.
    """
    needed = "a list of pairs is needed, (QueryBundle(...), its nodes)"
    pairs = _listed(asks, "asks", needed)
    for position, ask in enumerate(pairs):
        if not isinstance(ask, tuple | list) or len(ask) != 2:
            raise RNXError(f"asks[{position}] is {shown(ask)}; {needed}.")
    return [(query, checked_hits(nodes)) for query, nodes in pairs]


def checked_texts(texts: Any, name: str) -> list[str]:
    """The texts of a list or of any other iterable.

    Raises:
        RNXError: it is no iterable of strings.
    """
    strings = _listed(texts, name, "a list of texts is needed, [text] for a single one")
    for position, text in enumerate(strings):
        if not isinstance(text, str):
            raise RNXError(f"{name}[{position}] is {shown(text)}; a string is needed.")
    return strings


def checked_pictures(pictures: Any) -> list[Any]:
    """The paths, data: URIs or open files of a list or of any other iterable.

    Raises:
        RNXError: it is none.
    """
    if isinstance(pictures, io.IOBase):
        raise RNXError(
            "img_file_paths is an open file; a list of pictures is needed, [picture] for a single one."
        )
    return _listed(
        pictures, "img_file_paths", "a list of pictures is needed, [picture] for a single one"
    )


def checked_callbacks(manager: Any) -> CallbackManager:
    """LlamaIndex's callback manager; an empty one for None.

    Raises:
        RNXError: it is something else.
    """
    if manager is None:
        return CallbackManager([])
    if not isinstance(manager, CallbackManager):
        raise RNXError(f"callback_manager={shown(manager)} was given; a CallbackManager is needed.")
    return manager


def one_line(error: ValidationError, owner: str) -> str:
    """What pydantic found wrong with the fields of a class, in one line."""
    wrong = (
        f"{'.'.join(map(str, fault['loc'])) or owner}={shown(fault['input'])}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_context=False)
    )
    return f"{owner}: " + "; ".join(wrong) + "."


def _listed(values: Any, name: str, needed: str) -> list[Any]:
    is_single = isinstance(values, str | bytes | dict | BaseNode | NodeWithScore)
    if is_single or not isinstance(values, Iterable):
        raise RNXError(f"{name} got a {type(values).__name__}; {needed}.")
    return list(values)
