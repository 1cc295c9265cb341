"""Checks of what a caller hands to a collection, each refused in one line. It knows no Qdrant
server and no models.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from platformdirs import user_cache_path
from qdrant_client import QdrantClient

from llama_index_rnx.candidates import ImageSource, Query, dense_texts_of, dense_vector_of
from llama_index_rnx.collection.connection import MEMORY, Location
from llama_index_rnx.collection.servers import urls_of
from llama_index_rnx.collection.settings import Storage
from llama_index_rnx.errors import SettingsError, shown
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.text import clean_text

MAX_NAME_BYTES = 255


def checked_name(name: Any) -> str:
    """Return the name of a collection. An embedded one is a folder of its name, which must not lead
    out of the index.

    Raises:
        SettingsError: it is no string, a path, empty, not printable, or longer than 255 bytes.
    """
    if not isinstance(name, str):
        raise SettingsError(f"name= got a {kind_of(name)}; the name of a collection is a string.")

    is_path = name in (".", "..") or bool(set(name) & set("/\\"))
    is_too_long = len(name.encode(errors="replace")) > MAX_NAME_BYTES
    if not name.strip() or is_path or not name.isprintable() or is_too_long:
        raise SettingsError(
            f"{shown(name)} is no name of a collection; give one to 255 characters, "
            "without slashes."
        )
    return name


def check_options(embedding: Any, ranker: Any, memory_path: Any, storage: Any) -> None:
    """Raise SettingsError unless each argument of `NodeCollection` is of a kind that it takes."""
    if embedding is not None and not isinstance(embedding, BaseEmbedding):
        raise SettingsError(
            f"embedding= got a {kind_of(embedding)}; a LlamaIndex MultiModalEmbedding is needed."
        )

    is_setting = ranker is None or (isinstance(ranker, str) and ranker == "auto")
    if not is_setting and (isinstance(ranker, type) or not isinstance(ranker, Ranker)):
        raise SettingsError(
            f"ranker= got a {kind_of(ranker)}; "
            "a Ranker (load_ranker(...)), 'auto' or None is needed."
        )
    if memory_path is not None and not isinstance(memory_path, str | Path):
        raise SettingsError(
            f"memory_path= got a {kind_of(memory_path)}; a folder or an address is needed."
        )
    if storage is not None and not isinstance(storage, Storage):
        raise SettingsError(f"storage= got a {kind_of(storage)}; Storage(...) is needed.")


def checked_query(query: Any) -> Query:
    """Return the query with its text as an index can hold it.

    Raises:
        SettingsError: it is no `Query`, or has neither text, image nor vector.
    """
    if not isinstance(query, Query):
        raise SettingsError(
            f"query= got a {kind_of(query)}; Query(text=..., image=...) is needed; "
            "RNXRetriever takes strings."
        )

    has_image_source = query.image is None or isinstance(query.image, ImageSource)
    if not isinstance(query.text, str) or not has_image_source:
        raise SettingsError(
            "the query's text must be a string, "
            "its image one of file_source(path) or bytes_source(data)."
        )

    cleaned = replace(
        query,
        text=clean_text(query.text),
        dense_texts=dense_texts_of(query.dense_texts),
        dense_vector=dense_vector_of(query.dense_vector),
    )
    if cleaned.is_empty:
        raise SettingsError("the query is empty; give it a text, an image, or both.")
    return cleaned


def default_memory_path(location: Location) -> Path | None:
    """Return where memories are kept by default: in the folder of the index, for a server in the
    user's cache, for an index in RAM nowhere.
    """
    if isinstance(location, QdrantClient) or str(location) == MEMORY:
        return None
    if urls_of(location):
        return user_cache_path("llama-index-rnx") / "memories"
    return Path(str(location)).expanduser().resolve() / "memories"


def kind_of(value: Any) -> str:
    """Return the type of a value as a message names it."""
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__
