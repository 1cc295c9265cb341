"""Nodes in Qdrant: create, upsert, search, payload <-> node.

It knows no addresses and no faults (qdrant.py), no values and keys of metadata (metadata.py,
paths.py) and no filter operators (filters.py).
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import (
    BaseNode,
    NodeWithScore,
)
from llama_index.core.vector_stores.types import MetadataFilters
from platformdirs import user_cache_path
from qdrant_client import QdrantClient, models

from llama_index_rnx.candidates import (
    SOURCE,
    ImageSource,
    Query,
    candidate_of,
    dense_texts_of,
    dense_vector_of,
)
from llama_index_rnx.collection.connection import (
    MEMORY,
    Location,
    TooLargeError,
    client_again,
    client_options,
    connect,
    urls_of,
)
from llama_index_rnx.collection.filters import TextMatch, qdrant_filter, with_ids, with_substrings
from llama_index_rnx.collection.fusion import DEPTH, RRF, fusion_query
from llama_index_rnx.collection.json_paths import ROOT, paths
from llama_index_rnx.collection.metadata import clean_name
from llama_index_rnx.collection.points import (
    IMAGE,
    NODE_FIELDS,
    SPARSE,
    TEXT,
    PreparedNode,
    Skipped,
    Stamp,
    build_point,
    check_path,
    deduplicate,
    node_from_payload,
    point_id_of,
    with_stored_metadata,
)
from llama_index_rnx.collection.schema import (
    LAYOUT,
    PAYLOAD_INDEXES,
    create_field_index,
    creation_options,
    creation_settings,
    embedding_dimensions,
)
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.collection.upload import (
    T,
    background_writes,
    batched,
    split_by_size,
    too_large_error,
    upsert_points,
)
from llama_index_rnx.console import progress_bar
from llama_index_rnx.defaults import COLLECTION_NAME, TOP_K
from llama_index_rnx.embed import RNXEmbedding, embed_candidates, embed_query, fingerprint_of
from llama_index_rnx.errors import ImageError, RNXError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, with_dynamic_batching
from llama_index_rnx.text import bm25, clean_text
from llama_index_rnx.validation import checked_count, checked_ids, checked_nodes

BATCH = 32  # nodes embedded, remembered and written together: a killed run loses no more
SCROLL = 1_000
EMBEDDED_SCROLL = 100_000  # the embedded engine goes through all points for each page
_VALUES_A_FILTER = 500
log = logging.getLogger(__name__)


class NodeCollection:
    """Nodes in Qdrant, each with the vectors of what it has: a text, an image, or both, and BM25
    for its words.

    Args:
        location: a folder (embedded Qdrant), `":memory:"`, the URL of a server, several URLs of one
            cluster (a list, or parted by commas: where one is dead another is asked), or a
            `QdrantClient`.
        name: of the Qdrant collection.
        embedding: any LlamaIndex `MultiModalEmbedding`; by default `RNXEmbedding()`.
        ranker: prepares its memories when nodes are added; `"auto"` is the embedding's own
            (`rnx-mini`), `None` prepares none.
        memory_path: where the memories are kept; by default inside the folder, for a server in the
            user's cache.
        allow_urls: fetch the images of nodes that hold a URL only.
        storage: shards, replicas, quantization, gRPC ... of a Qdrant server.

    A copy answers alike. `copy` shares the engine; `deepcopy` and `pickle` make a collection of
    their own with the same
    settings: `:memory:` travels with its points, a folder is opened again (by this process as often
    as you like, by another one when this has closed it), a server is connected to. A `QdrantClient`
    is shared by a deep copy, and pickled as what it was made with.

    Raises:
        RNXError: Qdrant is not there, the folder is in use by another process, or the index was
            made with another model or other settings of `storage`.

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
        name: str = COLLECTION_NAME,
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
        self._shared_ranker = (
            with_dynamic_batching(self.ranker) if self.ranker is not None else None
        )
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

        A node that cannot be used (neither text nor image, an image that cannot be read) is left
        out, logged, and listed in `skipped`; all others are written.

        Raises:
            RNXError: `nodes` is no list of nodes, two nodes with one id have different contents,
                Qdrant does not answer, or the index is read-only.
        """
        distinct = deduplicate(checked_nodes(nodes))
        with progress_bar("indexing", len(distinct), "nodes", show_progress) as advance:
            written = self.write(((node, None) for node in distinct), advance)
        _warn_of(self.skipped)
        return written

    def write(
        self, stamped: Iterable[tuple[BaseNode, Stamp | None]], advance: Callable[[int], None]
    ) -> int:
        """As `add`, for a stream of nodes with the files that they came from; `advance(n)` is told
        the progress.

        What is left out is listed in `skipped` and not logged: the caller tells of it by the names
        of the files.
        """
        self._check_writable()
        self.skipped = []
        self._create()
        written, refused = 0, list[str]()
        with background_writes(0 if self.embedded else self.storage.batches_in_flight) as submit:
            for batch in batched(stamped, BATCH):
                points = self._points(self._changed(list(self._entries(batch))))
                for part in split_by_size(points):
                    submit(partial(self._upsert, part, refused))
                written += len(points)
                advance(len(batch))
        return written - len(refused)

    def delete(self, node_ids: Iterable[str]) -> None:
        """Removes the nodes with these ids; unknown ids are ignored."""
        ids = checked_ids(node_ids)
        self._check_writable()
        points = models.PointIdsList(points=[point_id_of(node_id) for node_id in ids])
        if ids and self._is_there():
            self._call(lambda client: client.delete(self.name, points_selector=points, wait=True))

    def search(
        self, query: Query, k: int = TOP_K, filters: MetadataFilters | None = None
    ) -> list[NodeWithScore]:
        """The `k` nearest nodes, texts and images in one list, by one call.

        Two channels: what nodes say (dense and BM25, fused by reciprocal rank, Cormack et al. 2009)
        and what they show. Their cosines are not comparable: a text's is about .8, a picture's .3.
        An embedding that knows how likely a picture of a given cosine is the one
        (`image_calibration`) adds that likelihood, on the scale of a text that is first in both
        lists; so pictures do not crowd a question that no picture answers. Pictures without text
        also have a place by their rank, further down, or a large collection would hide them. With
        others the channels are fused by rank.

        Args:
            query: a `Query` of text, image or both; `RNXRetriever` makes one of a LlamaIndex query.
            filters: LlamaIndex's metadata filters, nested ones too; applied before the search. Each
                text operator reads that field of all nodes which meet the other filters of its
                group: seconds for 100,000 on a server.

        Returns:
            At most `k` nodes, best first, with the score of the fusion; none if nothing was ever
            added.
        """
        query, k = _checked_query(query), checked_count(k, "k")
        if not self._is_there():
            return []
        self._check_length(query)
        condition = qdrant_filter(filters, self._holding)
        prefetch, fusion = (
            self._channels(query, max(k, DEPTH), condition),
            fusion_query(self.embedding, query),
        )
        found = self._call(
            lambda client: client.query_points(
                self.name, prefetch=prefetch, query=fusion, limit=k, with_payload=NODE_FIELDS
            )
        )
        points = sorted(
            found.points, key=lambda point: (-point.score, str(point.id))
        )  # a server orders ties by chance
        return [
            NodeWithScore(node=node_from_payload(point.payload), score=float(point.score))
            for point in points
        ]

    def get(self, node_ids: Iterable[str]) -> list[BaseNode]:
        """The nodes with these ids, in this order; unknown ids are left out."""
        ids = [point_id_of(node_id) for node_id in checked_ids(node_ids)]
        if not self._is_there():
            return []
        points = self._call(
            lambda client: client.retrieve(self.name, ids=ids, with_payload=NODE_FIELDS)
        )
        nodes = {str(point.id): node_from_payload(point.payload) for point in points}
        return [nodes[point_id] for point_id in ids if point_id in nodes]

    def files(
        self, paths: Collection[str], sources: Collection[str] = ()
    ) -> dict[str, list[dict[str, Any]]]:
        """By file path, what is known of each node of these files, and of those whose nodes have
        one of these sources: the fields of its `Stamp`, and its metadata."""
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
        same_path = models.FieldCondition(
            key="file", match=models.MatchValue(value=clean_name(path))
        )
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
        """Lets go of Qdrant and of the memory store; an embedded index is then free for other
        processes.
        """
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

    def _entries(self, batch: Sequence[tuple[BaseNode, Stamp | None]]) -> Iterator[PreparedNode]:
        for node, stamp in batch:
            try:
                check_path(stamp)
                storable = with_stored_metadata(node)
                entry = PreparedNode(
                    node=storable, candidate=candidate_of(storable, self.allow_urls), stamp=stamp
                )
                entry.payload  # noqa: B018  (made here, so that a node that cannot be stored costs itself only)
            except RNXError as error:
                self._skip(node.node_id, error)
            else:
                yield entry

    def _changed(self, entries: list[PreparedNode]) -> list[PreparedNode]:
        """Those that are not there yet, or there with another content; of equal ids the last."""
        ids = {entry.point_id: entry for entry in entries}
        known = self._call(
            lambda client: client.retrieve(
                self.name, ids=list(ids), with_payload=["digest", "file_stat", "file_reader"]
            )
        )
        for point in known:
            payload, stamp = point.payload or {}, ids[str(point.id)].stamp
            same_file = stamp is None or stamp.matches(payload)
            if payload.get("digest") == ids[str(point.id)].payload["digest"] and same_file:
                del ids[str(point.id)]
        return list(ids.values())

    def _points(self, entries: list[PreparedNode]) -> list[models.PointStruct]:
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
        return [build_point(entry, found) for entry, found in zip(entries, vectors, strict=True)]

    def _check_length(self, query: Query) -> None:
        """Raises RNXError for a vector of the caller's own that is not as long as those of the
        nodes.
        """
        if query.dense_vector is None:
            return
        vectors: Any = self._call(
            lambda client: client.get_collection(self.name)
        ).config.params.vectors
        if len(query.dense_vector) != vectors[TEXT].size:
            raise RNXError(
                f"the query's embedding has {len(query.dense_vector)} numbers, the vectors of this collection have "
                f"{vectors[TEXT].size}; embed the query by the collection's embedding, or leave it out."
            )

    def _channels(
        self, query: Query, depth: int, condition: models.Filter | None
    ) -> list[models.Prefetch]:
        dense, params = embed_query(self.embedding, query), self._search_params()
        said = [
            models.Prefetch(query=dense, using=TEXT, limit=depth, filter=condition, params=params)
        ]
        indices, values = bm25.query_vector(query.text)
        if indices:
            sparse = models.SparseVector(indices=indices, values=values)
            said.append(models.Prefetch(query=sparse, using=SPARSE, limit=depth, filter=condition))
        shown = models.Prefetch(
            query=dense, using=IMAGE, limit=depth, filter=condition, params=params
        )
        channels = [models.Prefetch(prefetch=said, query=RRF, limit=depth), shown]
        if isinstance(self.embedding, RNXEmbedding):
            alone = models.Filter(must=[_PICTURE_ALONE, *([condition] if condition else [])])
            pictures = models.Prefetch(
                query=dense, using=IMAGE, limit=depth, filter=alone, params=params
            )
            channels.append(models.Prefetch(prefetch=[pictures], query=RRF, limit=depth))
        return channels

    def _upsert(self, points: list[models.PointStruct], refused: list[str]) -> None:
        """Writes the points; what a server finds too large is halved until the large node stands
        alone, and is left out.

        refused: gets the ids of the points that were left out; several threads write.
        """
        try:
            self._call(partial(upsert_points, name=self.name, points=points))
        except TooLargeError as error:
            if len(points) == 1:
                refused.append(str(points[0].id))
                self._skip(
                    node_from_payload(points[0].payload).node_id, too_large_error(points[0], error)
                )
                return
            half = len(points) // 2
            self._upsert(points[:half], refused)
            self._upsert(points[half:], refused)

    def _holding(self, match: TextMatch, among: models.Filter | None) -> models.Condition:
        """A condition that is true of the points which hold a text; to make it the field is read
        page by page.
        """
        if self.embedded and not match.ignore_case:
            return with_substrings(match, [match.part])
        found = self._scroll(match.fields, among)
        matching = (
            (point_id, metadata)
            for point_id, payload in found
            if match.matches(metadata := payload.get(ROOT))
        )
        if self.embedded:
            return with_substrings(match, {match.spelling(metadata) for _, metadata in matching})
        return with_ids([point_id for point_id, _ in matching])

    def _call(self, action: Callable[[QdrantClient], T]) -> T:
        if self._closed:
            raise RNXError(
                f"the collection {self.name!r} at {self._where} was closed; open it again by NodeCollection(...)."
            )
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

    def _of_files(
        self, paths: Collection[str], sources: Collection[str]
    ) -> Iterable[dict[str, Any]]:
        """A server finds these nodes by its payload indexes; the embedded engine, that has none,
        gives all.
        """
        fields = ["file", "file_stat", "file_sha", "file_nodes", "file_reader", "metadata"]
        if self.embedded:
            return [payload for _, payload in self._scroll(fields)]
        found: dict[str, dict[str, Any]] = {}
        for key, values in (("file", paths), (f"{ROOT}.{SOURCE}", sources)):
            for part in batched(map(clean_name, values), _VALUES_A_FILTER):
                among = models.FieldCondition(key=key, match=models.MatchAny(any=part))
                found.update(self._scroll(fields, models.Filter(must=[among])))
        return found.values()

    def _scroll(
        self, fields: list[str], condition: models.Filter | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Point id and these fields of the payload, of all points or of those that meet the
        condition.
        """
        offset: Any = None
        page = EMBEDDED_SCROLL if self.embedded else SCROLL
        while self._is_there():
            points, offset = self._call(
                partial(_scrolled, self.name, fields, condition, offset, page)
            )
            yield from ((str(point.id), point.payload or {}) for point in points)
            if offset is None:
                return

    def _is_there(self) -> bool:
        if not self._exists:
            self._exists = bool(self._call(lambda client: client.collection_exists(self.name)))
        return self._exists

    def _search_params(self) -> models.SearchParams | None:
        """With quantization: more than asked for by single bytes, then put in order by the full
        vectors.
        """
        if not self._quantized:
            return None
        rescored = models.QuantizationSearchParams(
            rescore=True, oversampling=self.storage.oversampling
        )
        return models.SearchParams(quantization=rescored)

    def _check_made(self) -> None:
        """Refuses an index whose vectors another model made (its cosines would mean nothing), or
        with other settings.
        """
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
        found = creation_options(config)
        self.storage.refuse_unless_made(found, self.name, self._where)
        self._quantized = found["quantization"] is not None

    def _create(self) -> None:
        """Makes the collection unless it is there; of two workers that try at once the second takes
        what the first made.
        """
        if not self._is_there():
            settings = creation_settings(
                self.storage, embedding_dimensions(self.embedding), fingerprint_of(self.embedding)
            )
            try:
                self._connection.create(self.name, settings)
            except ValueError:  # RNXError from a server
                if not self._is_there():
                    raise
            else:
                self._check_metadata()
            self._check_made()
        if (
            not self._prepared and not self.embedded
        ):  # the embedded engine has no payload indexes and warns
            self._index_payload()
        self._prepared = True

    def _check_metadata(self) -> None:
        """Of a server that hides its version: one that is too old keeps no metadata, and the
        collection goes again.
        """
        config = self._call(lambda client: client.get_collection(self.name)).config
        if not config.metadata:
            self._call(lambda client: client.delete_collection(self.name))
            raise RNXError(
                f"Qdrant at {self._where} keeps no metadata of collections; Qdrant 1.16 or newer is needed."
            )

    def _index_payload(self) -> None:
        asked = self.storage.metadata_indexes.items()
        wanted = PAYLOAD_INDEXES | {path: kind for name, kind in asked for path in paths(name)}
        there = self._call(lambda client: client.get_collection(self.name)).payload_schema
        for key, kind in wanted.items():
            if key not in there:
                self._call(
                    partial(
                        create_field_index,
                        name=self.name,
                        field=key,
                        kind=models.PayloadSchemaType(kind),
                    )
                )


