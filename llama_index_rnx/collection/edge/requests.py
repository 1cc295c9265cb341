"""Requests in qdrant-client's words become those of Qdrant Edge. It opens nothing.

Both are bindings of one engine, so each class has its counterpart; what a collection does not ask
for has none here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

# Which fields of the payload are wanted: all, none, or these.
Payload = bool | list[str] | models.PayloadSelectorInclude

# How many candidates a search of a graph keeps. Of 25,000 vectors of rnx-mini and around them it
# finds .9935 of the hundred nearest with 384; after an eighth was deleted .9799, and with 768 .989.
# That costs a millisecond (`benchmarks.scale recall`).
HNSW_EF = 768

_MEMORY = {True: edge.Memory.Cold, False: edge.Memory.Cached, None: None}


_SCHEMAS = (
    (models.PayloadSchemaType.KEYWORD, edge.PayloadSchemaType.Keyword),
    (models.PayloadSchemaType.INTEGER, edge.PayloadSchemaType.Integer),
    (models.PayloadSchemaType.FLOAT, edge.PayloadSchemaType.Float),
    (models.PayloadSchemaType.BOOL, edge.PayloadSchemaType.Bool),
    (models.PayloadSchemaType.DATETIME, edge.PayloadSchemaType.Datetime),
)


def edge_config(config: models.CollectionConfig) -> edge.EdgeConfig:
    """Return the configuration of a shard that holds a collection of these settings."""
    params = config.params
    vectors = params.vectors if isinstance(params.vectors, Mapping) else {}
    return edge.EdgeConfig(
        vectors={name: _dense_params(vector) for name, vector in vectors.items()},
        sparse_vectors={
            name: _sparse_params(sparse) for name, sparse in (params.sparse_vectors or {}).items()
        },
        payload_memory=_MEMORY[params.on_disk_payload],
        hnsw_config=edge.HnswIndexConfig(
            m=config.hnsw_config.m,
            ef_construct=config.hnsw_config.ef_construct,
            full_scan_threshold=config.hnsw_config.full_scan_threshold,
        ),
        quantization_config=_quantization(config.quantization_config),
        optimizers=edge.EdgeOptimizersConfig(
            deleted_threshold=config.optimizer_config.deleted_threshold,
            indexing_threshold=config.optimizer_config.indexing_threshold,
        ),
    )


def edge_point(point: models.PointStruct) -> edge.Point:
    """Return a point with named vectors, dense or sparse."""
    assert isinstance(point.vector, Mapping)
    vectors = {name: _vector(vector) for name, vector in point.vector.items()}
    return edge.Point(id=point.id, vector=vectors, payload=point.payload)


def edge_filter(condition: models.Filter | None) -> edge.Filter | None:
    """Return a filter, nested ones too."""
    if condition is None:
        return None
    return edge.Filter(
        must=_conditions(condition.must),
        should=_conditions(condition.should),
        must_not=_conditions(condition.must_not),
    )


def edge_search(prefetch: models.Prefetch) -> edge.QueryRequest:
    """Return the search for the points that are nearest to a vector."""
    assert prefetch.limit is not None
    return edge.QueryRequest(
        limit=prefetch.limit,
        query=edge.Query.Nearest(_vector(prefetch.query), using=prefetch.using),
        params=_search_params(prefetch.params),
        filter=edge_filter(prefetch.filter),
    )


def edge_schema(kind: models.PayloadSchemaType) -> edge.PayloadSchemaType:
    """Return the kind of a payload index."""
    return dict(_SCHEMAS)[kind]


def client_schema(kind: edge.PayloadSchemaType) -> models.PayloadSchemaType:
    """Return the kind of a payload index in qdrant-client's words."""
    return next(name for name, schema in _SCHEMAS if schema == kind)


def edge_fields(with_payload: Payload) -> bool | list[str]:
    """Return which fields of the payload are wanted."""
    if isinstance(with_payload, models.PayloadSelectorInclude):
        return list(with_payload.include)
    return with_payload


def as_list(value: Any) -> list[Any]:
    """Return one value, several or none as a list, as the server's API allows all three."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def client_vectors(vectors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vectors of a stored point in qdrant-client's words."""
    return {
        name: models.SparseVector(indices=vector.indices, values=vector.values)
        if isinstance(vector, edge.SparseVector)
        else vector
        for name, vector in vectors.items()
    }


def _dense_params(params: models.VectorParams) -> edge.EdgeVectorParams:
    # By default the engine reads all vectors when it opens: three times as slow, and twice the
    # memory of what a few searches touch.
    assert params.distance == models.Distance.COSINE
    return edge.EdgeVectorParams(
        size=params.size,
        distance=edge.Distance.Cosine,
        memory=_MEMORY[params.on_disk] or edge.Memory.Cold,
    )


def _sparse_params(params: models.SparseVectorParams) -> edge.EdgeSparseVectorParams:
    on_disk = params.index.on_disk if params.index else None
    return edge.EdgeSparseVectorParams(
        modifier=edge.Modifier.Idf if params.modifier == models.Modifier.IDF else None,
        memory=_MEMORY[on_disk],
    )


def _quantization(config: Any) -> edge.ScalarQuantizationConfig | None:
    if not isinstance(config, models.ScalarQuantization):
        return None
    return edge.ScalarQuantizationConfig(
        type=edge.ScalarType.Int8, quantile=config.scalar.quantile, memory=edge.Memory.Pinned
    )


def _search_params(params: models.SearchParams | None) -> edge.SearchParams:
    quantization = params.quantization if params else None
    return edge.SearchParams(
        hnsw_ef=HNSW_EF,
        quantization=edge.QuantizationSearchParams(
            rescore=quantization.rescore, oversampling=quantization.oversampling
        )
        if quantization
        else None,
    )


def _vector(vector: Any) -> Any:
    if isinstance(vector, models.SparseVector):
        return edge.SparseVector(indices=vector.indices, values=vector.values)
    return vector


def _conditions(conditions: Any) -> list[Any] | None:
    return [_condition(each) for each in as_list(conditions)] or None


def _condition(condition: Any) -> Any:
    if isinstance(condition, models.Filter):
        return edge_filter(condition)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition(set(condition.has_id))
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if not isinstance(condition, models.FieldCondition):
        raise TypeError(f"{type(condition).__name__} has no counterpart here")
    return edge.FieldCondition(
        key=condition.key, match=_match(condition.match), range=_range(condition.range)
    )


def _match(match: Any) -> Any:
    if match is None:
        return None
    if isinstance(match, models.MatchValue):
        # The binding takes Python's True for 1, but NumPy's for true.
        value: Any = np.bool_(match.value) if isinstance(match.value, bool) else match.value
        return edge.MatchValue(value)
    if isinstance(match, models.MatchAny):
        return edge.MatchAny(match.any)
    raise TypeError(f"{type(match).__name__} has no counterpart here")


def _range(limits: models.Range | models.DatetimeRange | None) -> Any:
    if limits is None:
        return None
    bounds = limits.model_dump(exclude_none=True)
    if isinstance(limits, models.DatetimeRange):
        return edge.RangeDateTime(**{name: _iso(moment) for name, moment in bounds.items()})
    return edge.RangeFloat(**bounds)


def _iso(moment: datetime) -> str:
    return moment.isoformat()
