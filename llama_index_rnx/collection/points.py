"""A node as a point of Qdrant, and back: ids, vectors, payload. It sends nothing."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
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
    restore_inline_image,
    with_file_state,
)
from llama_index_rnx.collection.json_paths import original_keys, stored_keys
from llama_index_rnx.collection.metadata import (
    clean_name,
    json_metadata,
    json_text,
    json_value,
    original_path,
)
from llama_index_rnx.embed import Vectors
from llama_index_rnx.errors import RNXError, SettingsError, one_line
from llama_index_rnx.text import bm25

# The names of a point's vectors: it has those that its node has.
TEXT = "text"
IMAGE = "image"
SPARSE = "bm25"

_NAMESPACE = uuid.UUID("6f6c1f9c-7f0b-5a54-9a0e-6d1b2f1f7a11")

_NODE_TYPES: dict[str, type[BaseNode]] = {
    kind.class_name(): kind
    for kind in (TextNode, ImageNode, Node, Document, ImageDocument, IndexNode, PageNode)
}

# Fields of a node that name metadata keys.
_EXCLUDED = ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")

_PATHS = ("image_path", "pdf_path")  # fields of a node that name a file

# The fields of a payload that a node is made of.
NODE_FIELDS = models.PayloadSelectorInclude(
    include=["node", "metadata", "image_data", "file", "file_stat"]
)


# The fields of a payload by which a node is recognised as unchanged.
STORED_FIELDS = ["digest", "file_stat", "file_reader"]


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """The file that a node came from: enough to see whether the file changed and whether all its
    nodes are there.

    Attributes:
        size: in bytes.
        mtime_ns: when the file was changed, in nanoseconds.
        nodes: how many nodes the file gives.
        reader: the version of the code that read the file; 0 in an index that is older than that.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    nodes: int
    reader: int = 0

    def payload(self) -> dict[str, Any]:
        """Return the payload fields of a stamp, flat."""
        fields = {
            "file": self.path,
            "file_stat": [self.size, self.mtime_ns],
            "file_sha": self.sha256,
            "file_nodes": self.nodes,
        }
        return fields | ({"file_reader": self.reader} if self.reader else {})

    def matches(self, payload: Mapping[str, Any]) -> bool:
        """Return whether a node with this payload was read from the same state of the file, and by
        the same version of the reader.
        """
        same_reader = payload.get("file_reader", 0) == self.reader
        return same_reader and payload.get("file_stat") == [self.size, self.mtime_ns]


@dataclass(frozen=True, kw_only=True)
class PreparedNode:
    """A node on its way into Qdrant: with its metadata as it is stored, and its candidate."""

    node: BaseNode
    candidate: Candidate
    stamp: Stamp | None

    @cached_property
    def point_id(self) -> str:
        return point_id_of(self.node.node_id)

    def is_stored(self, stored: Mapping[str, Any] | None) -> bool:
        """Return whether a point holds this node already.

        Args:
            stored: the `STORED_FIELDS` of the point with this node's id; None where there is none.
        """
        if stored is None:
            return False
        same_file = self.stamp is None or self.stamp.matches(stored)
        return same_file and stored.get("digest") == self.payload["digest"]

    @cached_property
    def payload(self) -> dict[str, Any]:
        """The payload of the point: the node as JSON, its metadata apart (for filters), an inline
        image apart (for size).
        """
        payload: dict[str, Any] = {
            "node": json_text(_node_fields(self.node)),
            "metadata": stored_keys(self.node.metadata),
            "kind": self.candidate.kind,
        }
        inline = inline_image(self.node)
        if inline is not None:
            payload["image_data"] = inline.decode("utf-8", "replace")

        contents = f"{self.candidate.digest}\n{json_text(payload)}"
        payload["digest"] = hashlib.sha256(contents.encode()).hexdigest()
        return payload | (self.stamp.payload() if self.stamp else {})


# A node's id is needed when it is looked up, and again when it is written.
@lru_cache(maxsize=1_024)
def point_id_of(node_id: str) -> str:
    """Return the id of the point of a node: Qdrant takes UUIDs only."""
    return str(uuid.uuid5(_NAMESPACE, clean_name(node_id)))


