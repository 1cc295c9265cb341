"""The line to Qdrant: which engine, which of several servers answers, when to ask again. It knows
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
from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.network import http_options, is_loopback_url, usable_proxies
from llama_index_rnx.system import keep_private, make_file, make_folder

Location = str | Path | QdrantClient | Sequence[str]
MEMORY = ":memory:"
PORT = 6333  # of a URL that names none; gRPC is on the port after
SCHEMES = ("http://", "https://")
OLDEST = (1, 16)  # the first that keeps metadata of collections
OWN_FILES = (
    "meta.json",
    "collection",
    "collection/*",
    "collection/*/*",
)  # that embedded Qdrant makes in a folder
T = TypeVar("T")

_TROUBLE = (
    ApiException,
    httpx.HTTPError,
    ConnectionError,
    ResourceExhaustedResponse,
    grpc.RpcError,
)
_MAY_PASS_REST = {
    404,
    408,
    429,
}  # 404: a node that was just started does not know the collection yet
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
# Its own pauses grow to two minutes: a server that is back would be asked too late.
_GRPC_OPTIONS = {
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.max_reconnect_backoff_ms": 2_000,
}
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{2,5}")
_TOO_LARGE = re.compile(r"larger than (allowed|max)|too large|length limit", re.IGNORECASE)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_folders: weakref.WeakValueDictionary[str, Connection] = weakref.WeakValueDictionary()
_locks: weakref.WeakKeyDictionary[QdrantClient, threading.RLock] = weakref.WeakKeyDictionary()
_own: weakref.WeakSet[QdrantClient] = weakref.WeakSet()


@atexit.register
def _close_own() -> None:
    """Those that nobody closed: qdrant-client would do it when Python is half gone, and print a
    traceback.
    """
    for client in list(_own):
        client.close()


class TooLargeError(RNXError):
    """A server, or a gateway before it, does not take a request of that size."""


class Connection:
    """One engine: embedded, or the servers of one cluster, of which the one that answered last is
    asked first.

    where: its place, for messages. embedded: whether Qdrant runs in this process. read_only:
    whether nothing can be written.
    """

    def __init__(
        self,
        clients: Sequence[QdrantClient],
        where: str,
        storage: Storage,
        owned: bool = True,
        read_only: bool = False,
    ) -> None:
        self.where, self.read_only = where, read_only
        self._clients, self._storage, self._owned = list(clients), storage, owned
        _own.update(clients if owned else ())
        self._first = 0
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self.embedded = isinstance(self._clients[0]._client, QdrantLocal)
        self._lock = _locks.setdefault(
            self._clients[0], threading.RLock()
        )  # embedded: one sqlite connection for all

    def ask(self, action: Callable[[QdrantClient], T]) -> T:
        """Every word with Qdrant goes through here. What fails for now is asked again, of each
        server in turn.

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
                except ValueError as error:
                    is_closed = "closed" in str(
                        error
                    )  # grpc's word for a client that somebody closed
                    if not is_closed and not isinstance(error, JSONDecodeError):
                        raise
                    raise self._refused(error) from error
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
        except (sqlite3.Error, OSError) as error:
            advice = (
                "make the folder writable"
                if _is_forbidden(error)
                else "make room on the disk, or mend it"
            )
            raise RNXError(
                f"the index in {self.where} cannot be written or read ({line_of(error)}); {advice}, and run the same again: "
                "what was written is whole."
            ) from error
        except RuntimeError as error:
            if "closed" not in str(error):
                raise
            raise RNXError(
                f"the Qdrant client of {self.where} was closed; make a new one."
            ) from error

    def refuse_old_server(self) -> None:
        """Raises RNXError for a server that is too old; one that does not say its version is taken
        as new enough.
        """
        version = None if self.embedded else self.ask(_version)
        numbers = re.match(r"v?(\d+)\.(\d+)", version or "")
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise RNXError(
                f"Qdrant at {self.where} is {version}; {needed} or newer is needed: update the server."
            )

    def create(self, name: str, settings: dict[str, Any]) -> None:
        """Makes a collection; of a folder, for its owner alone."""

        def action(client: QdrantClient) -> None:
            client.create_collection(name, **settings)

        if not self.embedded or self.where == ":memory:":
            self.ask(action)
            return
        with keep_private(Path(self.where), OWN_FILES):
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

    @property
    def in_ram(self) -> bool:
        """Whether the points live in this process alone, and end with it."""
        return getattr(self._clients[0]._client, "location", None) == MEMORY

    def dump(self, name: str) -> Any:
        """A copy of a collection of an engine in RAM; None where it can be opened again, or does
        not exist.
        """
        if not self.in_ram:
            return None
        engine: Any = self._clients[0]._client
        with self._lock:
            return copy.deepcopy(engine.collections.get(name))

    def restore(self, name: str, points: Any) -> None:
        """Puts what `dump` gave into this engine in RAM: the points in their order, so that equal
        scores stay in order, too.
        """
        engine: Any = self._clients[0]._client
        with self._lock:
            engine.collections[name] = points

    def _refused(self, error: Exception) -> RNXError:
        if _is_too_large(error):
            return TooLargeError(
                f"Qdrant at {self.where} takes no request of that size: {line_of(error)}"
            )
        if _answered(error):
            return RNXError(f"Qdrant at {self.where} refused: {line_of(error)}")
        return RNXError(
            f"Qdrant at {self.where} does not answer ({line_of(error)}); start it, or check the address."
        )


