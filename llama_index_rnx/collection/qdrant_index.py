"""One collection of Qdrant: made, checked, read and written by points. It knows no nodes and no
models, and leaves addresses and faults to the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models

from llama_index_rnx.collection.connection import Connection
from llama_index_rnx.collection.json_paths import paths
from llama_index_rnx.collection.schema import (
    LAYOUT,
    PAYLOAD_INDEXES,
    create_field_index,
    creation_options,
    creation_settings,
)
from llama_index_rnx.collection.servers import RequestTooLargeError
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.collection.upload import T, upsert_points
from llama_index_rnx.errors import ConnectionFailedError, StorageError

# Points read at a time. Local mode goes through all points for each page.
SCROLL = 1_000
LOCAL_SCROLL = 100_000


class QdrantIndex:
    """The points under one name, and the connection that they are reached by.

    Args:
        fingerprint: of the embedding whose vectors the points hold.

    Attributes:
        embedded: whether Qdrant runs in this process.
        has_payload_indexes: whether Qdrant finds points by a field without reading all.
        read_only: whether nothing can be written.
        quantized: whether each dense vector is kept a second time, by a byte a dimension.

    Raises:
        StorageError: the index was made with another model, other settings, or another package.
        ConnectionFailedError: the server does not answer, or is too old.
    """

    def __init__(
        self, connection: Connection, name: str, storage: Storage, fingerprint: str
    ) -> None:
        self.name = name
        self.embedded = connection.embedded
        self.has_payload_indexes = connection.has_payload_indexes
        self.read_only = connection.read_only
        self.quantized = False
        self._connection = connection
        self._storage = storage
        self._fingerprint = fingerprint
        self._exists = False
        self._is_complete = False
        self._closed = False
        connection.acquire(self)
        try:
            connection.check_version()
            self._check_creation()
        except BaseException:
            connection.release(self)
            raise

    def __copy__(self) -> QdrantIndex:
        duplicate = object.__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        self._connection.acquire(duplicate)
        return duplicate

    def close(self) -> None:
        """Release the connection: one folder may be open twice in a process."""
        self._closed = True
        self._connection.release(self)

    def call(self, action: Callable[[QdrantClient], T]) -> T:
        """Run an action with a client, as `Connection.call`.

        Raises:
            StorageError: the index was closed.
        """
        self._check_open()
        return self._connection.call(action)

    def check_writable(self) -> None:
        """Raise StorageError for an index that can only be searched."""
        if self.read_only:
            raise StorageError(
                f"the index in {self._connection.where} is read-only and can only be searched; "
                "make the folder writable, or index into another one."
            )

    def exists(self) -> bool:
        """Return whether the collection was made already."""
        if not self._exists:
            self._exists = bool(self.call(lambda client: client.collection_exists(self.name)))
        return self._exists

    def create(self, dimensions: Callable[[], int]) -> None:
        """Make the collection unless it exists. If two workers try at once, the second takes the
        collection that the first made.

        Args:
            dimensions: returns how many numbers a dense vector has; called for a new collection.
        """
        if not self.exists():
            settings = creation_settings(self._storage, dimensions(), self._fingerprint)
            try:
                self.call(lambda client: client.create_collection(self.name, **settings))
            # A server's refusal is an RNXError, which is one.
            except ValueError:
                if not self.exists():
                    raise
            else:
                self._check_metadata()
            self._check_creation()

        # Local mode has no payload indexes, and warns.
        if self.has_payload_indexes and not self._is_complete:
            self._create_payload_indexes()
            self._is_complete = True

    def config(self) -> models.CollectionConfig:
        """Return the settings of the collection, as Qdrant has them."""
        return self.call(lambda client: client.get_collection(self.name)).config

    def count(self) -> int:
        """Return the number of points."""
        if not self.exists():
            return 0
        return int(self.call(lambda client: client.count(self.name, exact=True)).count)

    def retrieve(self, ids: Sequence[str], fields: Any) -> list[models.Record]:
        """Return the points with these ids, in any order, with these fields of the payload."""
        return self.call(
            lambda client: client.retrieve(self.name, ids=list(ids), with_payload=fields)
        )

    def scroll(
        self, fields: list[str], condition: models.Filter | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the id of each point and these fields of its payload; only of the points that meet
        the condition, if there is one.
        """
        offset: Any = None
        page = SCROLL if self.has_payload_indexes else LOCAL_SCROLL
        while self.exists():
            records, offset = self.call(
                partial(_scroll_page, self.name, fields, condition, offset, page)
            )
            yield from ((str(record.id), record.payload or {}) for record in records)
            if offset is None:
                return

    def upsert(
        self, points: list[models.PointStruct]
    ) -> list[tuple[models.PointStruct, RequestTooLargeError]]:
        """Write the points, and return those that the server finds too large: a request is halved
        until the large point stands alone, and that point is left out.
        """
        try:
            self.call(partial(upsert_points, name=self.name, points=points))
        except RequestTooLargeError as error:
            if len(points) == 1:
                return [(points[0], error)]
            half = len(points) // 2
            return self.upsert(points[:half]) + self.upsert(points[half:])
        return []

    def delete(self, selector: models.PointsSelector) -> None:
        """Remove points, and wait until they are gone."""
        self.call(lambda client: client.delete(self.name, points_selector=selector, wait=True))

    def optimize(self) -> bool:
        """Do what makes searches fast, and return whether there was something to do.

        Raises:
            StorageError: the index was closed, or the disk has no room.
        """
        self._check_open()
        return self.exists() and self._connection.optimize(self.name)

    def dump(self) -> Any:
        """Return a copy of the points of an engine in RAM, None for other engines."""
        return self._connection.dump(self.name)

    def restore(self, points: Any) -> None:
        """Put what `dump` returned into this engine in RAM."""
        self._connection.restore(self.name, points)
        self._check_creation()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(
                f"the collection {self.name!r} at {self._connection.where} was closed; "
                "open it again by NodeCollection(...)."
            )

    def _check_creation(self) -> None:
        """Refuse an index whose vectors another model made (its cosines would mean nothing), or one
        that was made with other settings.
        """
        if not self.exists():
            return
        where = self._connection.where
        config = self.config()
        metadata = (config.metadata or {}).get("rnx")
        if not metadata or metadata.get("layout") != LAYOUT:
            raise StorageError(
                f"collection {self.name!r} at {where} was not made by this package; "
                "choose another name= or folder."
            )
        if metadata.get("embedding") != self._fingerprint:
            raise StorageError(
                f"the index at {where} was made with {metadata.get('embedding')}, "
                f"the embedding given is {self._fingerprint}; "
                "pass the same embedding=, or index again into a new folder."
            )
        options = creation_options(config)
        self._storage.check_matches(options, self.name, where)
        self.quantized = options["quantization"] is not None

    def _check_metadata(self) -> None:
        """Refuse a server that hides its version and is too old: it keeps no metadata. The
        collection is deleted again.
        """
        if not self.config().metadata:
            self.call(lambda client: client.delete_collection(self.name))
            raise ConnectionFailedError(
                f"Qdrant at {self._connection.where} keeps no metadata of collections; "
                "Qdrant 1.16 or newer is needed."
            )

    def _create_payload_indexes(self) -> None:
        """Create the payload indexes that the collection lacks."""
        kinds = dict(PAYLOAD_INDEXES)
        for name, kind in self._storage.metadata_indexes.items():
            kinds |= dict.fromkeys(paths(name), kind)

        existing = self.call(lambda client: client.get_collection(self.name)).payload_schema
        for field, kind in kinds.items():
            if field not in existing:
                schema = models.PayloadSchemaType(kind)
                self.call(partial(create_field_index, name=self.name, field=field, kind=schema))


def _scroll_page(
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
