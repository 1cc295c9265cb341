"""Files on disk become nodes in a collection. It knows no models and no Qdrant."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "IndexReport",
    "Rememberers",
    "Share",
    "SourceFile",
    "device_of",
    "discover",
    "file_of",
    "index_file",
    "index_in_shares",
    "index_paths",
    "is_complete",
    "look_back",
    "nodes_of",
    "share_of",
    "survey",
    "tell_report",
]

if TYPE_CHECKING:
    from llama_index_rnx.ingestion.indexing import (
        IndexReport,
        SourceFile,
        discover,
        file_of,
        index_file,
        index_paths,
        is_complete,
        look_back,
        nodes_of,
        survey,
    )
    from llama_index_rnx.ingestion.sharding import Share, device_of, share_of
    from llama_index_rnx.ingestion.workers import Rememberers, index_in_shares, tell_report
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "indexing": [
                "IndexReport",
                "SourceFile",
                "discover",
                "file_of",
                "index_file",
                "index_paths",
                "is_complete",
                "look_back",
                "nodes_of",
                "survey",
            ],
            "sharding": [
                "Share",
                "device_of",
                "share_of",
            ],
            "workers": [
                "Rememberers",
                "index_in_shares",
                "tell_report",
            ],
        },
    )
