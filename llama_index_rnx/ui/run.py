"""Puts `rnx ui` together and runs it: the index, its files, and a server on this machine. It knows
no route.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import uvicorn
from platformdirs import user_data_path

from llama_index_rnx.chat import RNXChatEngine
from llama_index_rnx.collection import NodeCollection, holds_index
from llama_index_rnx.errors import StorageError
from llama_index_rnx.server import GuardedProtocol, create_listener
from llama_index_rnx.system import run_until_stopped
from llama_index_rnx.ui.app import create_page
from llama_index_rnx.ui.library import Library
from llama_index_rnx.ui.limits import MAX_UPLOAD_BYTES

# The page listens nowhere else: everybody who reaches it can read the files.
LOOPBACK = "127.0.0.1"
UPLOADS = "uploads"


@contextmanager
def open_library(
    location: str, name: str, max_bytes: int = MAX_UPLOAD_BYTES
) -> Iterator[tuple[NodeCollection, Library]]:
    """Yield the index at a location and its files. A folder that is not there yet becomes an index.

    Args:
        location: a folder, the URL of a Qdrant server, or "" for a temporary index, which is gone
            behind the block.
        name: of the Qdrant collection.
        max_bytes: of one uploaded file.

    Raises:
        StorageError: the folder holds other things, or another process uses the index.
        ConnectionFailedError: Qdrant does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="rnx-") as temporary:
        location = location or temporary
        _check_location(location)
        collection = NodeCollection(location, name=name)
        try:
            library = Library(collection, uploads_folder(location, name), max_bytes)
            try:
                yield collection, library
            finally:
                library.close()
        finally:
            collection.close()


def uploads_folder(location: str, name: str) -> Path:
    """Return the folder for uploaded files: inside the index, or with the user's data for an index
    on a server.
    """
    if _is_url(location):
        digest = hashlib.sha256(f"{location}\n{name}".encode()).hexdigest()[:16]
        return user_data_path("llama-index-rnx") / UPLOADS / digest
    return Path(location).expanduser() / UPLOADS / quote(name, safe="")


def run_page(
    collection: NodeCollection,
    library: Library,
    new_engine: Callable[[], RNXChatEngine],
    port: int,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        new_engine: starts a conversation.
        port: of this machine; 0 for any that is free.
        on_ready: is called with the address once the page can be opened.

    Raises:
        SettingsError: the port is taken.
    """
    with create_listener(LOOPBACK, port) as listener:
        on_ready(f"http://{LOOPBACK}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            create_page(collection, library, new_engine),
            log_level="warning",
            ws="none",
            http=GuardedProtocol,
            server_header=False,
        )
        run_until_stopped(config, listener)


def _check_location(location: str) -> None:
    """Refuse a folder that holds other things than an index."""
    folder = Path(location).expanduser()
    if _is_url(location) or holds_index(folder) or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise StorageError(
            f"{location} holds other things than an index; "
            "give an index, or a folder that is not there yet."
        )


def _is_url(location: str) -> bool:
    return location.startswith(("http://", "https://"))
