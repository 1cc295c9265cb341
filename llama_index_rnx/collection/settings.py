"""How a Qdrant server keeps a collection, and how it is asked: one frozen set of settings. It knows
no Qdrant client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llama_index_rnx.errors import RNXError, shown

FIELD_KINDS = ("keyword", "integer", "float", "bool", "datetime")
FIRST_PAUSE, LONGEST_PAUSE = (
    0.2,
    5.0,
)  # seconds between two attempts: doubled from the first to the longest


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Settings of a collection on a Qdrant server. `None` leaves a thing to the server, or takes it
    as the collection has it.

    Those up to `quantization` are said once, when the collection is made; the others are this
    client's, and may differ from one to the next.

    Args:
        shards: parts that the points are split into; the nodes of a cluster share them out.
        replication_factor: on how many nodes each shard stands; 2 outlives the loss of one node.
        write_consistency_factor: how many of them must have written before a write counts.
        on_disk: full vectors and the BM25 index are read from disk (memory-mapped) instead of RAM.
        payload_on_disk: nodes (texts, inline images) are read from disk.
        quantization: `"int8"` keeps each dense vector a second time, a byte a dimension, in RAM; a
            search takes `oversampling` times as many by these and orders them by the full vectors.
        metadata_indexes: metadata fields that filters use, and what they hold: `{"year":
            "integer"}`. Filters work without too, but slowly in a large collection. An index of
            integers knows whole numbers only: `"float"` for a field that also holds 2024.0 or 0.5.
        oversampling: see quantization.
        grpc: gRPC instead of REST, on the port after the URL's (6333 -> 6334).
        timeout: seconds for one request.
        retries: how often a request is asked again, of each server in turn, after pauses of 0.2 s,
            0.4 s, ... 5 s.
        batches_in_flight: batches that are being written while the next is embedded.

    Example:
        >>> Storage(shards=6, replication_factor=2, quantization="int8").made_with
        {'shards': 6, 'replication_factor': 2, 'quantization': 'int8'}
    """

    shards: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    on_disk: bool | None = None
    payload_on_disk: bool | None = None
    quantization: Literal["int8"] | None = None
    metadata_indexes: Mapping[str, str] = field(default_factory=dict)
    oversampling: float = 2.0
    grpc: bool = False
    timeout: int = 60
    retries: int = 4
    batches_in_flight: int = 2

    def __post_init__(self) -> None:
        counts = (
            "shards",
            "replication_factor",
            "write_consistency_factor",
            "timeout",
            "batches_in_flight",
        )
        for name, least in [*((name, 1) for name in counts), ("retries", 0), ("oversampling", 1.0)]:
            value = getattr(self, name)
            whole = isinstance(least, int)
            if value is None and name in _OF_THE_COLLECTION:
                continue
            if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
                raise RNXError(
                    f"{name}={shown(value)} was given; a {'whole ' if whole else ''}number is needed."
                )
            if not value >= least:  # NaN, too
                raise RNXError(f"{name}={shown(value)} was given; {least} or more is allowed.")
        if (self.write_consistency_factor or 1) > (
            self.replication_factor or self.write_consistency_factor or 1
        ):
            raise RNXError(
                f"write_consistency_factor={self.write_consistency_factor} was given with "
                f"replication_factor={self.replication_factor}; no more nodes can have written than have a copy."
            )
        if self.quantization is not None and not (
            isinstance(self.quantization, str) and self.quantization == "int8"
        ):
            raise RNXError(
                f"quantization={shown(self.quantization)} was given; 'int8' or None is allowed."
            )
        if not isinstance(self.metadata_indexes, Mapping):
            raise RNXError(
                f"metadata_indexes={shown(self.metadata_indexes)} was given; {{'year': 'integer'}} is one."
            )
        for name, kind in self.metadata_indexes.items():
            if not isinstance(name, str):
                raise RNXError(
                    f"metadata_indexes: the key {shown(name)} was given; the keys of metadata are strings."
                )
            if not isinstance(kind, str) or kind not in FIELD_KINDS:
                raise RNXError(
                    f"metadata_indexes: {shown(name)} got {shown(kind)}; allowed are {', '.join(FIELD_KINDS)}."
                )

    @property
    def made_with(self) -> dict[str, Any]:
        """What was asked of a collection that is to be made."""
        return {
            name: value for name in _OF_THE_COLLECTION if (value := getattr(self, name)) is not None
        }

    @property
    def given(self) -> dict[str, Any]:
        """All that differs from the defaults."""
        default = Storage()
        named = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in named if value != getattr(default, name)}

    @property
    def pauses(self) -> list[float]:
        """Seconds before each further attempt."""
        return [min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) for attempt in range(self.retries)]

    def refuse_unless_made(self, found: Mapping[str, Any], name: str, where: str) -> None:
        """Raises RNXError when the collection that is there was made with other settings than were
        asked for.
        """
        other = {key: value for key, value in self.made_with.items() if found.get(key) != value}
        if other:
            raise RNXError(
                f"collection {name!r} at {where} was made with {format_settings({key: found.get(key) for key in other})}, asked for is "
                f"{format_settings(other)}; leave these settings out to take it as it is, or index again under another name."
            )


_OF_THE_COLLECTION = (
    "shards",
    "replication_factor",
    "write_consistency_factor",
    "on_disk",
    "payload_on_disk",
    "quantization",
)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings as a user writes them."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
