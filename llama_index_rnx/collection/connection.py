"""The connection to Qdrant: which engine, which of several servers answers, when to retry. It knows
no nodes and no vectors.
"""

from __future__ import annotations

import atexit
import copy
import errno
import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_rnx.collection.readonly import is_read_only, read_index
from llama_index_rnx.collection.settings import Storage, format_settings
from llama_index_rnx.collection.unpickling import restricted_unpickling
from llama_index_rnx.errors import (
    ConnectionFailedError,
    RNXError,
    SettingsError,
    StorageError,
    one_line,
    shown,
)
from llama_index_rnx.network import http_options, is_loopback_url, usable_proxies
from llama_index_rnx.system import keep_private, make_file

Location = str | Path | QdrantClient | Sequence[str]
MEMORY = ":memory:"
PORT = 6333  # of a URL that names none; gRPC uses the port after it
SCHEMES = ("http://", "https://")
OLDEST = (1, 16)  # the first version that keeps metadata of collections

# The files that embedded Qdrant makes in a folder.
OWN_FILES = ("meta.json", "collection", "collection/*", "collection/*/*")
T = TypeVar("T")

# The errors that a client raises for a server that does not answer, or refuses.
_SERVER_ERRORS = (
    ApiException,
    httpx.HTTPError,
    ConnectionError,
    ResourceExhaustedResponse,
    grpc.RpcError,
)

# Answers that may be others a moment later. 404: a node of a cluster that has just started does not
# know the collection yet.
_TRANSIENT_REST = {404, 408, 429}
_TRANSIENT_GRPC = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.NOT_FOUND,
}

# The pauses of gRPC itself grow to two minutes: a server that is back would be called too late.
_GRPC_OPTIONS = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2_000,
}
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{2,5}")
_TOO_LARGE = re.compile(r"larger than (allowed|max)|too large|length limit", re.IGNORECASE)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

# The connections to folders that are open in this process: Qdrant locks a folder.
_folders: weakref.WeakValueDictionary[str, Connection] = weakref.WeakValueDictionary()
# An embedded engine has one sqlite connection, so its users take turns.
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
# The clients that were made here, and not by the user.
_own: weakref.WeakSet[QdrantClient] = weakref.WeakSet()


@atexit.register
def _close_own() -> None:
    """Close the clients that nobody closed: qdrant-client would do it while Python shuts down, and
    print a traceback.
    """
    for client in list(_own):
        client.close()


class RequestTooLargeError(ConnectionFailedError):
    """A server, or a gateway before it, does not take a request of that size."""


