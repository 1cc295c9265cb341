"""A collection's connection to Qdrant Edge. It knows no nodes and no vectors."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from qdrant_client import models

from llama_index_rnx.collection.connection import MEMORY, Connection
from llama_index_rnx.collection.edge import EdgeClient, EdgeError
from llama_index_rnx.errors import StorageError, one_line

# Points of a copy that are read and written at a time.
_COPIED_AT_ONCE = 1_000
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
T = TypeVar("T")


class EdgeConnection(Connection):
    """The engine in this process, on the files of a folder.

    Args:
        folder: of the engine's files.
        where: the folder of the index, or `:memory:`.
        on_close: called once the engine is closed.
    """

    def __init__(
        self,
        folder: Path,
        where: str,
        read_only: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = EdgeClient(folder)
        super().__init__(where)
        self.read_only = read_only
        self._on_close = on_close

    def call(self, action: Callable[[EdgeClient], T]) -> T:
        """Run an action with the engine.

        Raises:
            StorageError: its files cannot be read or written.
        """
        try:
            return action(self._client)
        except EdgeError as error:
            raise StorageError(
                f"the index in {self.where} cannot be used ({one_line(error)}); "
                "close it and open it again, or index again into a new folder."
            ) from error
        except OSError as error:
            advice = "make room on the disk, or repair it"
            if error.errno in _READ_ONLY:
                advice = "make the folder writable"
            raise StorageError(
                f"the index in {self.where} cannot be written or read ({one_line(error)}); "
                f"{advice}, and run the same again: what was written is whole."
            ) from error

    def optimize(self, name: str) -> bool:
        try:
            return self.call(lambda client: client.optimize(name))
        except StorageError as error:
            raise StorageError(
                f"the index in {self.where} is whole, but searched more slowly than it could be: "
                f"{one_line(error.__cause__ or error)}."
            ) from error

    def close(self) -> None:
        try:
            self.call(lambda client: client.close())
        finally:
            self._on_close()

    def dump(self, name: str) -> Any:
        if self.where != MEMORY or not self._client.collection_exists(name):
            return None
        points: list[models.Record] = []
        offset: Any = None
        while True:
            records, offset = self._client.scroll(
                name, limit=_COPIED_AT_ONCE, offset=offset, with_vectors=True
            )
            points += records
            if offset is None:
                return self._client.get_collection(name), points

    def restore(self, name: str, dumped: Any) -> None:
        """Put what `dump` returned into this engine."""
        info, records = dumped
        self._client.restore_collection(name, info.config)
        for field, index in info.payload_schema.items():
            self._client.create_payload_index(name, field, index.data_type)
        for start in range(0, len(records), _COPIED_AT_ONCE):
            points = [
                models.PointStruct(id=record.id, vector=record.vector, payload=record.payload)
                for record in records[start : start + _COPIED_AT_ONCE]
            ]
            self._client.upsert(name, points)
