"""A node as a point of Qdrant, and back: ids, vectors, payload. It sends nothing."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    Node,
    TextNode,
)
from qdrant_client import models

from llama_index_rnx.candidates import (
    Candidate,
    PageNode,
    inline_image,
    note_file,
    restore_inline_image,
)
from llama_index_rnx.collection.connection import line_of
from llama_index_rnx.collection.json_paths import original_keys, stored_keys
from llama_index_rnx.collection.metadata import (
    clean_name,
    json_metadata,
    json_text,
    json_value,
    original_path,
)
from llama_index_rnx.embed import Vectors
from llama_index_rnx.errors import RNXError
from llama_index_rnx.text import bm25

TEXT, IMAGE, SPARSE = (
    "text",
    "image",
    "bm25",
)  # the named vectors of a point: it has those that its node has


_NAMESPACE = uuid.UUID("6f6c1f9c-7f0b-5a54-9a0e-6d1b2f1f7a11")


_NODE_TYPES: dict[str, type[BaseNode]] = {
    kind.class_name(): kind
    for kind in (TextNode, ImageNode, Node, Document, ImageDocument, IndexNode, PageNode)
}


_EXCLUDED = (
    "excluded_embed_metadata_keys",
    "excluded_llm_metadata_keys",
)  # fields of a node that name metadata keys


_PATHS = ("image_path", "pdf_path")  # fields of a node that name a file


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Which file a node came from: enough to see whether the file changed and whether all its nodes
    are there.

    `reader` is the version of what read the file; in an index of before it was counted it is 0.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    nodes: int
    reader: int = 0

    def payload(self) -> dict[str, Any]:
        """The payload fields of a stamp, flat."""
        fields = {
            "file": self.path,
            "file_stat": [self.size, self.mtime_ns],
            "file_sha": self.sha256,
            "file_nodes": self.nodes,
        }
        return fields | ({"file_reader": self.reader} if self.reader else {})

    def matches(self, payload: Mapping[str, Any]) -> bool:
        """Whether a node with this payload was read off the same state of the file, and alike."""
        same_reader = payload.get("file_reader", 0) == self.reader
        return same_reader and payload.get("file_stat") == [self.size, self.mtime_ns]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A node or a file that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PreparedNode:
    """A node on its way into Qdrant, its metadata as it is stored."""

    node: BaseNode
    candidate: Candidate
    stamp: Stamp | None

    @cached_property
    def point_id(self) -> str:
        return point_id_of(self.node.node_id)

    @cached_property
    def payload(self) -> dict[str, Any]:
        """What is stored: the node as JSON, its metadata apart (for filters), an inline image apart
        (for size).
        """
        payload: dict[str, Any] = {
            "node": json_text(_node_fields(self.node)),
            "metadata": stored_keys(self.node.metadata),
            "kind": self.candidate.kind,
        }
        inline = inline_image(self.node)
        if inline is not None:
            payload["image_data"] = inline.decode("utf-8", "replace")
        payload["digest"] = hashlib.sha256(
            f"{self.candidate.digest}\n{json_text(payload)}".encode()
        ).hexdigest()
        return payload | (self.stamp.payload() if self.stamp else {})


NODE_FIELDS = models.PayloadSelectorInclude(
    include=["node", "metadata", "image_data", "file", "file_stat"]
)


def point_id_of(node_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, clean_name(node_id)))


def build_point(entry: PreparedNode, dense: Vectors) -> models.PointStruct:
    vectors: dict[str, Any] = {}
    if dense.text is not None:
        vectors[TEXT] = dense.text
        indices, values = bm25.document_vector(entry.candidate.text)
        if indices:
            vectors[SPARSE] = models.SparseVector(indices=indices, values=values)
    if dense.image is not None:
        vectors[IMAGE] = dense.image
    return models.PointStruct(id=entry.point_id, vector=vectors, payload=entry.payload)


def check_path(stamp: Stamp | None) -> None:
    if stamp is not None and clean_name(stamp.path) != stamp.path:
        raise RNXError(f"{clean_name(stamp.path)}: the name of the file is not UTF-8; rename it.")


def with_stored_metadata(node: BaseNode) -> BaseNode:
    """The node with its metadata as it is stored, so that what is embedded now is what a retrieved
    node says later.
    """
    excluded = {name: [clean_name(key) for key in getattr(node, name)] for name in _EXCLUDED}
    return node.model_copy(update={"metadata": json_metadata(node.metadata), **excluded})


def _node_fields(node: BaseNode) -> dict[str, Any]:
    """The node as JSON, without its metadata and its inline image."""
    try:
        dumped = node.model_dump(
            mode="json", exclude={"embedding", "image", "metadata"}, fallback=json_value
        )
        fields: dict[str, Any] = json_value(_with_clean_texts(dumped))
    except (ValueError, TypeError, RecursionError) as error:
        raise RNXError(
            f"node {node.node_id!r} cannot be stored as JSON ({line_of(error)}); mend text or metadata."
        ) from error
    if fields.get("class_name") not in _NODE_TYPES:
        fields["class_name"] = _stored_kind(node)
    return fields


def _stored_kind(node: BaseNode) -> str:
    """As what a node of the user's own class comes back."""
    for kind in (ImageNode, TextNode, Node):
        if isinstance(node, kind):
            return kind.class_name()
    raise RNXError(
        f"node {node.node_id!r} is a {type(node).__name__}, which is no kind of TextNode, ImageNode or Node; make it one."
    )


def _with_clean_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """In a text half a surrogate pair becomes a question mark, as in what is embedded; elsewhere
    its escape.
    """
    for owner in (
        fields,
        *(fields.get(name) or {} for name in ("text_resource", "image_resource")),
    ):
        if isinstance(owner.get("text"), str):
            owner["text"] = owner["text"].encode("utf-8", "replace").decode()
    return fields


def node_from_payload(payload: Mapping[str, Any] | None) -> BaseNode:
    fields = json.loads((payload or {})["node"])
    fields |= {
        name: original_path(fields[name]) for name in _PATHS if isinstance(fields.get(name), str)
    }
    metadata = original_keys((payload or {}).get("metadata") or {})
    node = _NODE_TYPES[fields["class_name"]].from_dict(fields | {"metadata": metadata})
    if payload and "file" in payload and isinstance(node, ImageNode):
        note_file(payload["file"], *payload["file_stat"])
    if payload and "image_data" in payload:
        restore_inline_image(node, payload["image_data"].encode())
    return node


def _equal(one: BaseNode, other: BaseNode) -> bool:
    """Whether both are stored alike: numpy's 1 is 1."""
    if one.hash == other.hash:
        return True
    try:
        return bool(with_stored_metadata(one).hash == with_stored_metadata(other).hash)
    except RNXError:  # one of them cannot be stored
        return False


def deduplicate(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """Each node once; two with one id must be equal."""
    seen: dict[str, BaseNode] = {}
    for node in nodes:
        first = seen.setdefault(clean_name(node.node_id), node)
        if first is not node and not _equal(first, node):
            raise RNXError(
                f"two different nodes have the id {node.node_id!r}; give each an id of its own."
            )
    return list(seen.values())