class Connection:
    """One engine: embedded, or the servers of one cluster, of which the one that answered last is
    called first.

    Attributes:
        where: its place, for messages.
        embedded: whether Qdrant runs in this process.
        read_only: whether nothing can be written.
    """

    def __init__(
        self,
        clients: Sequence[QdrantClient],
        where: str,
        storage: Storage,
        owned: bool = True,
        read_only: bool = False,
    ) -> None:
        self.where = where
        self.read_only = read_only
        self.embedded = isinstance(clients[0]._client, QdrantLocal)
        self._clients = list(clients)
        self._storage = storage
        self._owned = owned
        self._first = 0
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._lock = _locks.setdefault(clients[0], threading.RLock())
        _own.update(clients if owned else ())

    def call(self, action: Callable[[QdrantClient], T]) -> T:
        """Run an action with a client. Every call of Qdrant goes through here.

        Transient errors are retried, on each server in turn, with growing pauses. So an action must
        be one that may run twice, as Qdrant's upserts and deletions are.

        Raises:
            ConnectionFailedError: no server answers, or one refuses.
            StorageError: an embedded index cannot be read or written.
        """
        if self.embedded:
            return self._call_embedded(action)

        for pause in [0.0, *self._storage.pauses]:
            time.sleep(pause)
            for index in range(self._first, self._first + len(self._clients)):
                server = index % len(self._clients)
                try:
                    result = action(self._clients[server])
                except ValueError as error:
                    # "closed": gRPC's word for a client that somebody closed.
                    if "closed" not in str(error) and not isinstance(error, JSONDecodeError):
                        raise
                    raise self._failure(error) from error
                except _SERVER_ERRORS as error:
                    if not _is_transient(error, len(self._clients)):
                        raise self._failure(error) from error
                    last_error = error
                else:
                    self._first = server
                    return result
        raise self._failure(last_error) from last_error

    def _call_embedded(self, action: Callable[[QdrantClient], T]) -> T:
        try:
            with self._lock:
                return action(self._clients[0])
        except (sqlite3.Error, OSError) as error:
            advice = "make room on the disk, or repair it"
            if _is_forbidden(error):
                advice = "make the folder writable"
            raise StorageError(
                f"the index in {self.where} cannot be written or read ({line_of(error)}); "
                f"{advice}, and run the same again: what was written is whole."
            ) from error
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            raise StorageError(
                f"the Qdrant client of {self.where} was closed; make a new one."
            ) from error

    def check_version(self) -> None:
        """Raise ConnectionFailedError for a server that is too old. A server that does not say its
        version is taken as new enough.
        """
        version = None if self.embedded else self.call(_version)
        numbers = re.match(r"v?(\d+)\.(\d+)", version or "")
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise ConnectionFailedError(
                f"Qdrant at {self.where} is {version}; {needed} or newer is needed: "
                "update the server."
            )

    def create(self, name: str, settings: dict[str, Any]) -> None:
        """Create a collection; the files of one in a folder are private to their owner."""

        def action(client: QdrantClient) -> None:
            client.create_collection(name, **settings)

        if not self.embedded or self.where == MEMORY:
            self.call(action)
            return
        with keep_private(Path(self.where), OWN_FILES):
            self.call(action)

    def acquire(self, user: object) -> None:
        """Count a user: the last one to release an engine that was opened here closes it."""
        self._users.add(user)

    def release(self, user: object) -> None:
        """Forget a user, and close the engine after the last one."""
        self._users.discard(user)
        if self._owned and not self._users:
            _folders.pop(self.where, None)
            for client in self._clients:
                client.close()

    @property
    def in_ram(self) -> bool:
        """Whether the points live in this process alone, and end with it."""
        return getattr(self._clients[0]._client, "location", None) == MEMORY

    def dump(self, name: str) -> Any:
        """Return a copy of a collection of an engine in RAM; None for one that does not exist, and
        for other engines, which can be opened again.
        """
        if not self.in_ram:
            return None
        engine: Any = self._clients[0]._client
        with self._lock:
            return copy.deepcopy(engine.collections.get(name))

    def restore(self, name: str, points: Any) -> None:
        """Put what `dump` returned into this engine in RAM. The points keep their order, so that
        equal scores stay in order, too.
        """
        engine: Any = self._clients[0]._client
        with self._lock:
            engine.collections[name] = points

    def _failure(self, error: Exception) -> RNXError:
        if _is_too_large(error):
            return RequestTooLargeError(
                f"Qdrant at {self.where} takes no request of that size: {line_of(error)}"
            )
        if _is_answer(error):
            return ConnectionFailedError(f"Qdrant at {self.where} refused: {line_of(error)}")
        return ConnectionFailedError(
            f"Qdrant at {self.where} does not answer ({line_of(error)}); "
            "start it, or check the address."
        )


def connect(location: Location, storage: Storage) -> Connection:
    """Return the engine at a location: a folder, `:memory:`, the URL of a server, several of one
    cluster, or a client.

    Raises:
        SettingsError: it is no location, or server settings are given for a folder.
        StorageError: a folder is in use or damaged.
    """
    connection = _connect(location, storage)
    if connection.embedded and storage.non_default:
        raise SettingsError(
            f"{format_settings(storage.non_default)} was given for {connection.where}; "
            "only a Qdrant server has such settings: give its URL, or leave them out."
        )
    return connection


