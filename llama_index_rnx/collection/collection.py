"""Nodes in Qdrant: create, upsert, search, payload <-> node.

It knows no addresses and no faults (qdrant.py), no values and keys of metadata (metadata.py, paths.py) and no filter
operators (filters.py).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    Node,
    NodeWithScore,
    TextNode,
)
from llama_index.core.vector_stores.types import MetadataFilters
from platformdirs import user_cache_path
from qdrant_client import QdrantClient, models

from llama_index_rnx.candidates import (
    SOURCE,
    Candidate,
    ImageSource,
    PageNode,
    Query,
    candidate_of,
    dense_texts_of,
    dense_vector_of,
    inline_image,
    note_file,
    restore_inline_image,
)
from llama_index_rnx.collection.connection import (
    MEMORY,
    Location,
    TooLargeError,
    client_again,
    client_options,
    connect,
    line_of,
    urls_of,
)
from llama_index_rnx.collection.filters import TextMatch, qdrant_filter, with_ids, with_substrings
from llama_index_rnx.collection.json_paths import ROOT, original_keys, paths, stored_keys
from llama_index_rnx.collection.metadata import clean_name, json_metadata, json_text, json_value, original_path
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.console import progress_bar
from llama_index_rnx.embed import RNXEmbedding, Vectors, embed_candidates, embed_query, fingerprint_of
from llama_index_rnx.errors import ImageError, RNXError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, with_dynamic_batching
from llama_index_rnx.text import bm25, clean_text
from llama_index_rnx.validation import checked_count, checked_ids, checked_nodes

TEXT, IMAGE, SPARSE = "text", "image", "bm25"  # the named vectors of a point: it has those that its node has
BATCH = 32  # nodes embedded, remembered and written together: a killed run loses no more
RRF_K = 60  # Cormack et al. 2009
IMAGE_FLOOR = 0.75  # by rank alone, the best picture stands among the first 25 texts: a reranker shall see some pictures
DEPTH = 50  # what each source gives to the fusion at least: ranks agree where lists are long enough to overlap
SCROLL = 1_000
EMBEDDED_SCROLL = 100_000  # the embedded engine goes through all points for each page
REQUEST_BYTES = 16 * 2**20  # a server takes 32 MiB at once, some gateways less: then parts are halved
FLOAT_BYTES = 25  # of a vector's number as JSON, at most
LAYOUT = 1  # of the payload; an index of another layout is refused
_NAMESPACE = uuid.UUID("6f6c1f9c-7f0b-5a54-9a0e-6d1b2f1f7a11")
_NODE_TYPES: dict[str, type[BaseNode]] = {
    kind.class_name(): kind for kind in (TextNode, ImageNode, Node, Document, ImageDocument, IndexNode, PageNode)
}
_PAYLOAD_INDEXES = dict.fromkeys(("file", "file_sha", "kind", f"{ROOT}.{SOURCE}"), "keyword")  # filtered by in here
_VALUES_A_FILTER = 500
_EXCLUDED = ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")  # fields of a node that name metadata keys
_PATHS = ("image_path", "pdf_path")  # fields of a node that name a file
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """Which file a node came from: enough to see whether the file changed and whether all its nodes are there.

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
class _Entry:
    """A node on its way into Qdrant, its metadata as it is stored."""

    node: BaseNode
    candidate: Candidate
    stamp: Stamp | None

    @cached_property
    def point_id(self) -> str:
        return _point_id(self.node.node_id)

    @cached_property
    def payload(self) -> dict[str, Any]:
        """What is stored: the node as JSON, its metadata apart (for filters), an inline image apart (for size)."""
        payload: dict[str, Any] = {
            "node": json_text(_node_fields(self.node)),
            "metadata": stored_keys(self.node.metadata),
            "kind": self.candidate.kind,
        }
        inline = inline_image(self.node)
        if inline is not None:
            payload["image_data"] = inline.decode("utf-8", "replace")
        payload["digest"] = hashlib.sha256(f"{self.candidate.digest}\n{json_text(payload)}".encode()).hexdigest()
        return payload | (self.stamp.payload() if self.stamp else {})


