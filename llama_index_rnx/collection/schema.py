"""How a collection is laid out in Qdrant, and what it was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.embeddings import MultiModalEmbedding
from qdrant_client import QdrantClient, models

from llama_index_rnx.candidates import SOURCE
from llama_index_rnx.collection.json_paths import ROOT
from llama_index_rnx.collection.points import IMAGE, SPARSE, TEXT
from llama_index_rnx.collection.settings import Storage

LAYOUT = 1  # of the payload; an index of another layout is refused


PAYLOAD_INDEXES = dict.fromkeys(
    ("file", "file_sha", "kind", f"{ROOT}.{SOURCE}"), "keyword"
)  # filtered by in here


def create_field_index(
    client: QdrantClient, name: str, field: str, kind: models.PayloadSchemaType
) -> None:
    client.create_payload_index(name, field_name=field, field_schema=kind)


def creation_settings(storage: Storage, dimensions: int, fingerprint: str) -> dict[str, Any]:
    """The arguments of `create_collection`."""
    dense = models.VectorParams(
        size=dimensions, distance=models.Distance.COSINE, on_disk=storage.on_disk
    )
    index = models.SparseIndexParams(on_disk=True) if storage.on_disk else None
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF, index=index)
    scalar = models.ScalarQuantizationConfig(
        type=models.ScalarType.INT8, quantile=0.99, always_ram=True
    )
    return {
        "vectors_config": {TEXT: dense, IMAGE: dense},
        "sparse_vectors_config": {SPARSE: sparse},
        "metadata": {"rnx": {"layout": LAYOUT, "embedding": fingerprint}},
        "shard_number": storage.shards,
        "replication_factor": storage.replication_factor,
        "write_consistency_factor": storage.write_consistency_factor,
        "on_disk_payload": storage.payload_on_disk,
        "quantization_config": models.ScalarQuantization(scalar=scalar)
        if storage.quantization
        else None,
    }


def creation_options(config: models.CollectionConfig) -> dict[str, Any]:
    """The settings of a collection that is there, in the words of `Storage`."""
    params = config.params
    vectors = params.vectors if isinstance(params.vectors, dict) else {}
    return {
        "shards": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk": bool(vectors and vectors[TEXT].on_disk),
        "payload_on_disk": params.on_disk_payload,
        "quantization": "int8"
        if isinstance(config.quantization_config, models.ScalarQuantization)
        else None,
    }


def holds_index(folder: Path) -> bool:
    """Whether embedded Qdrant was here before; to open a folder would make an index of it."""
    return (folder.expanduser() / "meta.json").is_file()


def embedding_dimensions(embedding: MultiModalEmbedding) -> int:
    return len(embedding.get_query_embedding("how long is a vector?"))
