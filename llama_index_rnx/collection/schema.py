"""How a collection is laid out in Qdrant: vectors, payload indexes, creation settings. It sends one
request only, which makes a payload index.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models

from llama_index_rnx.candidates import SOURCE
from llama_index_rnx.collection.json_paths import ROOT
from llama_index_rnx.collection.points import IMAGE, SPARSE, TEXT, Stamp
from llama_index_rnx.collection.settings import Storage

# What lies in the folder of an index: the files of Qdrant Edge, or those of qdrant-client's local
# mode, which earlier versions used.
EDGE = "edge"
META = "meta.json"

LAYOUT = 1  # of the payload; an index of another layout is refused

# The payload fields that this package itself filters by, and their kind.
PAYLOAD_INDEXES = dict.fromkeys(("file", "file_sha", "kind", f"{ROOT}.{SOURCE}"), "keyword")


def create_field_index(
    client: QdrantClient, name: str, field: str, kind: models.PayloadSchemaType
) -> None:
    """Create a payload index on a server."""
    client.create_payload_index(name, field_name=field, field_schema=kind)


def creation_settings(storage: Storage, dimensions: int, fingerprint: str) -> dict[str, Any]:
    """Return the arguments of `create_collection`.

    Args:
        dimensions: how many numbers a dense vector has.
        fingerprint: of the embedding; it is kept in the metadata of the collection.
    """
    dense = models.VectorParams(
        size=dimensions, distance=models.Distance.COSINE, on_disk=storage.on_disk
    )
    sparse_index = models.SparseIndexParams(on_disk=True) if storage.on_disk else None
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF, index=sparse_index)
    return {
        "vectors_config": {TEXT: dense, IMAGE: dense},
        "sparse_vectors_config": {SPARSE: sparse},
        "metadata": {"rnx": {"layout": LAYOUT, "embedding": fingerprint}},
        "shard_number": storage.shards,
        "replication_factor": storage.replication_factor,
        "write_consistency_factor": storage.write_consistency_factor,
        "on_disk_payload": storage.payload_on_disk,
        "quantization_config": _int8() if storage.quantization else None,
    }


def creation_options(config: models.CollectionConfig) -> dict[str, Any]:
    """Return the settings of an existing collection, named as in `Storage`."""
    params = config.params
    vectors = params.vectors if isinstance(params.vectors, dict) else {}
    is_quantized = isinstance(config.quantization_config, models.ScalarQuantization)
    return {
        "shards": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk": bool(vectors and vectors[TEXT].on_disk),
        "payload_on_disk": params.on_disk_payload,
        "quantization": "int8" if is_quantized else None,
    }


def stamp_filter(stamp: Stamp) -> models.Filter:
    """Return a filter for the nodes that this version of the reader read from this content."""
    fields = {"file_sha": stamp.sha256} | ({"file_reader": stamp.reader} if stamp.reader else {})
    return models.Filter(
        must=[
            models.FieldCondition(key=key, match=models.MatchValue(value=value))
            for key, value in fields.items()
        ]
    )


def holds_index(folder: Path) -> bool:
    """Return whether a folder holds an index, of this version or an earlier one, without making
    one.
    """
    folder = folder.expanduser()
    return (folder / EDGE).is_dir() or (folder / META).is_file()


def _int8() -> models.ScalarQuantization:
    scalar = models.ScalarQuantizationConfig(
        type=models.ScalarType.INT8, quantile=0.99, always_ram=True
    )
    return models.ScalarQuantization(scalar=scalar)
