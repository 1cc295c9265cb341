"""Qdrant's own engine in this process (Qdrant Edge), behind the methods of a `QdrantClient`. No
other room knows the package `qdrant_edge`.
"""

from llama_index_rnx.collection.edge.client import EdgeClient, EdgeError

__all__ = ["EdgeClient", "EdgeError"]