def connect(location: Location, storage: Storage) -> Connection:
    """The engine at a location: a folder, `:memory:`, the URL of a server, several of one cluster,
    or a client.

    Raises:
        RNXError: there is no place in it, a folder is in use or damaged, or server settings are
            given for a folder.
    """
    connection = _connected(location, storage)
    if connection.embedded and storage.given:
        raise RNXError(
            f"{format_settings(storage.given)} was given for {connection.where}; only a Qdrant server has such settings: give its URL, "
            "or leave them out."
        )
    return connection


def client_options(client: QdrantClient) -> dict[str, Any]:
    """What a client was made with, so that another process can make it again.

    Raises:
        RNXError: something of it cannot be sent to another process.
    """
    options = {name: value for name, value in client.init_options.items() if value is not None}
    strange = sorted(name for name, value in options.items() if callable(value))
    if strange:
        raise RNXError(
            f"a QdrantClient was handed over that cannot be pickled ({', '.join(strange)} is a function); give the URL of its "
            "server instead."
        )
    return options


def client_again(options: Mapping[str, Any]) -> QdrantClient:
    """The client of these options.

    Raises:
        RNXError: its folder is in use, here or in another process.
    """
    try:
        return QdrantClient(**options)
    except (RuntimeError, OSError, ValueError) as error:
        raise RNXError(
            f"the QdrantClient of this collection cannot be made again ({line_of(error)})."
        ) from error


