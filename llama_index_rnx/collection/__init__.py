"""Nodes in Qdrant: stored, searched, filtered. The only room that knows Qdrant."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "BATCH",
    "FIELD_KINDS",
    "TEXT",
    "NodeCollection",
    "PreparedNode",
    "Skipped",
    "Stamp",
    "Storage",
    "WriteReport",
    "creation_settings",
    "holds_index",
]

if TYPE_CHECKING:
    from llama_index_rnx.collection.collection import BATCH, NodeCollection
    from llama_index_rnx.collection.points import TEXT, PreparedNode, Stamp
    from llama_index_rnx.collection.reports import Skipped, WriteReport
    from llama_index_rnx.collection.schema import creation_settings, holds_index
    from llama_index_rnx.collection.settings import FIELD_KINDS, Storage
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "collection": [
                "BATCH",
                "NodeCollection",
            ],
            "points": [
                "PreparedNode",
                "Stamp",
                "TEXT",
            ],
            "reports": [
                "Skipped",
                "WriteReport",
            ],
            "schema": [
                "creation_settings",
                "holds_index",
            ],
            "settings": [
                "FIELD_KINDS",
                "Storage",
            ],
        },
    )