class NodeCollection:
    """Nodes in Qdrant, each with the vectors of what it has: a text, an image, or both, and BM25 for its words.

    Args:
        location: a folder (embedded Qdrant), `":memory:"`, the URL of a server, several URLs of one cluster (a list, or
            parted by commas: where one is dead another is asked), or a `QdrantClient`.
        name: of the Qdrant collection.
        embedding: any LlamaIndex `MultiModalEmbedding`; by default `RNXEmbedding()`.
        ranker: prepares its memories when nodes are added; `"auto"` is the embedding's own (`rnx-mini`), `None` prepares none.
        memory_path: where the memories are kept; by default inside the folder, for a server in the user's cache.
        allow_urls: fetch the images of nodes that hold a URL only.
        storage: shards, replicas, quantization, gRPC ... of a Qdrant server.

    A copy answers alike. `copy` shares the engine; `deepcopy` and `pickle` make a collection of their own with the same
    settings: `:memory:` travels with its points, a folder is opened again (by this process as often as you like, by another
    one when this has closed it), a server is connected to. A `QdrantClient` is shared by a deep copy, and pickled as what it
    was made with.

    Raises:
        RNXError: Qdrant is not there, the folder is in use by another process, or the index was made with another model or
            other settings of `storage`.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(id_="a", text="Bees make honey."), TextNode(id_="b", text="Rust is iron oxide.")])
        2
        >>> len(collection)
        2
        >>> [hit.node_id for hit in collection.search(Query(text="what do bees make?"), k=1)]
        ['a']
        >>> collection.add([TextNode(id_="a", text="Bees make honey."), TextNode(id_="b", text="Rust is red.")])  # one changed
        1
    """

    def __init__(
        self,
        location: Location,
        name: str = "rnx",
        embedding: MultiModalEmbedding | None = None,
        ranker: Ranker | Literal["auto"] | None = "auto",
        memory_path: str | Path | None = None,
        allow_urls: bool = False,
        storage: Storage | None = None,
    ) -> None:
        _check_options(embedding, ranker, memory_path, storage)
        self.location, self.name, self.storage = location, _checked(name), storage or Storage()
        self.embedding: MultiModalEmbedding = embedding if embedding is not None else RNXEmbedding()
        self._ranker_setting, self._memory_path = ranker, memory_path
        own = self.embedding.ranker if isinstance(self.embedding, RNXEmbedding) else None
        self.ranker: Ranker | None = own if ranker == "auto" else ranker
        self._shared_ranker = with_dynamic_batching(self.ranker) if self.ranker is not None else None
        self.allow_urls = allow_urls
        self.skipped: list[Skipped] = []
        self._connection = connect(location, self.storage)
        self._where, self._closed = self._connection.where, False
        self._exists = self._prepared = self._quantized = False
        self._connection.refuse_old_server()
        self.memories = self._open_memories(memory_path)
        self._check_made()
        self._connection.join(self)

    def add(self, nodes: Iterable[BaseNode], show_progress: bool | None = None) -> int:
        """Writes the nodes that are new or changed; returns how many. Idempotent by node id.

        A node that cannot be used (neither text nor image, an image that cannot be read) is left out, logged, and listed
        in `skipped`; all others are written.

        Raises:
            RNXError: `nodes` is no list of nodes, two nodes with one id have different contents, Qdrant does not answer, or
                the index is read-only.
        """
        distinct = _distinct(checked_nodes(nodes))
        with progress_bar("indexing", len(distinct), "nodes", show_progress) as advance:
            written = self.write(((node, None) for node in distinct), advance)
        _warn_of(self.skipped)
        return written

    def write(self, stamped: Iterable[tuple[BaseNode, Stamp | None]], advance: Callable[[int], None]) -> int:
        """As `add`, for a stream of nodes with the files that they came from; `advance(n)` is told the progress.

        What is left out is listed in `skipped` and not logged: the caller tells of it by the names of the files.
        """
        self._check_writable()
        self.skipped = []
        self._create()
        written, refused = 0, list[str]()
        with _behind(0 if self.embedded else self.storage.batches_in_flight) as submit:
            for batch in _batches(stamped, BATCH):
                points = self._points(self._changed(list(self._entries(batch))))
                for part in _by_size(points):
                    submit(partial(self._upsert, part, refused))
                written += len(points)
                advance(len(batch))
        return written - len(refused)

    def delete(self, node_ids: Iterable[str]) -> None:
        """Removes the nodes with these ids; unknown ids are ignored."""
        ids = checked_ids(node_ids)
        self._check_writable()
        points = models.PointIdsList(points=[_point_id(node_id) for node_id in ids])
        if ids and self._is_there():
            self._call(lambda client: client.delete(self.name, points_selector=points, wait=True))

    def search(self, query: Query, k: int = 100, filters: MetadataFilters | None = None) -> list[NodeWithScore]:
        """The `k` nearest nodes, texts and images in one list, by one call.

        Two channels: what nodes say (dense and BM25, fused by reciprocal rank, Cormack et al. 2009) and what they show.
        Their cosines are not comparable: a text's is about .8, a picture's .3. An embedding that knows how likely a picture
        of a given cosine is the one (`image_calibration`) adds that likelihood, on the scale of a text that is first in
        both lists; so pictures do not crowd a question that no picture answers. Pictures without text also have a place by
        their rank, further down, or a large collection would hide them. With others the channels are fused by rank.

        Args:
            query: a `Query` of text, image or both; `RNXRetriever` makes one of a LlamaIndex query.
            filters: LlamaIndex's metadata filters, nested ones too; applied before the search. Each text operator reads
                that field of all nodes which meet the other filters of its group: seconds for 100,000 on a server.

        Returns:
            At most `k` nodes, best first, with the score of the fusion; none if nothing was ever added.
        """
        query, k = _checked_query(query), checked_count(k, "k")
        if not self._is_there():
            return []
        self._check_length(query)
        condition = qdrant_filter(filters, self._holding)
        prefetch, fusion = self._channels(query, max(k, DEPTH), condition), _fusion(self.embedding, query)
        found = self._call(
            lambda client: client.query_points(self.name, prefetch=prefetch, query=fusion, limit=k, with_payload=_FOR_NODES)
        )
        points = sorted(found.points, key=lambda point: (-point.score, str(point.id)))  # a server orders ties by chance
        return [NodeWithScore(node=_node_of(point.payload), score=float(point.score)) for point in points]

    def get(self, node_ids: Iterable[str]) -> list[BaseNode]:
        """The nodes with these ids, in this order; unknown ids are left out."""
        ids = [_point_id(node_id) for node_id in checked_ids(node_ids)]
        if not self._is_there():
            return []
        points = self._call(lambda client: client.retrieve(self.name, ids=ids, with_payload=_FOR_NODES))
        nodes = {str(point.id): _node_of(point.payload) for point in points}
        return [nodes[point_id] for point_id in ids if point_id in nodes]

    def files(self, paths: Collection[str], sources: Collection[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """By file path, what is known of each node of these files, and of those whose nodes have one of these sources:
        the fields of its `Stamp`, and its metadata."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        asked, named = set(paths), {clean_name(source) for source in sources}
        for payload in self._of_files(paths, sources):
            if "file" not in payload:
                continue
            if payload["file"] in asked or payload["metadata"].get(SOURCE) in named:
                found[payload["file"]].append(payload)
        return found

    def paths(self) -> set[str]:
        """The paths of all indexed files."""
        return {payload["file"] for _, payload in self._scroll(["file"]) if "file" in payload}

    def remove_file(self, path: str, except_stamp: Stamp | None = None) -> None:
        """Removes the nodes of a file; with `except_stamp` only those of its other versions."""
        self._check_writable()
        same_path = models.FieldCondition(key="file", match=models.MatchValue(value=clean_name(path)))
        condition = models.Filter(must=[same_path])
        if except_stamp is not None:
            condition.must_not = [_with_stamp(except_stamp)]
        selector = models.FilterSelector(filter=condition)
        self._call(lambda client: client.delete(self.name, points_selector=selector, wait=True))

    @property
    def embedded(self) -> bool:
        """Whether Qdrant runs in this process: a folder then has one writer, this one."""
        return self._connection.embedded

    def __len__(self) -> int:
        if not self._is_there():
            return 0
        return int(self._call(lambda client: client.count(self.name, exact=True)).count)

    def close(self) -> None:
        """Lets go of Qdrant and of the memory store; an embedded index is then free for other processes."""
        self._closed = True
        self.memories.close()
        self._connection.leave(self)  # one folder may be open twice in a process

    def __copy__(self) -> NodeCollection:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, skipped=[], memories=copy.copy(self.memories))
        other._connection.join(other)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> NodeCollection:
        """Models are shared, as they are by all who use them."""
        own = not isinstance(self.location, QdrantClient)
        points = self._connection.dump(self.name) if own else None
        return _made_again(type(self), self._settings(), points)

    def __reduce__(self) -> tuple[Callable[..., NodeCollection], tuple[Any, ...]]:
        settings, options = self._settings(), None
        if isinstance(self.location, QdrantClient):
            options = client_options(self.location)
            del settings["location"]
        return _made_again, (type(self), settings, self._connection.dump(self.name), options)

    def _settings(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            "location": self.location,
            "name": self.name,
            "embedding": self.embedding,
            "ranker": self._ranker_setting,
            "memory_path": self._memory_path,
            "allow_urls": self.allow_urls,
            "storage": self.storage,
        }

    def _entries(self, batch: Sequence[tuple[BaseNode, Stamp | None]]) -> Iterator[_Entry]:
        for node, stamp in batch:
            try:
                _check_path(stamp)
                storable = _storable(node)
                entry = _Entry(node=storable, candidate=candidate_of(storable, self.allow_urls), stamp=stamp)
                entry.payload  # noqa: B018  (made here, so that a node that cannot be stored costs itself only)
            except RNXError as error:
                self._skip(node.node_id, error)
            else:
                yield entry

    def _changed(self, entries: list[_Entry]) -> list[_Entry]:
        """Those that are not there yet, or there with another content; of equal ids the last."""
        ids = {entry.point_id: entry for entry in entries}
        known = self._call(
            lambda client: client.retrieve(self.name, ids=list(ids), with_payload=["digest", "file_stat", "file_reader"])
        )
        for point in known:
            payload, stamp = point.payload or {}, ids[str(point.id)].stamp
            same_file = stamp is None or stamp.matches(payload)
            if payload.get("digest") == ids[str(point.id)].payload["digest"] and same_file:
                del ids[str(point.id)]
        return list(ids.values())

    def _points(self, entries: list[_Entry]) -> list[models.PointStruct]:
        """Embeds and remembers; a broken image costs its own node only."""
        if not entries:
            return []
        candidates = [entry.candidate for entry in entries]
        try:
            if self._shared_ranker is not None:
                get_or_compute_memories(
                    self._shared_ranker, candidates, self.memories
                )  # an RNXEmbedding finds its vectors in them
            vectors = embed_candidates(self.embedding, candidates)
        except ImageError as error:
            if len(entries) == 1:
                self._skip(entries[0].node.node_id, error)
                return []
            half = len(entries) // 2
            return self._points(entries[:half]) + self._points(entries[half:])
        return [_point(entry, found) for entry, found in zip(entries, vectors, strict=True)]

    def _check_length(self, query: Query) -> None:
        """Raises RNXError for a vector of the caller's own that is not as long as those of the nodes."""
        if query.dense_vector is None:
            return
        vectors: Any = self._call(lambda client: client.get_collection(self.name)).config.params.vectors
        if len(query.dense_vector) != vectors[TEXT].size:
            raise RNXError(
                f"the query's embedding has {len(query.dense_vector)} numbers, the vectors of this collection have "
                f"{vectors[TEXT].size}; embed the query by the collection's embedding, or leave it out."
            )

    def _channels(self, query: Query, depth: int, condition: models.Filter | None) -> list[models.Prefetch]:
        dense, params = embed_query(self.embedding, query), self._search_params()
        said = [models.Prefetch(query=dense, using=TEXT, limit=depth, filter=condition, params=params)]
        indices, values = bm25.query_vector(query.text)
        if indices:
            sparse = models.SparseVector(indices=indices, values=values)
            said.append(models.Prefetch(query=sparse, using=SPARSE, limit=depth, filter=condition))
        shown = models.Prefetch(query=dense, using=IMAGE, limit=depth, filter=condition, params=params)
        channels = [models.Prefetch(prefetch=said, query=_RRF, limit=depth), shown]
        if isinstance(self.embedding, RNXEmbedding):
            alone = models.Filter(must=[_PICTURE_ALONE, *([condition] if condition else [])])
            pictures = models.Prefetch(query=dense, using=IMAGE, limit=depth, filter=alone, params=params)
            channels.append(models.Prefetch(prefetch=[pictures], query=_RRF, limit=depth))
        return channels

    def _upsert(self, points: list[models.PointStruct], refused: list[str]) -> None:
        """Writes the points; what a server finds too large is halved until the large node stands alone, and is left out.

        refused: gets the ids of the points that were left out; several threads write.
        """
        try:
            self._call(partial(_write, name=self.name, points=points))
        except TooLargeError as error:
            if len(points) == 1:
                refused.append(str(points[0].id))
                self._skip(_node_of(points[0].payload).node_id, _too_large(points[0], error))
                return
            half = len(points) // 2
            self._upsert(points[:half], refused)
            self._upsert(points[half:], refused)

    def _holding(self, match: TextMatch, among: models.Filter | None) -> models.Condition:
        """A condition that is true of the points which hold a text; to make it the field is read page by page."""
        if self.embedded and not match.ignore_case:
            return with_substrings(match, [match.part])
        found = self._scroll(match.fields, among)
        matching = ((point_id, metadata) for point_id, payload in found if match.matches(metadata := payload.get(ROOT)))
        if self.embedded:
            return with_substrings(match, {match.spelling(metadata) for _, metadata in matching})
        return with_ids([point_id for point_id, _ in matching])

    def _call(self, action: Callable[[QdrantClient], T]) -> T:
        if self._closed:
            raise RNXError(f"the collection {self.name!r} at {self._where} was closed; open it again by NodeCollection(...).")
        return self._connection.ask(action)

    def _check_writable(self) -> None:
        if self._connection.read_only:
            raise RNXError(
                f"the index in {self._where} is read-only and can only be searched; make the folder writable, or index into "
                "another one."
            )

    def _open_memories(self, memory_path: str | Path | None) -> MemoryStore:
        """A read-only index has read-only memories beside it; what else is remembered stays in RAM."""
        if memory_path is not None:
            return MemoryStore(memory_path)
        return MemoryStore(_memory_folder(self.location), read_only=self._connection.read_only)

    def _skip(self, node_id: str, error: Exception) -> None:
        self.skipped.append(Skipped(id=clean_name(node_id), reason=clean_name(str(error))))

    def _of_files(self, paths: Collection[str], sources: Collection[str]) -> Iterable[dict[str, Any]]:
        """A server finds these nodes by its payload indexes; the embedded engine, that has none, gives all."""
        fields = ["file", "file_stat", "file_sha", "file_nodes", "file_reader", "metadata"]
        if self.embedded:
            return [payload for _, payload in self._scroll(fields)]
        found: dict[str, dict[str, Any]] = {}
        for key, values in (("file", paths), (f"{ROOT}.{SOURCE}", sources)):
            for part in _batches(map(clean_name, values), _VALUES_A_FILTER):
                among = models.FieldCondition(key=key, match=models.MatchAny(any=part))
                found.update(self._scroll(fields, models.Filter(must=[among])))
        return found.values()

    def _scroll(self, fields: list[str], condition: models.Filter | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Point id and these fields of the payload, of all points or of those that meet the condition."""
        offset: Any = None
        page = EMBEDDED_SCROLL if self.embedded else SCROLL
        while self._is_there():
            points, offset = self._call(partial(_scrolled, self.name, fields, condition, offset, page))
            yield from ((str(point.id), point.payload or {}) for point in points)
            if offset is None:
                return

    def _is_there(self) -> bool:
        if not self._exists:
            self._exists = bool(self._call(lambda client: client.collection_exists(self.name)))
        return self._exists

    def _search_params(self) -> models.SearchParams | None:
        """With quantization: more than asked for by single bytes, then put in order by the full vectors."""
        if not self._quantized:
            return None
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=self.storage.oversampling)
        return models.SearchParams(quantization=rescored)

    def _check_made(self) -> None:
        """Refuses an index whose vectors another model made (its cosines would mean nothing), or with other settings."""
        if not self._is_there():
            return
        config = self._call(lambda client: client.get_collection(self.name)).config
        made = (config.metadata or {}).get("rnx")
        if not made or made.get("layout") != LAYOUT:
            raise RNXError(
                f"collection {self.name!r} at {self._where} was not made by this package; choose another name= or folder."
            )
        ours = fingerprint_of(self.embedding)
        if made["embedding"] != ours:
            raise RNXError(
                f"the index at {self._where} was made with {made['embedding']}, the embedding given is {ours}; "
                "pass the same embedding=, or index again into a new folder."
            )
        found = _made_with(config)
        self.storage.refuse_unless_made(found, self.name, self._where)
        self._quantized = found["quantization"] is not None

    def _create(self) -> None:
        """Makes the collection unless it is there; of two workers that try at once the second takes what the first made."""
        if not self._is_there():
            settings = _settings(self.storage, _dimensions(self.embedding), fingerprint_of(self.embedding))
            try:
                self._connection.create(self.name, settings)
            except ValueError:  # RNXError from a server
                if not self._is_there():
                    raise
            else:
                self._check_metadata()
            self._check_made()
        if not self._prepared and not self.embedded:  # the embedded engine has no payload indexes and warns
            self._index_payload()
        self._prepared = True

    def _check_metadata(self) -> None:
        """Of a server that hides its version: one that is too old keeps no metadata, and the collection goes again."""
        config = self._call(lambda client: client.get_collection(self.name)).config
        if not config.metadata:
            self._call(lambda client: client.delete_collection(self.name))
            raise RNXError(f"Qdrant at {self._where} keeps no metadata of collections; Qdrant 1.16 or newer is needed.")

    def _index_payload(self) -> None:
        asked = self.storage.metadata_indexes.items()
        wanted = _PAYLOAD_INDEXES | {path: kind for name, kind in asked for path in paths(name)}
        there = self._call(lambda client: client.get_collection(self.name)).payload_schema
        for key, kind in wanted.items():
            if key not in there:
                self._call(partial(_index_field, name=self.name, field=key, kind=models.PayloadSchemaType(kind)))


def _made_again(
    kind: type[NodeCollection],
    settings: Mapping[str, Any],
    points: Any,
    options: Mapping[str, Any] | None = None,
) -> NodeCollection:
    """A collection of these settings, with the points of an engine in RAM and the options of a client that was handed in."""
    location = {} if options is None else {"location": client_again(options)}
    collection = kind(**{**settings, **location})
    if points is not None:
        collection._connection.restore(collection.name, points)
        collection._check_made()
    return collection


def _write(client: QdrantClient, name: str, points: list[models.PointStruct]) -> None:
    client.upsert(name, points=points, wait=True)


def _by_size(points: Sequence[models.PointStruct]) -> Iterator[list[models.PointStruct]]:
    """Parts that a server takes at once: it refuses requests above 32 MiB, and photographs as base64 are large."""
    part: list[models.PointStruct] = []
    size = 0
    for point in points:
        own = _request_bytes(point)
        if part and size + own > REQUEST_BYTES:
            yield part
            part, size = [], 0
        part.append(point)
        size += own
    if part:
        yield part


def _request_bytes(point: models.PointStruct) -> int:
    """What a point takes in a request: its payload as JSON, and its vectors."""
    vectors: Iterable[Any] = point.vector.values() if isinstance(point.vector, dict) else []
    numbers = sum(2 * len(one.values) if isinstance(one, models.SparseVector) else len(one) for one in vectors)
    return len(json_text(point.payload).encode()) + FLOAT_BYTES * numbers


def _too_large(point: models.PointStruct, error: Exception) -> RNXError:
    return RNXError(
        f"it takes {_request_bytes(point):,} bytes, more than the server accepts at once; shorten its text, picture or "
        f"metadata ({error})."
    )


def _warn_of(skipped: Sequence[Skipped]) -> None:
    """One line for a call, however many nodes it left out."""
    if skipped:
        others = f" (and {len(skipped) - 1:,} others, listed in `skipped`)" if len(skipped) > 1 else ""
        log.warning("node %r is left out: %s%s", skipped[0].id, skipped[0].reason, others)


def _with_stamp(stamp: Stamp) -> models.Filter:
    """The nodes that were read off this content by this reader."""
    fields = {"file_sha": stamp.sha256} | ({"file_reader": stamp.reader} if stamp.reader else {})
    return models.Filter(
        must=[models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in fields.items()]
    )


def _scrolled(
    name: str, fields: list[str], condition: models.Filter | None, offset: Any, page: int, client: QdrantClient
) -> tuple[list[models.Record], Any]:
    return client.scroll(name, scroll_filter=condition, limit=page, offset=offset, with_payload=fields)


def _index_field(client: QdrantClient, name: str, field: str, kind: models.PayloadSchemaType) -> None:
    client.create_payload_index(name, field_name=field, field_schema=kind)


@contextmanager
def _behind(at_once: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yields `submit(work)`: at most so many are under way, and a fault comes out of a later submit or of the end.

    With 0 the work is done on the spot.
    """
    if at_once == 0:
        yield lambda work: work()
        return
    under_way: deque[Future[None]] = deque()

    def submit(work: Callable[[], None]) -> None:
        while len(under_way) >= at_once:
            under_way.popleft().result()
        under_way.append(pool.submit(work))

    with ThreadPoolExecutor(at_once, thread_name_prefix="rnx-write") as pool:
        yield submit
        while under_way:
            under_way.popleft().result()


def _settings(storage: Storage, dimensions: int, fingerprint: str) -> dict[str, Any]:
    """The arguments of `create_collection`."""
    dense = models.VectorParams(size=dimensions, distance=models.Distance.COSINE, on_disk=storage.on_disk)
    index = models.SparseIndexParams(on_disk=True) if storage.on_disk else None
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF, index=index)
    scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
    return {
        "vectors_config": {TEXT: dense, IMAGE: dense},
        "sparse_vectors_config": {SPARSE: sparse},
        "metadata": {"rnx": {"layout": LAYOUT, "embedding": fingerprint}},
        "shard_number": storage.shards,
        "replication_factor": storage.replication_factor,
        "write_consistency_factor": storage.write_consistency_factor,
        "on_disk_payload": storage.payload_on_disk,
        "quantization_config": models.ScalarQuantization(scalar=scalar) if storage.quantization else None,
    }


def _made_with(config: models.CollectionConfig) -> dict[str, Any]:
    """The settings of a collection that is there, in the words of `Storage`."""
    params = config.params
    vectors = params.vectors if isinstance(params.vectors, dict) else {}
    return {
        "shards": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk": bool(vectors and vectors[TEXT].on_disk),
        "payload_on_disk": params.on_disk_payload,
        "quantization": "int8" if isinstance(config.quantization_config, models.ScalarQuantization) else None,
    }


_RRF = models.RrfQuery(rrf=models.Rrf(k=RRF_K))


def _fusion(embedding: MultiModalEmbedding, query: Query) -> models.RrfQuery | models.FormulaQuery:
    """How the two channels become one score: the first by its own, the second by the logistic of its cosine.

    Pictures that are asked for by a picture count with the cosine itself: it is theirs, and a likelihood near 1 for all.
    """
    if not isinstance(embedding, RNXEmbedding):
        return _RRF
    if query.image is not None:
        return _sum_of_channels("$score[1]")
    scale, bias = embedding.image_calibration
    odds = models.SumExpression(sum=[-bias, models.MultExpression(mult=[-scale, "$score[1]"])])
    likelihood = models.DivExpression(
        div=models.DivParams(left=1.0, right=models.SumExpression(sum=[1.0, models.ExpExpression(exp=odds)]))
    )
    return _sum_of_channels(likelihood)


def _sum_of_channels(shown: str | models.DivExpression) -> models.FormulaQuery:
    weighed = models.MultExpression(mult=[2 / (RRF_K + 1), shown])  # 1 weighs as much as being first in two lists
    floor = models.MultExpression(mult=[IMAGE_FLOOR, "$score[2]"])
    nothing = {"$score[0]": 0.0, "$score[1]": -1.0, "$score[2]": 0.0}  # of a node that is not in that channel
    return models.FormulaQuery(formula=models.SumExpression(sum=["$score[0]", weighed, floor]), defaults=nothing)


_PICTURE_ALONE = models.FieldCondition(key="kind", match=models.MatchValue(value="image"))
_FOR_NODES = models.PayloadSelectorInclude(include=["node", "metadata", "image_data", "file", "file_stat"])


def holds_index(folder: Path) -> bool:
    """Whether embedded Qdrant was here before; to open a folder would make an index of it."""
    return (folder.expanduser() / "meta.json").is_file()


def _checked(name: str) -> str:
    """An embedded collection is a folder of its name: it must not lead out of the index."""
    if not isinstance(name, str):
        raise RNXError(f"name= got a {_kind(name)}; the name of a collection is a string.")
    is_path = name in (".", "..") or bool(set(name) & set("/\\"))
    if not name.strip() or is_path or not name.isprintable() or len(name.encode()) > 255:
        raise RNXError(f"{shown(name)} is no name of a collection; give one to 255 characters, without slashes.")
    return name


def _check_options(embedding: Any, ranker: Any, memory_path: Any, storage: Any) -> None:
    if embedding is not None and not isinstance(embedding, BaseEmbedding):
        raise RNXError(f"embedding= got a {_kind(embedding)}; a LlamaIndex MultiModalEmbedding is needed.")
    is_auto = ranker is None or (isinstance(ranker, str) and ranker == "auto")
    if not is_auto and (isinstance(ranker, type) or not isinstance(ranker, Ranker)):
        raise RNXError(f"ranker= got a {_kind(ranker)}; a Ranker (load_ranker(...)), 'auto' or None is needed.")
    if memory_path is not None and not isinstance(memory_path, str | Path):
        raise RNXError(f"memory_path= got a {_kind(memory_path)}; a folder or an address is needed.")
    if storage is not None and not isinstance(storage, Storage):
        raise RNXError(f"storage= got a {_kind(storage)}; Storage(...) is needed.")


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _checked_query(query: Any) -> Query:
    """The query, its text as an index can hold it."""
    if not isinstance(query, Query):
        raise RNXError(f"query= got a {_kind(query)}; Query(text=..., image=...) is needed; RNXRetriever takes strings.")
    if not isinstance(query.text, str) or not (query.image is None or isinstance(query.image, ImageSource)):
        raise RNXError("the query's text must be a string, its image one of file_source(path) or bytes_source(data).")
    cleaned = replace(
        query,
        text=clean_text(query.text),
        dense_texts=dense_texts_of(query.dense_texts),
        dense_vector=dense_vector_of(query.dense_vector),
    )
    if cleaned.is_empty:
        raise RNXError("the query is empty; give it a text, an image, or both.")
    return cleaned


def _memory_folder(location: Location) -> Path | None:
    if isinstance(location, QdrantClient) or str(location) == MEMORY:
        return None
    if urls_of(location):
        return user_cache_path("llama-index-rnx") / "memories"
    return Path(str(location)).expanduser().resolve() / "memories"


def _dimensions(embedding: MultiModalEmbedding) -> int:
    return len(embedding.get_query_embedding("how long is a vector?"))


def _point_id(node_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, clean_name(node_id)))


def _point(entry: _Entry, dense: Vectors) -> models.PointStruct:
    vectors: dict[str, Any] = {}
    if dense.text is not None:
        vectors[TEXT] = dense.text
        indices, values = bm25.document_vector(entry.candidate.text)
        if indices:
            vectors[SPARSE] = models.SparseVector(indices=indices, values=values)
    if dense.image is not None:
        vectors[IMAGE] = dense.image
    return models.PointStruct(id=entry.point_id, vector=vectors, payload=entry.payload)


def _check_path(stamp: Stamp | None) -> None:
    if stamp is not None and clean_name(stamp.path) != stamp.path:
        raise RNXError(f"{clean_name(stamp.path)}: the name of the file is not UTF-8; rename it.")


def _storable(node: BaseNode) -> BaseNode:
    """The node with its metadata as it is stored, so that what is embedded now is what a retrieved node says later."""
    excluded = {name: [clean_name(key) for key in getattr(node, name)] for name in _EXCLUDED}
    return node.model_copy(update={"metadata": json_metadata(node.metadata), **excluded})


def _node_fields(node: BaseNode) -> dict[str, Any]:
    """The node as JSON, without its metadata and its inline image."""
    try:
        dumped = node.model_dump(mode="json", exclude={"embedding", "image", "metadata"}, fallback=json_value)
        fields: dict[str, Any] = json_value(_with_clean_texts(dumped))
    except (ValueError, TypeError, RecursionError) as error:
        raise RNXError(f"node {node.node_id!r} cannot be stored as JSON ({line_of(error)}); mend text or metadata.") from error
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
    """In a text half a surrogate pair becomes a question mark, as in what is embedded; elsewhere its escape."""
    for owner in (fields, *(fields.get(name) or {} for name in ("text_resource", "image_resource"))):
        if isinstance(owner.get("text"), str):
            owner["text"] = owner["text"].encode("utf-8", "replace").decode()
    return fields


def _node_of(payload: Mapping[str, Any] | None) -> BaseNode:
    fields = json.loads((payload or {})["node"])
    fields |= {name: original_path(fields[name]) for name in _PATHS if isinstance(fields.get(name), str)}
    metadata = original_keys((payload or {}).get("metadata") or {})
    node = _NODE_TYPES[fields["class_name"]].from_dict(fields | {"metadata": metadata})
    if payload and "file" in payload:
        note_file(payload["file"], *payload["file_stat"])
    if payload and "image_data" in payload:
        restore_inline_image(node, payload["image_data"].encode())
    return node


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _equal(one: BaseNode, other: BaseNode) -> bool:
    """Whether both are stored alike: numpy's 1 is 1."""
    if one.hash == other.hash:
        return True
    try:
        return bool(_storable(one).hash == _storable(other).hash)
    except RNXError:  # one of them cannot be stored
        return False


def _distinct(nodes: Sequence[BaseNode]) -> list[BaseNode]:
    """Each node once; two with one id must be equal."""
    seen: dict[str, BaseNode] = {}
    for node in nodes:
        first = seen.setdefault(clean_name(node.node_id), node)
        if first is not node and not _equal(first, node):
            raise RNXError(f"two different nodes have the id {node.node_id!r}; give each an id of its own.")
    return list(seen.values())
