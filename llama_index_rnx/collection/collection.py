"""The collection of nodes: add, search, get, delete, copy.

It knows no life of a Qdrant collection (qdrant_index.py), no filter operators (filters.py) and no
way from a node to its vectors (indexer.py).
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilters
from qdrant_client import QdrantClient, models

from llama_index_rnx.candidates import SOURCE, Query
from llama_index_rnx.collection.arguments import (
    check_options,
    checked_name,
    checked_query,
    default_memory_path,
)
from llama_index_rnx.collection.connect import client_options, connect, reopen_client
from llama_index_rnx.collection.connection import Location
from llama_index_rnx.collection.filters import TextMatch, qdrant_filter, with_ids, with_substrings
from llama_index_rnx.collection.fusion import DEPTH, build_channels, fusion_query, search_params
from llama_index_rnx.collection.indexer import Indexer, StampedNode, reads_memories_of
from llama_index_rnx.collection.json_paths import ROOT
from llama_index_rnx.collection.metadata import clean_name
from llama_index_rnx.collection.points import (
    NODE_FIELDS,
    STORED_FIELDS,
    TEXT,
    PreparedNode,
    Stamp,
    deduplicate,
    node_from_payload,
    point_id_of,
)
from llama_index_rnx.collection.qdrant_index import QdrantIndex
from llama_index_rnx.collection.reports import Skipped, WriteReport
from llama_index_rnx.collection.schema import stamp_filter
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.collection.upload import (
    background_writes,
    batched,
    split_by_size,
    too_large_error,
)
from llama_index_rnx.console import progress_bar
from llama_index_rnx.defaults import COLLECTION_NAME, TOP_K
from llama_index_rnx.embed import RNXEmbedding, dimensions_of, load_model
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, with_dynamic_batching
from llama_index_rnx.validation import checked_count, checked_ids, checked_nodes

# Nodes embedded, remembered and written together: a killed run loses no more.
BATCH = 32
# Nodes that are looked up together: a request for each batch took a sixth of the time. Of each only
# an id and a digest are held.
LOOKUP = 16 * BATCH
# Paths in one filter of a server.
_VALUES_A_FILTER = 500
# By the id of a point, its `STORED_FIELDS`.
StoredFields = dict[str, dict[str, Any]]
log = logging.getLogger(__name__)


class NodeCollection:
    """Nodes in Qdrant: a dense vector for the text of a node, another one for its image, and BM25
    for its words.

    Args:
        location: a folder or `":memory:"` (Qdrant's engine in this process), the URL of a server,
            several URLs of one cluster (a list, or separated by commas: a dead server is replaced
            by the next), or a `QdrantClient`.
        name: of the Qdrant collection.
        embedding: any LlamaIndex `MultiModalEmbedding`; by default `RNXEmbedding()`.
        ranker: prepares its memories when nodes are added; `"auto"` is the embedding's own
            (`rnx-mini`), `None` prepares none.
        memory_path: where the memories are kept; by default inside the folder, for a server in the
            user's cache.
        allow_urls: fetch the images of nodes that hold a URL only.
        storage: shards, replicas, quantization, gRPC ... of a Qdrant server.

    Attributes:
        skipped: the nodes that the last `add` left out, and why.

    A copy answers alike. `copy` shares the engine. `deepcopy` and `pickle` make a collection of
    their own with the same settings: `:memory:` travels with its points, a folder is opened again
    (by this process any number of times, by another one once this process has closed it), a server
    is connected to. A `QdrantClient` is shared by a deep copy, and pickled as its arguments.

    Raises:
        SettingsError: an argument does not fit.
        StorageError: the folder is in use by another process or damaged, or the index was made with
            another model or other settings of `storage`.
        ConnectionFailedError: the server does not answer, or is too old.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> collection = NodeCollection(":memory:")
        >>> honey = TextNode(id_="a", text="Bees make honey.")
        >>> collection.add([honey, TextNode(id_="b", text="Rust is iron oxide.")])
        2
        >>> len(collection)
        2
        >>> [hit.node_id for hit in collection.search(Query(text="what do bees make?"), k=1)]
        ['a']
        >>> collection.add([honey, TextNode(id_="b", text="Rust is red.")])  # one changed
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
        check_options(embedding, ranker, memory_path, storage)
        self.location = location
        self.name = checked_name(name)
        self.storage = storage or Storage()
        self.allow_urls = allow_urls
        self.skipped: list[Skipped] = []
        self._ranker_setting = ranker
        self._memory_path = memory_path

        self.embedding: MultiModalEmbedding = embedding if embedding is not None else RNXEmbedding()
        model = load_model(self.embedding)
        self.ranker: Ranker | None = model.ranker if ranker == "auto" else ranker
        self._embeds_memories = reads_memories_of(model, self.ranker)
        self._batching_ranker = None
        if self.ranker is not None:
            self._batching_ranker = with_dynamic_batching(self.ranker)

        connection = connect(location, self.storage)
        self._index = QdrantIndex(connection, self.name, self.storage, model.fingerprint)
        self.memories = self._open_memories(memory_path)

    def add(self, nodes: Iterable[BaseNode], show_progress: bool | None = None) -> int:
        """Write the nodes that are new or changed, and return how many. Idempotent by node id.

        A node that cannot be used (neither text nor image, an image that cannot be read) is left
        out, logged, and listed in `skipped`; all others are written.

        Raises:
            SettingsError: `nodes` is no list of nodes, or two nodes with one id have different
                contents.
            StorageError: the index is read-only, closed, or cannot be written.
            ConnectionFailedError: the server does not answer, or refuses.
        """
        distinct = deduplicate(checked_nodes(nodes))
        with progress_bar("indexing", len(distinct), "nodes", show_progress) as advance:
            report = self.write(((node, None) for node in distinct), advance)
        self.skipped = list(report.skipped)
        _warn_of(self.skipped)
        return report.written

    def write(self, stamped: Iterable[StampedNode], advance: Callable[[int], None]) -> WriteReport:
        """Do what `add` does for nodes with the files that they came from.

        The nodes that are left out are in the report and not logged: the caller names them by their
        files.

        Args:
            advance: called with the number of nodes of each batch, once it is done.

        Raises:
            StorageError, ConnectionFailedError: as `add`.
        """
        self._index.check_writable()
        self._index.create(partial(dimensions_of, self.embedding))
        indexer = self._indexer()
        count = 0
        skipped: list[Skipped] = []
        refused: list[Skipped] = []

        at_once = 0 if self.embedded else self.storage.batches_in_flight
        with background_writes(at_once, refused.extend) as submit:
            for batch, stored in self._with_stored(stamped):
                prepared, unusable = indexer.prepare(batch)
                points, unreadable = indexer.build_points(_changed(prepared, stored))
                for request in split_by_size(points):
                    submit(partial(self._upsert, request))

                count += len(points)
                skipped += [*unusable, *unreadable]
                advance(len(batch))
        return WriteReport(written=count - len(refused), skipped=skipped + refused)

    def delete(self, node_ids: Iterable[str]) -> None:
        """Remove the nodes with these ids; unknown ids are ignored.

        Raises:
            SettingsError: the ids are no strings.
            StorageError, ConnectionFailedError: as `add`.
        """
        ids = checked_ids(node_ids)
        self._index.check_writable()
        points: list[int | str | UUID] = [point_id_of(node_id) for node_id in ids]
        if points and self._index.exists():
            self._index.delete(models.PointIdsList(points=points))

    def optimize(self) -> bool:
        """Make the searches of a folder as fast as they can be after much was added or removed:
        above some 20,000 vectors of a kind a graph (HNSW) is built, and what was removed is
        dropped. `rnx index` and `rnx ui` call it by themselves.

        It works on a copy in another process: searches and writes go on meanwhile, an interrupted
        one leaves the index as it was, and it takes the size of the index on the disk twice as long
        as it runs. Results are the same before and after, but for those of the graph: of the 100
        nearest it finds 99 at the mean.

        Returns:
            Whether something was done: not if little was written since the last time (fewer than
            1,000 nodes, or than a twentieth of all). A server does all this by itself, so nothing
            is done there.

        Raises:
            StorageError: the index is read-only or closed, or the disk has no room; it is as it
                was.
        """
        self._index.check_writable()
        return self._index.optimize()

    def search(
        self, query: Query, k: int = TOP_K, filters: MetadataFilters | None = None
    ) -> list[NodeWithScore]:
        """Return the `k` nearest nodes, texts and images in one list, by one call.

        There are two channels: what nodes say (dense and BM25, fused by reciprocal rank, Cormack et
        al. 2009) and what they show. Their cosines are not comparable: a text's is about .8, an
        image's .3. An embedding that knows the probability that an image of a given cosine is the
        right one (`image_calibration`) adds that probability, on the scale of a text that is first
        in both lists; so images do not crowd a query that no image answers. Images without text
        also count by their rank, further down, or a large collection would hide them. With other
        embeddings the channels are fused by rank.

        Args:
            query: a `Query` of text, image or both; `RNXRetriever` makes one of a LlamaIndex query.
            k: how many nodes come out at most, 1 or more.
            filters: LlamaIndex's metadata filters, nested ones too; applied before the search. Each
                text operator reads that field of all nodes which meet the other filters of its
                group: seconds for 100,000 on a server.

        Returns:
            At most `k` nodes, best first, with the score of the fusion; none if nothing was ever
            added.

        Raises:
            SettingsError: the query is empty or no `Query`, `k` is below 1, a filter cannot be
                used, or the query's vector has another length than those of the nodes.
            ImageError: the query's image cannot be read.
            StorageError, ConnectionFailedError: the index is closed; the server does not answer.
        """
        query = checked_query(query)
        k = checked_count(k, "k")
        if not self._index.exists():
            return []
        self._check_length(query)

        condition = qdrant_filter(filters, self._points_with_text)
        params = search_params(self.storage.oversampling if self._index.quantized else None)
        channels = build_channels(self.embedding, query, max(k, DEPTH), condition, params)
        fusion = fusion_query(self.embedding, query)
        response = self._index.call(
            lambda client: client.query_points(
                self.name, prefetch=channels, query=fusion, limit=k, with_payload=NODE_FIELDS
            )
        )

        points = response.points
        if not self.embedded:
            # A server orders ties by chance.
            points = sorted(points, key=lambda point: (-point.score, str(point.id)))
        return [
            NodeWithScore(node=node_from_payload(point.payload), score=float(point.score))
            for point in points
        ]

    def get(self, node_ids: Iterable[str]) -> list[BaseNode]:
        """Return the nodes with these ids, in this order; unknown ids are left out."""
        ids = [point_id_of(node_id) for node_id in checked_ids(node_ids)]
        if not self._index.exists():
            return []
        records = self._index.retrieve(ids, NODE_FIELDS)
        nodes = {str(record.id): node_from_payload(record.payload) for record in records}
        return [nodes[point_id] for point_id in ids if point_id in nodes]

    def files(
        self, paths: Collection[str], sources: Collection[str] = ()
    ) -> dict[str, list[dict[str, Any]]]:
        """Return, by file path, what the index holds of each node of these files, and of the files
        whose nodes have one of these sources: the fields of its `Stamp`, and its metadata.
        """
        distinct_paths = set(paths)
        names = {clean_name(source) for source in sources}
        payloads: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for payload in self._payloads_of_files(paths, sources):
            path = payload.get("file")
            if path is None:
                continue
            if path in distinct_paths or payload["metadata"].get(SOURCE) in names:
                payloads[path].append(payload)
        return payloads

    def paths(self) -> set[str]:
        """Return the paths of all indexed files."""
        return {payload["file"] for _, payload in self._index.scroll(["file"]) if "file" in payload}

    def remove_file(self, path: str, except_stamp: Stamp | None = None) -> None:
        """Remove the nodes of a file; with `except_stamp` only those of its other versions."""
        self._index.check_writable()
        same_path = models.FieldCondition(
            key="file", match=models.MatchValue(value=clean_name(path))
        )
        condition = models.Filter(must=[same_path])
        if except_stamp is not None:
            condition.must_not = [stamp_filter(except_stamp)]
        self._index.delete(models.FilterSelector(filter=condition))

    @property
    def embedded(self) -> bool:
        """Whether Qdrant runs in this process: a folder then has one writer, this process."""
        return self._index.embedded

    def __len__(self) -> int:
        return self._index.count()

    def close(self) -> None:
        """Release Qdrant and the memory store; other processes can then open a folder."""
        self.memories.close()
        self._index.close()

    def __copy__(self) -> NodeCollection:
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        duplicate.skipped = []
        duplicate.memories = copy.copy(self.memories)
        duplicate._index = copy.copy(self._index)
        return duplicate

    def __deepcopy__(self, memo: dict[int, Any]) -> NodeCollection:
        """Return a collection of its own; all collections share the models."""
        is_own_engine = not isinstance(self.location, QdrantClient)
        points = self._index.dump() if is_own_engine else None
        return _rebuild(type(self), self._settings(), points)

    def __reduce__(self) -> tuple[Callable[..., NodeCollection], tuple[Any, ...]]:
        settings = self._settings()
        options = None
        if isinstance(self.location, QdrantClient):
            options = client_options(self.location)
            del settings["location"]
        return _rebuild, (type(self), settings, self._index.dump(), options)

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "location": self.location,
            "name": self.name,
            "embedding": self.embedding,
            "ranker": self._ranker_setting,
            "memory_path": self._memory_path,
            "allow_urls": self.allow_urls,
            "storage": self.storage,
        }

    def _open_memories(self, memory_path: str | Path | None) -> MemoryStore:
        """Open the memory store. A read-only index has read-only memories beside it; what else is
        remembered stays in RAM.
        """
        if memory_path is not None:
            return MemoryStore(memory_path)
        folder = default_memory_path(self.location)
        return MemoryStore(folder, read_only=self._index.read_only)

    def _indexer(self) -> Indexer:
        return Indexer(
            embedding=self.embedding,
            ranker=self._batching_ranker,
            memories=self.memories,
            embeds_memories=self._embeds_memories,
            allow_urls=self.allow_urls,
        )

    def _with_stored(
        self, stamped: Iterable[StampedNode]
    ) -> Iterator[tuple[list[StampedNode], StoredFields]]:
        """Yield the nodes in batches, each with what the index holds of at least its ids."""
        for group in batched(stamped, LOOKUP):
            ids = [point_id_of(node.node_id) for node, _ in group]
            records = self._index.retrieve(ids, STORED_FIELDS)
            stored = {str(record.id): record.payload or {} for record in records}
            for batch in batched(group, BATCH):
                yield batch, stored

    def _upsert(self, points: list[models.PointStruct]) -> list[Skipped]:
        """Write the points, and return the nodes that are too large for the server."""
        skipped = []
        for point, error in self._index.upsert(points):
            node_id = clean_name(node_from_payload(point.payload).node_id)
            reason = clean_name(str(too_large_error(point, error)))
            skipped.append(Skipped(id=node_id, reason=reason))
        return skipped

    def _check_length(self, query: Query) -> None:
        """Raise SettingsError for a vector of the caller's own that is not as long as those of the
        nodes.
        """
        if query.dense_vector is None:
            return
        vectors: Any = self._index.config().params.vectors
        if len(query.dense_vector) != vectors[TEXT].size:
            raise SettingsError(
                f"the query's embedding has {len(query.dense_vector)} numbers, the vectors of this "
                f"collection have {vectors[TEXT].size}; embed the query by the collection's "
                "embedding, or leave it out."
            )

    def _points_with_text(self, match: TextMatch, among: models.Filter | None) -> models.Condition:
        """Return a condition that is true of the points which hold a text; the field is read page
        by page to make it.
        """
        is_local_mode = not self._index.has_payload_indexes
        if is_local_mode and not match.ignore_case:
            return with_substrings(match, [match.substring])

        matching: dict[str, Any] = {}
        for point_id, payload in self._index.scroll(match.fields, among):
            metadata = payload.get(ROOT)
            if match.matches(metadata):
                matching[point_id] = metadata
        if is_local_mode:
            return with_substrings(
                match, {match.spelling(metadata) for metadata in matching.values()}
            )
        return with_ids(list(matching))

    def _payloads_of_files(
        self, paths: Collection[str], sources: Collection[str]
    ) -> Iterable[dict[str, Any]]:
        """Return the payloads of these files. Local mode has no payload indexes and gives
        all.
        """
        fields = ["file", "file_stat", "file_sha", "file_nodes", "file_reader", "metadata"]
        if not self._index.has_payload_indexes:
            return [payload for _, payload in self._index.scroll(fields)]

        payloads: dict[str, dict[str, Any]] = {}
        for key, values in (("file", paths), (f"{ROOT}.{SOURCE}", sources)):
            for batch in batched(map(clean_name, values), _VALUES_A_FILTER):
                among = models.FieldCondition(key=key, match=models.MatchAny(any=batch))
                condition = models.Filter(must=[among])
                payloads.update(self._index.scroll(fields, condition))
        return payloads.values()


