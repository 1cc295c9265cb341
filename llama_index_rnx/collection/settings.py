"""How a Qdrant server keeps a collection, and how it is called: one frozen set of settings.

It knows no Qdrant client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llama_index_rnx.errors import SettingsError, StorageError, shown

FIELD_KINDS = ("keyword", "integer", "float", "bool", "datetime")
# Seconds between two attempts: doubled from the first pause to the longest.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Settings of a collection on a Qdrant server. `None` leaves a setting to the server, or takes
    it as the collection has it.

    The settings up to `quantization` are fixed when the collection is made. The others are this
    client's, and may differ from one client to the next.

    Args:
        shards: parts that the points are split into; the nodes of a cluster share them out.
        replication_factor: how many nodes hold each shard; 2 outlives the loss of one node.
        write_consistency_factor: how many of them must have written before a write counts.
        on_disk: read full vectors and the BM25 index from disk (memory-mapped) instead of RAM.
        payload_on_disk: read nodes (texts, inline images) from disk.
        quantization: `"int8"` keeps each dense vector a second time, a byte a dimension, in RAM; a
            search takes `oversampling` times as many by these and orders them by the full vectors.
        metadata_indexes: metadata fields that filters use, and what they hold: `{"year":
            "integer"}`. Filters work without them, but slowly in a large collection. An index of
            integers knows whole numbers only: use `"float"` for a field that also holds 2024.0 or
            0.5.
        oversampling: see quantization; 1 or more.
        grpc: gRPC instead of REST, on the port after the URL's (6333 -> 6334).
        timeout: seconds for one request.
        retries: how often a request is retried, on each server in turn, after pauses of 0.2 s,
            0.4 s, ... 5 s.
        batches_in_flight: batches that are being written while the next is embedded.

    Raises:
        SettingsError: a value is of another kind, too small, or does not fit another one.

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
        self._check_numbers()
        self._check_copies()
        self._check_quantization()
        self._check_metadata_indexes()

    def _check_numbers(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in _OF_THE_COLLECTION:
                continue

            is_whole = isinstance(least, int)
            is_number = isinstance(value, int if is_whole else int | float)
            if not is_number or isinstance(value, bool):
                kind = "whole number" if is_whole else "number"
                raise SettingsError(f"{name}={shown(value)} was given; a {kind} is needed.")
            # NaN is not at least 1 either.
            if not value >= least:
                raise SettingsError(f"{name}={shown(value)} was given; {least} or more is allowed.")

    def _check_copies(self) -> None:
        copies = self.replication_factor
        written = self.write_consistency_factor
        if written is None or written <= (copies or written):
            return
        raise SettingsError(
            f"write_consistency_factor={written} was given with replication_factor={copies}; "
            "no more nodes can have written than have a copy."
        )

    def _check_quantization(self) -> None:
        value = self.quantization
        if value is None or (isinstance(value, str) and value == "int8"):
            return
        raise SettingsError(f"quantization={shown(value)} was given; 'int8' or None is allowed.")

    def _check_metadata_indexes(self) -> None:
        if not isinstance(self.metadata_indexes, Mapping):
            raise SettingsError(
                f"metadata_indexes={shown(self.metadata_indexes)} was given; "
                "{'year': 'integer'} is one."
            )
        for name, kind in self.metadata_indexes.items():
            if not isinstance(name, str):
                raise SettingsError(
                    f"metadata_indexes: the key {shown(name)} was given; "
                    "the keys of metadata are strings."
                )
            if not isinstance(kind, str) or kind not in FIELD_KINDS:
                raise SettingsError(
                    f"metadata_indexes: {shown(name)} got {shown(kind)}; "
                    f"allowed are {', '.join(FIELD_KINDS)}."
                )

    @property
    def made_with(self) -> dict[str, Any]:
        """The settings that a collection is made with: those of the collection that are given."""
        values = {name: getattr(self, name) for name in _OF_THE_COLLECTION}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def non_default(self) -> dict[str, Any]:
        """All settings that differ from the defaults."""
        default = Storage()
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(default, name)}

    @property
    def of_servers(self) -> dict[str, Any]:
        """The settings that only servers have, as far as they differ from the defaults."""
        return {name: value for name, value in self.non_default.items() if name in _OF_SERVERS}

    @property
    def pauses(self) -> list[float]:
        """Seconds of pause before each retry."""
        return [min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) for attempt in range(self.retries)]

    def check_matches(self, existing: Mapping[str, Any], name: str, where: str) -> None:
        """Raise StorageError when a collection was made with other settings than these.

        Args:
            existing: the settings of the collection.
        """
        settings = self.made_with.items()
        differing = {key: value for key, value in settings if existing.get(key) != value}
        if not differing:
            return
        actual = format_settings({key: existing.get(key) for key in differing})
        raise StorageError(
            f"collection {name!r} at {where} was made with {actual}, asked for is "
            f"{format_settings(differing)}; leave these settings out to take it as it is, "
            "or index again under another name."
        )


_OF_THE_COLLECTION = (
    "shards",
    "replication_factor",
    "write_consistency_factor",
    "on_disk",
    "payload_on_disk",
    "quantization",
)

# The settings that an engine in this process does not have.
_OF_SERVERS = (
    "shards",
    "replication_factor",
    "write_consistency_factor",
    "grpc",
    "timeout",
    "retries",
    "batches_in_flight",
)

# The smallest value of each number: an int where the number must be whole.
_LEAST: dict[str, int | float] = {
    "shards": 1,
    "replication_factor": 1,
    "write_consistency_factor": 1,
    "timeout": 1,
    "batches_in_flight": 1,
    "retries": 0,
    "oversampling": 1.0,
}


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as a user writes them."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