def _made_again(
    kind: type[NodeCollection],
    settings: Mapping[str, Any],
    points: Any,
    options: Mapping[str, Any] | None = None,
) -> NodeCollection:
    """A collection of these settings, with the points of an engine in RAM and the options of a
    client that was handed in.
    """
    location = {} if options is None else {"location": client_again(options)}
    collection = kind(**{**settings, **location})
    if points is not None:
        collection._connection.restore(collection.name, points)
        collection._check_made()
    return collection


def _warn_of(skipped: Sequence[Skipped]) -> None:
    """One line for a call, however many nodes it left out."""
    if skipped:
        others = (
            f" (and {len(skipped) - 1:,} others, listed in `skipped`)" if len(skipped) > 1 else ""
        )
        log.warning("node %r is left out: %s%s", skipped[0].id, skipped[0].reason, others)


def _with_stamp(stamp: Stamp) -> models.Filter:
    """The nodes that were read off this content by this reader."""
    fields = {"file_sha": stamp.sha256} | ({"file_reader": stamp.reader} if stamp.reader else {})
    return models.Filter(
        must=[
            models.FieldCondition(key=key, match=models.MatchValue(value=value))
            for key, value in fields.items()
        ]
    )


def _scrolled(
    name: str,
    fields: list[str],
    condition: models.Filter | None,
    offset: Any,
    page: int,
    client: QdrantClient,
) -> tuple[list[models.Record], Any]:
    return client.scroll(
        name, scroll_filter=condition, limit=page, offset=offset, with_payload=fields
    )


