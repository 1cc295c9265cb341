"""Qdrant servers: which of several answers, when to retry, what their errors mean. It knows no
nodes and no vectors.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
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

from llama_index_rnx.collection.connection import Connection, Location
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.errors import (
    ConnectionFailedError,
    RNXError,
    SettingsError,
    one_line,
    shown,
)
from llama_index_rnx.network import http_options, is_loopback_url, usable_proxies

PORT = 6333  # of a URL that names none; gRPC uses the port after it
SCHEMES = ("http://", "https://")
OLDEST = (1, 16)  # the first version that keeps metadata of collections

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
_TOO_LARGE = re.compile(r"larger than (allowed|max)|too large|length limit", re.IGNORECASE)


class RequestTooLargeError(ConnectionFailedError):
    """A server, or a gateway before it, does not take a request of that size."""


class ServerConnection(Connection):
    """The servers of one cluster, of which the one that answered last is called first.

    Args:
        clients: one for each server.
        owned: whether they were made here, and not by the user.
    """

    embedded = False

    def __init__(
        self, clients: Sequence[QdrantClient], where: str, storage: Storage, owned: bool = True
    ) -> None:
        super().__init__(where, owned)
        self._clients = list(clients)
        self._storage = storage
        self._first = 0

    def call(self, action: Callable[[QdrantClient], T]) -> T:
        """Run an action with a client. Transient errors are retried, on each server in turn, with
        growing pauses.

        Raises:
            ConnectionFailedError: no server answers, or one refuses.
        """
        for pause in [0.0, *self._storage.pauses]:
            if pause:
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

    def check_version(self) -> None:
        """Raise ConnectionFailedError for a server that is too old. A server that does not say its
        version is taken as new enough.
        """
        version = self.call(_version)
        numbers = re.match(r"v?(\d+)\.(\d+)", version or "")
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            needed = ".".join(map(str, OLDEST))
            raise ConnectionFailedError(
                f"Qdrant at {self.where} is {version}; {needed} or newer is needed: "
                "update the server."
            )

    def close(self) -> None:
        for client in self._clients:
            client.close()

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


def connect_to_servers(urls: Sequence[str], storage: Storage) -> ServerConnection:
    """Return the connection to the servers of one cluster.

    Raises:
        SettingsError: a URL is no address.
    """
    return ServerConnection([_client(url, storage) for url in urls], ",".join(urls), storage)


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
