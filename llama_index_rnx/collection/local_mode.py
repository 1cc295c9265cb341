"""qdrant-client's local mode: for a client that a user hands in, for folders that earlier versions
made, and where there is no Qdrant Edge. It knows no nodes.

Local mode keeps every point as a pickle, and a pickle can name any function to be called. So points
in files are read by an unpickler that knows Qdrant's own data classes and nothing else: an index
that somebody else made can be damaged, but it cannot run anything.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from qdrant_client import QdrantClient, models
from qdrant_client.http.models import models as plain_models

from llama_index_rnx.collection.connection import MEMORY, Connection
from llama_index_rnx.collection.schema import META
from llama_index_rnx.errors import StorageError, one_line
from llama_index_rnx.system import keep_private

# The files that local mode makes in a folder beside META, which holds the settings of all
# collections: the points of each.
COLLECTIONS = "collection"
_POINTS = "storage.sqlite"
_OWN_FILES = (META, COLLECTIONS, f"{COLLECTIONS}/*", f"{COLLECTIONS}/*/*")
T = TypeVar("T")

# Local mode has one sqlite connection, so the users of a client take turns.
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()


class UnsafePickleError(ValueError):
    """A stored point that is damaged, or more than data."""


class LocalConnection(Connection):
    """A client in local mode.

    Args:
        folder: of its files, None for one in RAM or of the user's.
        on_close: called once the client is closed.
    """

    has_payload_indexes = False

    def __init__(
        self,
        client: QdrantClient,
        where: str,
        owned: bool = True,
        folder: Path | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(where, owned)
        self._client = client
        self._folder = folder
        self._on_close = on_close
        self._lock = _locks.setdefault(client, threading.RLock())

    def call(self, action: Callable[[QdrantClient], T]) -> T:
        try:
            with self._lock:
                if self._folder is None:
                    return action(self._client)
                with keep_private(self._folder, _OWN_FILES):
                    return action(self._client)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the index in {self.where} cannot be written or read ({one_line(error)}); "
                "make room on the disk, or repair it, and run the same again: "
                "what was written is whole."
            ) from error
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            raise StorageError(
                f"the Qdrant client of {self.where} was closed; make a new one."
            ) from error

    def close(self) -> None:
        self._client.close()
        self._on_close()

    def dump(self, name: str) -> Any:
        engine: Any = self._client._client
        if getattr(engine, "location", None) != MEMORY:
            return None
        with self._lock:
            return copy.deepcopy(engine.collections.get(name))

    def restore(self, name: str, dumped: Any) -> None:
        """Put what `dump` returned into this engine. The points keep their order, so that equal
        scores stay in order, too.
        """
        engine: Any = self._client._client
        with self._lock:
            engine.collections[name] = dumped


def holds_local_index(folder: Path) -> bool:
    """Return whether local mode made an index in a folder."""
    return (folder / META).is_file()


def open_local_mode(folder: Path) -> QdrantClient:
    """Open a folder in local mode, after a look at all of its points.

    Raises:
        RuntimeError: another process has it open.
        OSError, ValueError, TypeError, LookupError, AttributeError, sqlite3.Error: it is damaged.
    """
    if holds_local_index(folder):
        for name in read_configs(folder):
            for _ in read_points(folder, name):
                pass
    with keep_private(folder, _OWN_FILES):
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)


def read_configs(folder: Path) -> dict[str, models.CreateCollection]:
    """Return the settings of each collection that local mode made in a folder.

    Raises:
        OSError, ValueError, TypeError, LookupError, AttributeError: they are damaged.
    """
    collections = json.loads((folder / META).read_text())["collections"]
    for name in collections:
        if Path(name).name != name:
            raise ValueError(f"collection {name!r} lies outside")
    return {name: models.CreateCollection(**config) for name, config in collections.items()}


def count_points(folder: Path, name: str) -> int:
    """Return how many points a collection of local mode holds at most."""
    file = _points_file(folder, name)
    if not file.is_file():
        return 0
    with closing(_connected(file)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM points").fetchone()
    return int(count)


def read_points(folder: Path, name: str) -> Iterator[models.PointStruct]:
    """Yield the points of a collection of local mode; of two copies of one the later comes later.

    Raises:
        UnsafePickleError: a point is damaged, or would call something.
        OSError, sqlite3.Error: the file cannot be read.
    """
    file = _points_file(folder, name)
    if not file.is_file():
        return
    with closing(_connected(file)) as connection:
        for (data,) in connection.execute("SELECT point FROM points ORDER BY rowid"):
            point = restricted_loads(data)
            if not isinstance(point, models.PointStruct):
                raise UnsafePickleError(f"a point in it is a {type(point).__name__}")
            yield point


def restricted_loads(data: bytes) -> Any:
    """Return a stored point.

    Raises:
        UnsafePickleError: it is damaged, or would call something.
    """
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except UnsafePickleError:
        raise
    # A damaged pickle may raise anything.
    except Exception as error:
        raise UnsafePickleError(f"a point in it is damaged ({type(error).__name__})") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = getattr(plain_models, name, None) if module == plain_models.__name__ else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise UnsafePickleError(
                f"a point in it names {module}.{name}, which is no data of Qdrant's"
            )
        return kind


def _points_file(folder: Path, name: str) -> Path:
    file = (folder / COLLECTIONS / name / _POINTS).resolve()
    # A link.
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"collection {name!r} lies outside")
    return file


def _connected(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
