"""Qdrant's own engine in this process (Qdrant Edge), behind the methods of a `QdrantClient`. No
other room knows the package `qdrant_edge`.
"""

from llama_index_rnx.collection.edge.client import EdgeClient
from llama_index_rnx.collection.edge.engine import EdgeError

__all__ = ["EdgeClient", "EdgeError"]