_PICTURE_ALONE = models.FieldCondition(key="kind", match=models.MatchValue(value="image"))


def _checked(name: str) -> str:
    """An embedded collection is a folder of its name: it must not lead out of the index."""
    if not isinstance(name, str):
        raise RNXError(f"name= got a {_kind(name)}; the name of a collection is a string.")
    is_path = name in (".", "..") or bool(set(name) & set("/\\"))
    if not name.strip() or is_path or not name.isprintable() or len(name.encode()) > 255:
        raise RNXError(
            f"{shown(name)} is no name of a collection; give one to 255 characters, without slashes."
        )
    return name


def _check_options(embedding: Any, ranker: Any, memory_path: Any, storage: Any) -> None:
    if embedding is not None and not isinstance(embedding, BaseEmbedding):
        raise RNXError(
            f"embedding= got a {_kind(embedding)}; a LlamaIndex MultiModalEmbedding is needed."
        )
    is_auto = ranker is None or (isinstance(ranker, str) and ranker == "auto")
    if not is_auto and (isinstance(ranker, type) or not isinstance(ranker, Ranker)):
        raise RNXError(
            f"ranker= got a {_kind(ranker)}; a Ranker (load_ranker(...)), 'auto' or None is needed."
        )
    if memory_path is not None and not isinstance(memory_path, str | Path):
        raise RNXError(
            f"memory_path= got a {_kind(memory_path)}; a folder or an address is needed."
        )
    if storage is not None and not isinstance(storage, Storage):
        raise RNXError(f"storage= got a {_kind(storage)}; Storage(...) is needed.")


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _checked_query(query: Any) -> Query:
    """The query, its text as an index can hold it."""
    if not isinstance(query, Query):
        raise RNXError(
            f"query= got a {_kind(query)}; Query(text=..., image=...) is needed; RNXRetriever takes strings."
        )
    if not isinstance(query.text, str) or not (
        query.image is None or isinstance(query.image, ImageSource)
    ):
        raise RNXError(
            "the query's text must be a string, its image one of file_source(path) or bytes_source(data)."
        )
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
