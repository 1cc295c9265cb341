"""Files on disk become nodes in a collection. It knows no models and no Qdrant."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "IndexReport",
    "MemoryWorkerPool",
    "Shard",
    "SourceFile",
    "Survey",
    "device_of",
    "discover",
    "file_of",
    "index_file",
    "index_paths",
    "index_sharded",
    "is_complete",
    "look_back",
    "nodes_of",
    "resolve_shard",
    "send_report",
    "survey",
]

if TYPE_CHECKING:
    from llama_index_rnx.ingestion.discovery import SourceFile, Survey, discover, survey
    from llama_index_rnx.ingestion.indexing import (
        IndexReport,
        index_file,
        index_paths,
        is_complete,
        look_back,
    )
    from llama_index_rnx.ingestion.readers import file_of, nodes_of
    from llama_index_rnx.ingestion.sharding import Shard, device_of, resolve_shard
    from llama_index_rnx.ingestion.workers import MemoryWorkerPool, index_sharded, send_report
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "discovery": [
                "SourceFile",
                "Survey",
                "discover",
                "survey",
            ],
            "indexing": [
                "IndexReport",
                "index_file",
                "index_paths",
                "is_complete",
                "look_back",
            ],
            "readers": [
                "file_of",
                "nodes_of",
            ],
            "sharding": [
                "Shard",
                "device_of",
                "resolve_shard",
            ],
            "workers": [
                "MemoryWorkerPool",
                "index_sharded",
                "send_report",
            ],
        },
    )
