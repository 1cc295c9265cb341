"""Calls to the operating system: whole and private files, an end in time. It knows no nodes and no
models.
"""

from llama_index_rnx.system.atomic import atomic_write
from llama_index_rnx.system.permissions import (
    made_private,
    make_file,
    make_folder,
    opener,
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
    "atomic_write",
    "end_within",
    "made_private",
    "make_file",
    "make_folder",
    "opener",
    "run_until_stopped",
    "write_text",
]
