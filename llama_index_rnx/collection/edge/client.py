"""Qdrant Edge in the place of a `QdrantClient`: the engine in this process, on the files of a
folder. It knows no nodes.

Each collection is a folder of its own: `collection.json`, its settings in Qdrant's words, and the
files of its engine. While it is made or removed it also holds `incomplete`; without that, a
collection that lacks a file is damaged, and never replaced.

A fork has the same maps and none of the engine's threads: it would wait for ever, or write over
what its parent writes. So it can neither use nor close what its parent has opened.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import qdrant_edge as edge
from pydantic import ValidationError
from qdrant_client import models

from llama_index_rnx.collection.edge.engine import EdgeError, Engine
from llama_index_rnx.collection.edge.fusion import Ranking, rank
from llama_index_rnx.collection.edge.requests import (
    Payload,
    client_schema,
    client_vectors,
    edge_config,
    edge_fields,
    edge_filter,
    edge_point,
    edge_schema,
    edge_search,
)
from llama_index_rnx.system import make_file, make_folder, sync_folder, write_text

CONFIG = "collection.json"
_INCOMPLETE = "incomplete"

# Kilobytes of one kind of vectors up to which a search compares the query with every one of them;
# beyond it `optimize` builds a graph (HNSW). 20,000 vectors of 768 numbers.
EXACT_KB = 60_000

# The graph: neighbours of a point, and candidates for them while it is built.
HNSW_M = 16
HNSW_EF_CONSTRUCT = 128

# The part of the vectors that must be deleted for `optimize` to build a graph anew: searches find
# less of what lies near deleted ones.
DELETED_THRESHOLD = 0.05

# Bytes of a number of a vector and of its copy in the log of writes.
_NUMBER_BYTES = 8
T = TypeVar("T")


class Hit(NamedTuple):
    """A point that was found, with the fields of a `ScoredPoint` that a collection reads; to make
    one of those takes as long as the search.
    """

    id: str | int
    score: float
    payload: dict[str, Any] | None


class Hits(NamedTuple):
    """What a search found, best first, as a `QueryResponse`."""

    points: list[Hit]


class EdgeClient:
    """The collections in a folder. Its methods are those of `QdrantClient` that a collection calls,
    with the same arguments and results; several threads may call them.

    Args:
        folder: of the collections, made when missing. Only one process may have it open.

    Raises:
        OSError: from any method, a file cannot be read or written, or the disk is full.
        EdgeError: from any method, the engine refuses a request or cannot go on.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.folder = folder
        self._pid = os.getpid()
        self._engines: dict[str, Engine] = {}
        self._configs: dict[str, models.CollectionConfig] = {}
        self._opening = threading.Lock()
        self._closed = False
        self._close_engines = weakref.finalize(self, _close_engines, self._engines, self._pid)

    def collection_exists(self, collection_name: str) -> bool:
        folder = self.folder / collection_name
        return Engine.exists(folder) and not (folder / _INCOMPLETE).exists()

    def create_collection(
        self,
        collection_name: str,
        vectors_config: models.VectorParams | dict[str, models.VectorParams],
        sparse_vectors_config: dict[str, models.SparseVectorParams],
        metadata: dict[str, Any] | None,
        on_disk_payload: bool | None = None,
        quantization_config: models.ScalarQuantization | None = None,
        **_: None,
    ) -> None:
        """Create a collection; what only servers know (shards, replicas) must be None."""
        config = models.CollectionConfig(
            params=models.CollectionParams(
                vectors=vectors_config,
                sparse_vectors=sparse_vectors_config,
                on_disk_payload=on_disk_payload,
            ),
            hnsw_config=models.HnswConfig(
                m=HNSW_M, ef_construct=HNSW_EF_CONSTRUCT, full_scan_threshold=EXACT_KB
            ),
            optimizer_config=models.OptimizersConfig(
                deleted_threshold=DELETED_THRESHOLD,
                vacuum_min_vector_number=1_000,
                default_segment_number=0,
                flush_interval_sec=0,
                indexing_threshold=EXACT_KB,
            ),
            quantization_config=quantization_config,
            metadata=metadata,
        )
        self.restore_collection(collection_name, config)

    def restore_collection(self, name: str, config: models.CollectionConfig) -> None:
        """Create an empty collection with all settings of another one.

        Raises:
            ValueError: one of this name exists.
        """
        with self._opening:
            if self.collection_exists(name):
                raise ValueError(f"collection {name!r} exists")
            # What a process that was killed while it made or removed a collection has left.
            folder = self.folder / name
            _remove(folder)
            make_file(folder / _INCOMPLETE)
            engine = Engine.create(folder, edge_config(config))
            write_text(self._config_file(name), config.model_dump_json(exclude_none=True, indent=1))
            sync_folder(folder)
            (folder / _INCOMPLETE).unlink()
            self._engines[name] = engine

    def delete_collection(self, collection_name: str) -> None:
        with self._opening:
            self._configs.pop(collection_name, None)
            engine = self._engines.pop(collection_name, None)
            if engine is not None:
                engine.close()
            _remove(self.folder / collection_name)

    def get_collection(self, collection_name: str) -> models.CollectionInfo:
        info = self._run(collection_name, lambda shard: shard.info())
        schema = {
            name: models.PayloadIndexInfo(
                data_type=client_schema(index.data_type), points=index.points
            )
            for name, index in info.payload_schema.items()
        }
        return models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            segments_count=info.segments_count,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
            config=self._config(collection_name),
            payload_schema=schema,
        )

    def create_payload_index(
        self, collection_name: str, field_name: str, field_schema: models.PayloadSchemaType
    ) -> None:
        operation = edge.UpdateOperation.create_field_index(field_name, edge_schema(field_schema))
        self._update(collection_name, operation)

    def count(self, collection_name: str, exact: bool = True) -> models.CountResult:
        count = self._run(
            collection_name, lambda shard: shard.count(edge.CountRequest(exact=exact))
        )
        return models.CountResult(count=count)

    def retrieve(
        self, collection_name: str, ids: Sequence[Any], with_payload: Payload = True
    ) -> list[models.Record]:
        records = self._run(
            collection_name,
            lambda shard: shard.retrieve(list(ids), edge_fields(with_payload), False),
        )
        return [_record(record) for record in records]

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        offset: Any = None,
        with_payload: Payload = True,
        with_vectors: bool = False,
    ) -> tuple[list[models.Record], Any]:
        request = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=edge_filter(scroll_filter),
            with_payload=edge_fields(with_payload),
            with_vector=with_vectors,
        )
        records, next_offset = self._run(collection_name, lambda shard: shard.scroll(request))
        return [_record(record) for record in records], next_offset

    def query_points(
        self,
        collection_name: str,
        prefetch: list[models.Prefetch],
        query: Any,
        limit: int,
        with_payload: Payload = True,
    ) -> Hits:
        """Search the channels, and fuse what they give."""
        engine = self._engine(collection_name)

        def search(channel: models.Prefetch) -> Ranking:
            request = edge_search(channel)
            hits = engine.run(lambda shard: shard.query(request))
            return [(_point_id(hit.id), hit.score) for hit in hits]

        ranking = rank(prefetch, query, limit, search)
        ids: list[Any] = [point_id for point_id, _ in ranking]
        records = engine.run(lambda shard: shard.retrieve(ids, edge_fields(with_payload), False))
        payloads = {_point_id(record.id): record.payload for record in records}
        return Hits(
            points=[
                Hit(id=point_id, score=score, payload=payloads[point_id])
                for point_id, score in ranking
                if point_id in payloads
            ]
        )

    def upsert(
        self, collection_name: str, points: list[models.PointStruct], wait: bool = True
    ) -> None:
        edge_points = [edge_point(point) for point in points]
        self._update(
            collection_name,
            edge.UpdateOperation.upsert_points(edge_points),
            changes=len(points),
            size=sum(map(_point_bytes, points)),
        )

    def delete(
        self, collection_name: str, points_selector: models.PointsSelector, wait: bool = True
    ) -> None:
        if isinstance(points_selector, models.PointIdsList):
            operation = edge.UpdateOperation.delete_points(list(points_selector.points))
            changes = len(points_selector.points)
        else:
            assert isinstance(points_selector, models.FilterSelector)
            condition = edge_filter(points_selector.filter)
            assert condition is not None
            operation = edge.UpdateOperation.delete_points_by_filter(condition)
            request = edge.CountRequest(filter=condition)
            changes = self._run(collection_name, lambda shard: shard.count(request))
        self._update(collection_name, operation, changes)

    def flush(self, collection_name: str) -> None:
        """Write to the disk what the engine still holds in memory. What was written before survives
        the end of the process without it, but not a power cut.
        """
        self._run(collection_name, lambda shard: shard.flush())

    def optimize(self, collection_name: str) -> bool:
        """Build the graphs that a collection of this size is searched by, and drop what was
        deleted, in another process. Searches and writes go on meanwhile.

        Returns:
            Whether it was done: not if little was written since the last time, or if this client
            was closed meanwhile.
        """
        return self._engine(collection_name).optimize()

    def close(self) -> None:
        """Close the files; a closed client cannot be used again. A fork closes nothing."""
        if os.getpid() != self._pid:
            return
        with self._opening:
            self._closed = True
            self._close_engines()

    def _update(
        self, name: str, operation: edge.UpdateOperation, changes: int = 0, size: int = 0
    ) -> None:
        self._engine(name).update(operation, changes, size)

    def _run(self, name: str, action: Callable[[edge.EdgeShard], T]) -> T:
        return self._engine(name).run(action)

    def _engine(self, name: str) -> Engine:
        if os.getpid() != self._pid:
            raise EdgeError(f"process {self._pid} opened it, and this is a fork of that process")
        with self._opening:
            if self._closed:
                raise EdgeError("it was closed")
            if name not in self._engines:
                self._engines[name] = Engine.open(self.folder / name)
            return self._engines[name]

    def _config(self, name: str) -> models.CollectionConfig:
        config = self._configs.get(name)
        if config is None:
            file = self._config_file(name)
            try:
                config = models.CollectionConfig.model_validate_json(file.read_bytes())
            except FileNotFoundError as error:
                raise EdgeError(f"{file} is missing") from error
            except ValidationError as error:
                raise EdgeError(f"{file} is damaged") from error
            self._configs[name] = config
        return config

    def _config_file(self, name: str) -> Path:
        return self.folder / name / CONFIG