def build_point(prepared: PreparedNode, dense: Vectors) -> models.PointStruct:
    """Return the point of a node, with a vector for BM25 where its text has words.

    Nothing is validated, which would look at each number again: all of it was made here, and
    `Vectors` hold plain numbers.
    """
    vectors: dict[str, Any] = {}
    if dense.text is not None:
        vectors[TEXT] = dense.text
        indices, values = bm25.document_vector(prepared.candidate.text)
        if indices:
            vectors[SPARSE] = models.SparseVector.model_construct(indices=indices, values=values)
    if dense.image is not None:
        vectors[IMAGE] = dense.image
    return models.PointStruct.model_construct(
        id=prepared.point_id, vector=vectors, payload=prepared.payload
    )


def check_path(stamp: Stamp | None) -> None:
    """Raise SettingsError for a file whose name is not UTF-8."""
    if stamp is not None and clean_name(stamp.path) != stamp.path:
        raise SettingsError(
            f"{clean_name(stamp.path)}: the name of the file is not UTF-8; rename it."
        )


def with_stored_metadata(node: BaseNode) -> BaseNode:
    """Return the node with its metadata as it is stored, so that what is embedded now is what a
    retrieved node says later.

    Raises:
        SettingsError: a value of the metadata cannot be stored.
    """
    excluded = {name: [clean_name(key) for key in getattr(node, name)] for name in _EXCLUDED}
    return node.model_copy(update={"metadata": json_metadata(node.metadata), **excluded})


def node_from_payload(payload: Mapping[str, Any] | None) -> BaseNode:
    """Return the node of a point, made anew."""
    payload = payload or {}
    fields = json.loads(payload["node"])
    for name in _PATHS:
        if isinstance(fields.get(name), str):
            fields[name] = original_path(fields[name])
    fields["metadata"] = original_keys(payload.get("metadata") or {})

    node = _NODE_TYPES[fields["class_name"]].from_dict(fields)
    # Only an image node looks into its file; a text is in the index itself.
    if "file" in payload and isinstance(node, ImageNode):
        size, mtime_ns = payload["file_stat"]
        node = with_file_state(node, size, mtime_ns)
    if "image_data" in payload:
        restore_inline_image(node, payload["image_data"].encode())
    return node


def deduplicate(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """Return each node once.

    Raises:
        SettingsError: two nodes with one id have different contents.
    """
    by_id: dict[str, BaseNode] = {}
    for node in nodes:
        first = by_id.setdefault(clean_name(node.node_id), node)
        if first is not node and not _stored_alike(first, node):
            raise SettingsError(
                f"two different nodes have the id {node.node_id!r}; give each an id of its own."
            )
    return list(by_id.values())


def _node_fields(node: BaseNode) -> dict[str, Any]:
    """Return the node as JSON, without its metadata and its inline image."""
    try:
        dumped = node.model_dump(
            mode="json", exclude={"embedding", "image", "metadata"}, fallback=json_value
        )
        fields: dict[str, Any] = json_value(_with_clean_texts(dumped))
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingsError(
            f"node {node.node_id!r} cannot be stored as JSON ({one_line(error)}); "
            "correct its text or metadata."
        ) from error
    if fields.get("class_name") not in _NODE_TYPES:
        fields["class_name"] = _stored_kind(node)
    return fields


def _stored_kind(node: BaseNode) -> str:
    """Return the class that a node of the user's own class comes back as."""
    for kind in (ImageNode, TextNode, Node):
        if isinstance(node, kind):
            return kind.class_name()
    raise SettingsError(
        f"node {node.node_id!r} is a {type(node).__name__}, which is no kind of TextNode, "
        "ImageNode or Node; make it one."
    )


def _with_clean_texts(fields: dict[str, Any]) -> dict[str, Any]:
    """Replace half a surrogate pair in a text by a question mark, as in what is embedded; elsewhere
    it becomes its escape.
    """
    resources = (fields.get(name) or {} for name in ("text_resource", "image_resource"))
    for owner in (fields, *resources):
        if isinstance(owner.get("text"), str):
            owner["text"] = owner["text"].encode("utf-8", "replace").decode()
    return fields


def _stored_alike(first: BaseNode, second: BaseNode) -> bool:
    """Return whether both nodes are stored alike: numpy's 1 is 1."""
    if first.hash == second.hash:
        return True
    try:
        return bool(with_stored_metadata(first).hash == with_stored_metadata(second).hash)
    # One of them cannot be stored.
    except RNXError:
        return False