def client_options(client: QdrantClient) -> dict[str, Any]:
    """Return the arguments that a client was made with, so that another process can make it again.

    Raises:
        SettingsError: an argument cannot be sent to another process.
    """
    options = {name: value for name, value in client.init_options.items() if value is not None}
    functions = sorted(name for name, value in options.items() if callable(value))
    if functions:
        raise SettingsError(
            "a QdrantClient was handed over that cannot be pickled "
            f"({', '.join(functions)} is a function); give the URL of its server instead."
        )
    return options


def reopen_client(options: Mapping[str, Any]) -> QdrantClient:
    """Return a client of these arguments.

    Raises:
        StorageError: its folder is in use, here or in another process.
    """
    try:
        return QdrantClient(**options)
    except (RuntimeError, OSError, ValueError) as error:
        raise StorageError(
            f"the QdrantClient of this collection cannot be made again ({line_of(error)})."
        ) from error


def urls_of(location: Location) -> list[str]:
    """Return the servers that a location names, several separated by commas or as a list; none for
    a folder.

    Raises:
        SettingsError: it is no location, or something in a list of servers is no URL.
    """
    if isinstance(location, Path | QdrantClient):
        return []
    if isinstance(location, AsyncQdrantClient):
        raise SettingsError(
            "location= got an AsyncQdrantClient; a QdrantClient is needed, "
            "async methods use it from a thread."
        )
    if not isinstance(location, str) and not _is_list_of_texts(location):
        raise SettingsError(
            f"location= got {type(location).__name__} {shown(location)}; a folder, ':memory:', "
            "the URL of a Qdrant server (or a list of them) or a QdrantClient is needed."
        )
    if isinstance(location, str) and not location.startswith(SCHEMES):
        return []

    names = location.split(",") if isinstance(location, str) else location
    urls = [name.strip().rstrip("/") for name in names if name.strip()]
    others = [url for url in urls if not url.startswith(SCHEMES)]
    if others or not urls:
        raise SettingsError(
            f"{', '.join(others) or 'nothing'} stands in a list of servers; "
            "URLs (http://host:6333) are allowed."
        )
    return urls


def line_of(error: BaseException) -> str:
    """Return the message of an error in one line; of a gRPC call, what the server said."""
    if isinstance(error, grpc.Call):
        details = error.details()
        return one_line(details) if details else type(error).__name__
    return one_line(error)


def _connect(location: Location, storage: Storage) -> Connection:
    if isinstance(location, QdrantClient):
        return Connection([location], "the given client", storage, owned=False)

    urls = urls_of(location)
    if urls:
        return Connection([_client(url, storage) for url in urls], ",".join(urls), storage)

    text = str(location)
    if not text.strip():
        raise SettingsError(
            "no location was given; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    if text == MEMORY:
        client = QdrantClient(MEMORY, force_disable_check_same_thread=True)
        return Connection([client], MEMORY, storage)
    if "\0" in text or "://" in text:
        raise SettingsError(
            f"{text!r} is no folder; an index is a folder, :memory:, "
            "or http://host:6333 of a Qdrant server."
        )
    if _HOST_AND_PORT.fullmatch(text) and not Path(text).exists():
        raise SettingsError(f"{text} looks like the address of a server; its URL is http://{text}.")
    return _embedded(_folder_of(text), storage)


def _folder_of(location: str) -> Path:
    try:
        folder = Path(location).expanduser().resolve()
        # Here the system says that a name is too long.
        folder.lstat()
    except FileNotFoundError:
        return folder
    # Half a surrogate pair, or the home folder of an unknown user.
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{shown(location)} can be no folder ({line_of(error)}); an index is a folder, "
            ":memory:, or http://host:6333 of a Qdrant server."
        ) from error
    return folder


