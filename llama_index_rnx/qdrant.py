"""The line to Qdrant: which engine, which of several servers answers, when to ask again. It knows no nodes and no vectors."""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_rnx.errors import RNXError
from llama_index_rnx.pickles import plain_points
from llama_index_rnx.private import made_private, make_file, make_folder
from llama_index_rnx.storage import Storage, said

Location = str | Path | QdrantClient | Sequence[str]
PORT = 6333  # of a URL that names none; gRPC is on the port after
SCHEMES = ("http://", "https://")
OWN_FILES = ("meta.json", "collection", "collection/*", "collection/*/*")  # that embedded Qdrant makes in a folder
T = TypeVar("T")

_TROUBLE = (ApiException, httpx.HTTPError, ConnectionError, ResourceExhaustedResponse, grpc.RpcError)
_MAY_PASS_REST = {404, 408, 429}  # 404: a node that was just started does not know the collection yet
_MAY_PASS_GRPC = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,
}
_GRPC_OPTIONS = {  # its own pauses grow to two minutes: a server that is back would be asked too late
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2_000,
}
_folders: weakref.WeakValueDictionary[str, Connection] = weakref.WeakValueDictionary()
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_own: weakref.WeakSet[QdrantClient] = weakref.WeakSet()


@atexit.register
def _close_own() -> None:
    """Those that nobody closed: qdrant-client would do it when Python is half gone, and print a traceback."""
    for client in list(_own):
        client.close()


class Connection:
    """One engine: embedded, or the servers of one cluster, of which the one that answered last is asked first.

    where: its place, for messages. embedded: whether Qdrant runs in this process.
    """

    def __init__(self, clients: Sequence[QdrantClient], where: str, storage: Storage, owned: bool = True) -> None:
        self.where = where
        self._clients, self._storage, self._owned = list(clients), storage, owned
        _own.update(clients if owned else ())
        self._first = 0
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self.embedded = isinstance(self._clients[0]._client, QdrantLocal)
        self._lock = _locks.setdefault(self._clients[0], threading.RLock())  # embedded: one sqlite connection for all

    def ask(self, action: Callable[[QdrantClient], T]) -> T:
        """Every word with Qdrant goes through here. What fails for now is asked again, of each server in turn.

        So an action must be one that may be done twice: Qdrant's upserts and deletions are.

        Raises:
            RNXError: no server answers, or one refuses.
        """
        if self.embedded:
            return self._ask_embedded(action)
        for pause in [0.0, *self._storage.pauses]:
            time.sleep(pause)
            for server in range(self._first, self._first + len(self._clients)):
                try:
                    found = action(self._clients[server % len(self._clients)])
                except _TROUBLE as error:
                    if not _may_pass(error, len(self._clients)):
                        raise self._refused(error) from error
                    last = error
                else:
                    self._first = server % len(self._clients)
                    return found
        raise self._refused(last) from last

    def _ask_embedded(self, action: Callable[[QdrantClient], T]) -> T:
        try:
            with self._lock:
                return action(self._clients[0])
        except sqlite3.Error as error:
            raise RNXError(
                f"the index in {self.where} cannot be written or read ({line_of(error)}); make room on the disk, or mend it, "
                "and run the same again: what was written is whole."
            ) from error

    def create(self, name: str, settings: dict[str, Any]) -> None:
        """Makes a collection; of a folder, for its owner alone."""

        def action(client: QdrantClient) -> None:
            client.create_collection(name, **settings)

        if not self.embedded or self.where == ":memory:":
            self.ask(action)
            return
        with made_private(Path(self.where), OWN_FILES):
            self.ask(action)

    def join(self, user: object) -> None:
        """Counts a user: the last to leave closes an engine that was opened here."""
        self._users.add(user)

    def leave(self, user: object) -> None:
        self._users.discard(user)
        if self._owned and not self._users:
            _folders.pop(self.where, None)
            for client in self._clients:
                client.close()

    def _refused(self, error: Exception) -> RNXError:
        if _answered(error):
            return RNXError(f"Qdrant at {self.where} refused: {line_of(error)}")
        return RNXError(f"Qdrant at {self.where} does not answer ({line_of(error)}); start it, or check the address.")


