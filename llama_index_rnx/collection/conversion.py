"""Indexes that local mode of earlier versions made become indexes of Qdrant Edge.

The new files are made beside the old ones, and take their place when they are whole and on the
disk: whenever the process ends, the next one finds the old index, or the new one.

1. `edge.new` is filled; what an earlier attempt left there is removed.
2. `meta.json`, by which earlier versions know an index, becomes `meta.json.converted`.
3. `edge.new` becomes `edge`.
4. The old files are removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from qdrant_client import models

from llama_index_rnx.collection.edge import EdgeClient, EdgeError
from llama_index_rnx.collection.local_mode import (
    COLLECTIONS,
    count_points,
    read_configs,
    read_points,
)
from llama_index_rnx.collection.schema import EDGE, META, PAYLOAD_INDEXES
from llama_index_rnx.collection.upload import batched
from llama_index_rnx.console import progress_bar
from llama_index_rnx.errors import StorageError, one_line
from llama_index_rnx.system import sync_folder

_NEW = "edge.new"
_CONVERTED = "meta.json.converted"

# Points that are read and written at a time.
_AT_ONCE = 500


def needs_conversion(folder: Path) -> bool:
    """Return whether local mode made the index of a folder."""
    is_local = (folder / META).is_file() or (folder / _CONVERTED).is_file()
    return is_local and not (folder / EDGE).exists()


def convert(folder: Path) -> None:
    """Convert the index of a folder that this process has locked.

    Raises:
        StorageError: a collection in it is another program's, the disk is full, or the new files
            cannot be written.
        ValueError, TypeError, LookupError, AttributeError, sqlite3.Error: the old ones are damaged.
    """
    meta = folder / META
    new = folder / _NEW
    if not meta.is_file():
        # An earlier attempt ended after step 2.
        (folder / _CONVERTED).replace(meta)

    shutil.rmtree(new, ignore_errors=True)
    configs = read_configs(folder)
    _check_owner(configs, folder)
    try:
        _fill(new, folder, configs)
    except (EdgeError, OSError) as error:
        raise StorageError(
            f"the index in {folder} was made by an earlier version and cannot be converted "
            f"({one_line(error)}); it is left as it was: make room for a second one beside it, "
            "or repair the disk, and run the same again."
        ) from error

    meta.replace(folder / _CONVERTED)
    new.replace(folder / EDGE)
    remove_converted(folder)


def remove_converted(folder: Path) -> None:
    """Remove what local mode left in a folder whose index is converted."""
    if (folder / _CONVERTED).is_file():
        shutil.rmtree(folder / COLLECTIONS, ignore_errors=True)
        (folder / _CONVERTED).unlink()


def _fill(new: Path, folder: Path, configs: Mapping[str, models.CreateCollection]) -> None:
    """Write the collections of a folder into a new one; after an error nothing of it takes room."""
    total = sum(count_points(folder, name) for name in configs)
    client = EdgeClient(new)
    try:
        with progress_bar("converting the index", total, "nodes") as advance:
            for name, config in configs.items():
                _convert_collection(folder, name, config, client, advance)
        client.close()
        sync_folder(new)
    except BaseException:
        with suppress(EdgeError):
            client.close()
        shutil.rmtree(new, ignore_errors=True)
        raise


def _check_owner(configs: Mapping[str, models.CreateCollection], folder: Path) -> None:
    """Refuse a folder with collections of another program, which go on with local mode."""
    others = [name for name, config in configs.items() if "rnx" not in (config.metadata or {})]
    if others:
        raise StorageError(
            f"{folder} holds collection {others[0]!r}, which was not made by this package; "
            "choose another folder, or hand in QdrantClient(path=...) of this one."
        )


def _convert_collection(
    folder: Path,
    name: str,
    config: models.CreateCollection,
    client: EdgeClient,
    advance: Callable[[int], None],
) -> None:
    client.create_collection(
        name,
        vectors_config=config.vectors or {},
        sparse_vectors_config=config.sparse_vectors or {},
        metadata=config.metadata or {},
    )
    for field, kind in PAYLOAD_INDEXES.items():
        client.create_payload_index(name, field, models.PayloadSchemaType(kind))
    for points in batched(read_points(folder, name), _AT_ONCE):
        client.upsert(name, points)
        advance(len(points))
    client.flush(name)