def urls_of(location: Location) -> list[str]:
    """The servers that a location names, several parted by commas or as a list; none for a folder."""
    if isinstance(location, Path | QdrantClient):
        return []
    if isinstance(location, AsyncQdrantClient):
        raise RNXError(
            "location= got an AsyncQdrantClient; a QdrantClient is needed, async methods use it from a thread."
        )
    if not isinstance(location, str) and not _is_list_of_texts(location):
        raise RNXError(
            f"location= got {_short(location)}; a folder, ':memory:', the URL of a Qdrant server (or a list of them) or a "
            "QdrantClient is needed."
        )
    parts = (
        location.split(",")
        if isinstance(location, str) and location.startswith(SCHEMES)
        else location
    )
    if isinstance(parts, str):
        return []
    found = [part.strip().rstrip("/") for part in parts if part.strip()]
    strange = [part for part in found if not part.startswith(SCHEMES)]
    if strange or not found:
        raise RNXError(
            f"{', '.join(strange) or 'nothing'} stands in a list of servers; URLs (http://host:6333) are allowed."
        )
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
        raise RNXError(
            "no place was given; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    if str(location) == MEMORY:
        return Connection(
            [QdrantClient(MEMORY, force_disable_check_same_thread=True)], MEMORY, storage
        )
    if "\0" in str(location) or "://" in str(location):
        raise RNXError(
            f"{str(location)!r} is no folder; an index is a folder, :memory:, or http://host:6333 of a Qdrant server."
        )
    if _HOST_AND_PORT.fullmatch(str(location)) and not Path(str(location)).exists():
        raise RNXError(
            f"{location} looks like the address of a server; its URL is http://{location}."
        )
    return _embedded(_folder_of(str(location)), storage)


def _folder_of(location: str) -> Path:
    try:
        folder = Path(location).expanduser().resolve()
        folder.lstat()  # here the system says that a name is too long
    except FileNotFoundError:
        return folder
    except (OSError, ValueError, RuntimeError) as error:  # half a surrogate pair, or ~ of nobody
        raise RNXError(
            f"{shown(location)} can be no folder ({line_of(error)}); an index is a folder, :memory:, or http://host:6333 "
            "of a Qdrant server."
        ) from error
    return folder


def _client(url: str, storage: Storage) -> QdrantClient:
    try:
        port = urlsplit(url).port or PORT
    except ValueError as error:
        raise RNXError(
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
    """One client a folder and process: Qdrant locks the folder, and a notebook cell may well run
    twice.
    """
    known = _folders.get(str(folder))
    if known is not None:
        return known
    if folder.exists() and not folder.is_dir():
        raise RNXError(
            f"{folder} is a file; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    if storage.given:  # before an empty index is made
        raise RNXError(
            f"{format_settings(storage.given)} was given for {folder}; only a Qdrant server has such settings: give its URL."
        )
    read_only = is_read_only(folder)
    try:
        client = read_index(folder) if read_only else _opened(folder)
    except RuntimeError as error:
        raise RNXError(
            f"the index in {folder} is in use by another process; wait for it, or run a Qdrant server and give its URL."
        ) from error
    except (
        OSError,
        sqlite3.Error,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # of a damaged file
        advice = (
            "make the folder readable and writable"
            if _is_forbidden(error)
            else "make room on a full disk"
        )
        raise RNXError(
            f"the index in {folder} cannot be opened ({line_of(error)}); {advice}, or index again into a new folder."
        ) from error
    connection = _folders[str(folder)] = Connection(
        [client], str(folder), storage, read_only=read_only
    )
    return connection


def _opened(folder: Path) -> QdrantClient:
    make_folder(folder)
    make_file(folder / ".lock")
    with restricted_unpickling(), keep_private(folder, OWN_FILES):
        return QdrantClient(path=str(folder), force_disable_check_same_thread=True)


def _version(client: QdrantClient) -> str | None:
    """The version that a server says it is; None where something in between hides it."""
    try:
        return client.info().version
    except (UnexpectedResponse, JSONDecodeError):
        return None
    except ResponseHandlingException as error:
        if isinstance(
            error.source, httpx.HTTPError | OSError
        ):  # silence, not an answer of another kind
            raise
        return None
    except grpc.RpcError as error:
        if not _answered(error):
            raise
        return None


def _is_list_of_texts(location: Any) -> bool:
    return isinstance(location, list | tuple | set | frozenset) and all(
        isinstance(part, str) for part in location
    )


def _short(value: Any) -> str:
    return f"{type(value).__name__} {shown(value)}"


def _is_forbidden(error: Exception) -> bool:
    """Whether a file may not be written, as opposed to a disk that is full or a file that is
    damaged.
    """
    number = error.errno if isinstance(error, OSError) else None
    return number in _READ_ONLY or "readonly" in str(error)


def _is_too_large(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse) and error.status_code == 413:
        return True
    may_say_so = isinstance(error, UnexpectedResponse) or (
        isinstance(error, grpc.Call) and _answered(error)
    )
    return may_say_so and _TOO_LARGE.search(line_of(error)) is not None


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