def _changed(prepared: Sequence[PreparedNode], stored: StoredFields) -> list[PreparedNode]:
    """Return the nodes that the index lacks, or holds with another content; of equal ids the last.

    They count as stored from now on: a later batch of the same look-up may have one of their ids.
    """
    latest = {node.point_id: node for node in prepared}
    changed = [node for node in latest.values() if not node.is_stored(stored.get(node.point_id))]
    for node in changed:
        payload = node.payload
        stored[node.point_id] = {name: payload[name] for name in STORED_FIELDS if name in payload}
    return changed


def _rebuild(
    kind: type[NodeCollection],
    settings: Mapping[str, Any],
    points: Any,
    options: Mapping[str, Any] | None = None,
) -> NodeCollection:
    """Return a collection of these settings.

    Args:
        points: of an engine in RAM, None for any other one.
        options: of a client that the user handed in.
    """
    location = {} if options is None else {"location": reopen_client(options)}
    collection = kind(**{**settings, **location})
    if points is not None:
        collection._index.restore(points)
    return collection


def _warn_of(skipped: Sequence[Skipped]) -> None:
    """Log one line for a call, however many nodes it left out."""
    if not skipped:
        return
    first = skipped[0]
    more = f" (and {len(skipped) - 1:,} others, listed in `skipped`)" if len(skipped) > 1 else ""
    log.warning("node %r is left out: %s%s", first.id, first.reason, more)