def _close_engines(engines: dict[str, Engine], pid: int) -> None:
    """Close the engines that this very process has opened."""
    with ExitStack() as stack:
        while os.getpid() == pid and engines:
            _, engine = engines.popitem()
            stack.callback(engine.close)


def _remove(folder: Path) -> None:
    """Remove a collection of which no file is open. A kill leaves it incomplete."""
    if folder.exists():
        make_file(folder / _INCOMPLETE)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(folder)


def _point_id(point_id: Any) -> str | int:
    """Return the id of a point as qdrant-client has it: a UUID is a string."""
    return point_id if isinstance(point_id, int) else str(point_id)


def _record(record: Any) -> models.Record:
    vectors = record.vector
    return models.Record.model_construct(
        id=_point_id(record.id),
        payload=record.payload,
        vector=client_vectors(vectors) if vectors is not None else None,
    )


def _point_bytes(point: models.PointStruct) -> int:
    """Return about how many bytes a point takes on the disk."""
    assert isinstance(point.vector, dict)
    vectors: Iterable[Any] = point.vector.values()
    numbers = sum(
        2 * len(vector.values) if isinstance(vector, models.SparseVector) else len(vector)
        for vector in vectors
    )
    return _NUMBER_BYTES * numbers + len(str(point.payload))