def connect(location: Location, storage: Storage) -> Connection:
    """The engine at a location: a folder, `:memory:`, the URL of a server, several of one cluster, or a client.

    Raises:
        RNXError: there is no place in it, a folder is in use or damaged, or server settings are given for a folder.
    """
    connection = _connected(location, storage)
    if connection.embedded and storage.given:
        raise RNXError(
            f"{said(storage.given)} was given for {connection.where}; only a Qdrant server has such settings: give its URL, "
            "or leave them out."
        )
    return connection


def urls_of(location: Location) -> list[str]:
    """The servers that a location names, several parted by commas or as a list; none for a folder."""
    if isinstance(location, Path | QdrantClient):
        return []
    parts = location.split(",") if isinstance(location, str) and location.startswith(SCHEMES) else location
    if isinstance(parts, str):
        return []
    found = [part.strip().rstrip("/") for part in parts if part.strip()]
    strange = [part for part in found if not part.startswith(SCHEMES)]
    if strange or not found:
        raise RNXError(f"{', '.join(strange) or 'nothing'} stands in a list of servers; URLs (http://host:6333) are allowed.")
    return found


def line_of(error: BaseException) -> str:
    """What an error says, in one line."""
    text = (error.details() or "") if isinstance(error, grpc.Call) else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def _connected(location: Location, storage: Storage) -> Connection:
    if isinstance(location, QdrantClient):
        return Connection([location], "the given client", storage, owned=False)
    urls = urls_of(location)
    if urls:
        return Connection([_client(url, storage) for url in urls], ",".join(urls), storage)
    if not str(location).strip():
        raise RNXError("no place was given; an index is a folder, :memory:, or the URL of a Qdrant server.")
    if str(location) == ":memory:":
        return Connection([QdrantClient(":memory:", force_disable_check_same_thread=True)], ":memory:", storage)
    return _embedded(Path(str(location)).expanduser().resolve(), storage)


def _client(url: str, storage: Storage) -> QdrantClient:
    try:
        port = urlsplit(url).port or PORT
    except ValueError as error:
        raise RNXError(f"{url} is no address of a server ({error}); http://host:6333 is one.") from error
    return QdrantClient(
        url=url,
        timeout=storage.timeout,
        check_compatibility=False,
        prefer_grpc=storage.grpc,
        grpc_port=port + 1,
        grpc_options=dict(_GRPC_OPTIONS),
        api_key=os.environ.get("QDRANT_API_KEY"),
    )


def _embedded(folder: Path, storage: Storage) -> Connection:
    """One client a folder and process: Qdrant locks the folder, and a notebook cell may well run twice."""
    known = _folders.get(str(folder))
    if known is not None:
        return known
    if folder.exists() and not folder.is_dir():
        raise RNXError(f"{folder} is a file; an index is a folder, :memory:, or the URL of a Qdrant server.")
    if storage.given:  # before an empty index is made
        raise RNXError(f"{said(storage.given)} was given for {folder}; only a Qdrant server has such settings: give its URL.")
    try:
        make_folder(folder)
        make_file(folder / ".lock")
        with plain_points(), made_private(folder, OWN_FILES):
            client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
    except RuntimeError as error:
        raise RNXError(
            f"the index in {folder} is in use by another process; wait for it, or run a Qdrant server and give its URL."
        ) from error
    except (OSError, sqlite3.Error, ValueError, TypeError, LookupError, AttributeError) as error:  # of a damaged file
        raise RNXError(
            f"the index in {folder} cannot be opened ({line_of(error)}); make room on a full disk, or index again into a new "
            "folder."
        ) from error
    connection = _folders[str(folder)] = Connection([client], str(folder), storage)
    return connection


def _may_pass(error: BaseException, servers: int) -> bool:
    """Whether another server, or this one a moment later, may do what this one just did not."""
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 500
        return status >= 500 or (status in _MAY_PASS_REST and (status != 404 or servers > 1))
    if isinstance(error, grpc.Call):
        code = error.code()
        return code in _MAY_PASS_GRPC and (code != grpc.StatusCode.NOT_FOUND or servers > 1)
    return True


def _answered(error: BaseException) -> bool:
    """Whether the error is what a server said, not its silence."""
    if isinstance(error, grpc.Call):
        return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return not isinstance(error, ResponseHandlingException | httpx.HTTPError | ConnectionError)
