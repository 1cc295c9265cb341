"""`rnx ui`: a page on this machine to ask an index and to add files to it. Here it is put together
and run.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from platformdirs import user_data_path

from llama_index_rnx.chat import RNXChatEngine
from llama_index_rnx.collection import NodeCollection, holds_index
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ui.library import MAX_BYTES, Library

LOOPBACK = "127.0.0.1"  # and nothing else: whoever reaches the page reads the files
UPLOADS = "uploads"


@contextmanager
def open_library(
    location: str, name: str, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[NodeCollection, Library]]:
    """The index at a location and its files; without a location a temporary one, which is gone
    afterwards.

    A folder that is not there yet becomes an index.

    Raises:
        RNXError: the folder holds other things, the index is in use by another process, or Qdrant
            does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="rnx-") as temporary:
        location = location or temporary
        _check(location)
        collection = NodeCollection(location, name=name)
        try:
            library = Library(collection, uploads_of(location, name), max_bytes)
            try:
                yield collection, library
            finally:
                library.close()
        finally:
            collection.close()


def uploads_of(location: str, name: str) -> Path:
    """Where uploaded files are kept: inside the index; of a server's, with the user's data."""
    if location.startswith(("http://", "https://")):
        digest = hashlib.sha256(f"{location}\n{name}".encode()).hexdigest()[:16]
        return user_data_path("llama-index-rnx") / UPLOADS / digest
    return Path(location).expanduser() / UPLOADS / quote(name, safe="")


def run_page(
    collection: NodeCollection,
    library: Library,
    begin: Callable[[], RNXChatEngine],
    port: int,
    told: Callable[[str], None],
) -> None:
    """Serves until it is stopped; `told` is given the address once the page can be opened.

    Raises:
        RNXError: the port is taken.
    """
    import uvicorn

    from llama_index_rnx.server import GuardedProtocol, warn_of_open_server
    from llama_index_rnx.system import run_until_stopped
    from llama_index_rnx.ui.app import create_page

    with warn_of_open_server(LOOPBACK, port) as door:
        told(f"http://{LOOPBACK}:{door.getsockname()[1]}")
        config = uvicorn.Config(
            create_page(collection, library, begin),
            log_level="warning",
            ws="none",
            http=GuardedProtocol,
            server_header=False,
        )
        run_until_stopped(config, door)


def _check(location: str) -> None:
    folder = Path(location).expanduser()
    if location.startswith(("http://", "https://")) or holds_index(folder) or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise RNXError(
            f"{location} holds other things than an index; give an index, or a folder that is not there yet."
        )
