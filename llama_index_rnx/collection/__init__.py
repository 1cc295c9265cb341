"""Nodes in Qdrant: stored, searched, filtered. The only room that knows Qdrant."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "BATCH",
    "FIELD_KINDS",
    "SOURCE",
    "TEXT",
    "NodeCollection",
    "Skipped",
    "Stamp",
    "Storage",
    "holds_index",
]

if TYPE_CHECKING:
    from llama_index_rnx.candidates.candidate import SOURCE
    from llama_index_rnx.collection.collection import (
        BATCH,
        TEXT,
        NodeCollection,
        Skipped,
        Stamp,
        holds_index,
    )
    from llama_index_rnx.collection.settings import FIELD_KINDS, Storage
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "candidate": [
                "SOURCE",
            ],
            "collection": [
                "BATCH",
                "NodeCollection",
                "Skipped",
                "Stamp",
                "TEXT",
                "holds_index",
            ],
            "settings": [
                "FIELD_KINDS",
                "Storage",
            ],
        },
    )