def _client(url: str, storage: Storage) -> QdrantClient:
    try:
        port = urlsplit(url).port or PORT
    except ValueError as error:
        raise SettingsError(
            f"{url} is no address of a server ({error}); http://host:6333 is one."
        ) from error

    direct = {"grpc.enable_http_proxy": 0} if is_loopback_url(url) else {}
    with usable_proxies(url):
        return QdrantClient(
            url=url,
            timeout=storage.timeout,
            check_compatibility=False,
            prefer_grpc=storage.grpc,
            grpc_port=port + 1,
            grpc_options={**_GRPC_OPTIONS, **direct},
            api_key=os.environ.get("QDRANT_API_KEY"),
            **http_options(url),
        )


def _embedded(folder: Path, storage: Storage) -> Connection:
    """Return the connection to a folder, one for a process: Qdrant locks the folder, and a notebook
    cell may well run twice.
    """
    existing = _folders.get(str(folder))
    if existing is not None:
        return existing
    if folder.exists() and not folder.is_dir():
        raise SettingsError(
            f"{folder} is a file; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    # Before an empty index is made.
    if storage.non_default:
        raise SettingsError(
            f"{format_settings(storage.non_default)} was given for {folder}; "
            "only a Qdrant server has such settings: give its URL."
        )

    read_only = is_read_only(folder)
    try:
        client = read_index(folder) if read_only else _open_folder(folder)
    except RuntimeError as error:
        raise StorageError(
            f"the index in {folder} is in use by another process; "
            "wait for it, or run a Qdrant server and give its URL."
        ) from error
    # A damaged file may raise any of these.
    except (OSError, sqlite3.Error, ValueError, TypeError, LookupError, AttributeError) as error:
        advice = "make room on a full disk"
        if _is_forbidden(error):
            advice = "make the folder readable and writable"
        raise StorageError(
            f"the index in {folder} cannot be opened ({line_of(error)}); {advice}, "
            "or index again into a new folder."
        ) from error

    connection = Connection([client], str(folder), storage, read_only=read_only)
    _folders[str(folder)] = connection
    return connection


def _open_folder(folder: Path) -> QdrantClient:
    make_file(folder / ".lock")
    with restricted_unpickling(), keep_private(folder, OWN_FILES):
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)


def _version(client: QdrantClient) -> str | None:
    """Return the version that a server reports; None where a gateway hides it."""
    try:
        return client.info().version
    except (UnexpectedResponse, JSONDecodeError):
        return None
    except ResponseHandlingException as error:
        # Silence is an error; an answer of another kind is not.
        if isinstance(error.source, httpx.HTTPError | OSError):
            raise
        return None
    except grpc.RpcError as error:
        if not _is_answer(error):
            raise
        return None


def _is_list_of_texts(location: Any) -> bool:
    return isinstance(location, list | tuple | set | frozenset) and all(
        isinstance(name, str) for name in location
    )


def _is_forbidden(error: Exception) -> bool:
    """Return whether a file may not be written, as opposed to a full disk or a damaged file."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _READ_ONLY or "readonly" in str(error)


def _is_too_large(error: Exception) -> bool:
    """Return whether the error is about the size of a request."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 413 or _TOO_LARGE.search(line_of(error)) is not None
    if isinstance(error, grpc.Call) and _is_answer(error):
        return _TOO_LARGE.search(line_of(error)) is not None
    return False


def _is_transient(error: BaseException, servers: int) -> bool:
    """Return whether another of the servers, or this one a moment later, may succeed."""
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or 500
        return status >= 500 or (status in _TRANSIENT_REST and (status != 404 or servers > 1))
    if isinstance(error, grpc.Call):
        code = error.code()
        return code in _TRANSIENT_GRPC and (code != grpc.StatusCode.NOT_FOUND or servers > 1)
    return True


def _is_answer(error: BaseException) -> bool:
    """Return whether the error is what a server said, not its silence."""
    if isinstance(error, grpc.Call):
        return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return not isinstance(error, ResponseHandlingException | httpx.HTTPError | ConnectionError)
