"""From a location to its connection: a folder, RAM, servers, or a client of the user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from llama_index_rnx.collection.connection import MEMORY, Connection, Location
from llama_index_rnx.collection.folders import open_folder, open_memory
from llama_index_rnx.collection.local_mode import LocalConnection
from llama_index_rnx.collection.servers import (
    ServerConnection,
    connect_to_servers,
    line_of,
    urls_of,
)
from llama_index_rnx.collection.settings import Storage, format_settings
from llama_index_rnx.errors import SettingsError, StorageError, shown

_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:\d{2,5}")


def connect(location: Location, storage: Storage) -> Connection:
    """Return the engine at a location: a folder, `:memory:`, the URL of a server, several of one
    cluster, or a client.

    Raises:
        SettingsError: it is no location, or server settings are given for a folder.
        StorageError: a folder is in use or damaged.
    """
    if isinstance(location, QdrantClient):
        return _connect_client(location, storage)
    urls = urls_of(location)
    if urls:
        return connect_to_servers(urls, storage)

    text = str(location)
    if not text.strip():
        raise SettingsError(
            "no location was given; an index is a folder, :memory:, or the URL of a Qdrant server."
        )
    _check_settings(storage.of_servers, text)
    if text == MEMORY:
        return open_memory()
    if "\0" in text or "://" in text:
        raise SettingsError(
            f"{text!r} is no folder; an index is a folder, :memory:, "
            "or http://host:6333 of a Qdrant server."
        )
    if _HOST_AND_PORT.fullmatch(text) and not Path(text).exists():
        raise SettingsError(f"{text} looks like the address of a server; its URL is http://{text}.")
    return open_folder(_folder_of(text))


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


def _connect_client(client: QdrantClient, storage: Storage) -> Connection:
    where = "the given client"
    if not isinstance(client._client, QdrantLocal):
        return ServerConnection([client], where, storage, owned=False)
    _check_settings(storage.non_default, where)
    return LocalConnection(client, where, owned=False)


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Raise SettingsError if there are settings that only servers have."""
    if settings:
        raise SettingsError(
            f"{format_settings(settings)} was given for {where}; "
            "only a Qdrant server has such settings: give its URL, or leave them out."
        )


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
