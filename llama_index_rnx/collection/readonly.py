"""Open an index in a folder that cannot be written: a mount with `:ro`, an image layer, the folder
of another user. It knows no nodes.

Embedded Qdrant locks and writes the folder that it opens. So the points are read from its files
once, into an engine in RAM.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.http import models
from qdrant_client.local.local_collection import LocalCollection
from qdrant_client.local.persistence import STORAGE_FILE_NAME
from qdrant_client.local.qdrant_local import META_INFO_FILENAME, QdrantLocal

from llama_index_rnx.collection.unpickling import restricted_loads

# How sqlite opens a file; the second where it cannot even take a lock for reading.
_MODES = ("mode=ro", "mode=ro&immutable=1")


def is_read_only(folder: Path) -> bool:
    """Return whether the folder holds an index of which this process may not write every file."""
    if not (folder / META_INFO_FILENAME).is_file():
        return False
    files = [
        folder,
        folder / META_INFO_FILENAME,
        folder / ".lock",
        *folder.glob(f"collection/*/{STORAGE_FILE_NAME}"),
    ]
    return not all(os.access(path, os.W_OK) for path in files if path.exists())


def read_index(folder: Path) -> QdrantClient:
    """Return an engine in RAM with all that the index of a folder holds.

    Raises:
        OSError, ValueError, LookupError, sqlite3.Error: the index is damaged or cannot be read.
    """
    collections = json.loads((folder / META_INFO_FILENAME).read_text())["collections"]
    client = QdrantClient(":memory:", force_disable_check_same_thread=True)
    engine = client._client
    assert isinstance(engine, QdrantLocal)
    for name, config in collections.items():
        stored = (folder / "collection" / name / STORAGE_FILE_NAME).resolve()
        if not stored.is_relative_to(folder.resolve()):
            raise ValueError(f"collection {name!r} lies outside")
        engine.collections[name] = _read_collection(models.CreateCollection(**config), stored)
    return client


def _read_collection(config: models.CreateCollection, file: Path) -> LocalCollection:
    collection = LocalCollection(config, None, force_disable_check_same_thread=True)
    reader: Any = _StoredPoints(file)
    collection.storage = reader
    collection.load_vectors()
    collection.storage = None
    return collection


class _StoredPoints:
    """Takes the place of embedded Qdrant's own file while a collection loads its points."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> list[Any]:
        """Return the points; of two copies of one the later."""
        points = [restricted_loads(data) for (data,) in _rows(self._file)]
        return list({str(point.id): point for point in points}.values())


def _rows(file: Path) -> list[tuple[bytes]]:
    query = "SELECT point FROM points ORDER BY rowid"
    for mode in _MODES:
        address = f"{file.absolute().as_uri()}?{mode}"
        try:
            with closing(sqlite3.connect(address, uri=True)) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            if mode == _MODES[-1]:
                raise
    raise AssertionError("unreachable")
