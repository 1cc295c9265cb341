"""Calls to the operating system: whole and private files, an end in time. It knows no nodes and no
models.
"""

from llama_index_rnx.system.atomic import atomic_write
from llama_index_rnx.system.folders import (
    TemporaryFolder,
    copy_sparse,
    hole_bytes,
    size_on_disk,
    sync_folder,
)
from llama_index_rnx.system.imports import lasting_imports
from llama_index_rnx.system.lock import FolderInUseError, FolderLock
from llama_index_rnx.system.permissions import (
    keep_private,
    make_file,
    make_folder,
    private_opener,
    write_text,
)
from llama_index_rnx.system.shutdown import (
    INTERRUPT_SECONDS,
    INTERRUPTED,
    end_within,
    run_until_stopped,
)

__all__ = [
    "INTERRUPTED",
    "INTERRUPT_SECONDS",
    "FolderInUseError",
    "FolderLock",
    "TemporaryFolder",
    "atomic_write",
    "copy_sparse",
    "end_within",
    "hole_bytes",
    "keep_private",
    "lasting_imports",
    "make_file",
    "make_folder",
    "private_opener",
    "run_until_stopped",
    "size_on_disk",
    "sync_folder",
    "write_text",
]
