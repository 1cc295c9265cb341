"""LlamaIndex's queries as queries of ours. It opens no images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llama_index.core.schema import QueryBundle

from llama_index_rnx.candidates.candidate import Query
from llama_index_rnx.candidates.images import ImageSource, source_at
from llama_index_rnx.errors import SettingsError, short, shown
from llama_index_rnx.text import clean_text


def query_of(bundle: QueryBundle | str | None, dense: bool = False) -> Query:
    """Return a LlamaIndex query as ours.

    Args:
        dense: take over `custom_embedding_strs` and `embedding`, too, as a retriever does; one of
            them is enough for a query.

    Raises:
        SettingsError: it has neither text nor image, or its embedding is no list of numbers.
    """
    if bundle is None:
        raise SettingsError(
            "no query was given; pass query_bundle=QueryBundle(...) or query_str='...'."
        )
    if isinstance(bundle, str):
        bundle = QueryBundle(bundle)
    if not isinstance(bundle, QueryBundle) or not isinstance(bundle.query_str, str | None):
        raise SettingsError(
            f"the query is {shown(bundle)}; a string or a QueryBundle(query_str) is needed."
        )

    query = Query(
        text=clean_text(bundle.query_str or ""),
        image=_query_image(bundle.image_path),
        dense_texts=dense_texts_of(bundle.custom_embedding_strs) if dense else (),
        dense_vector=dense_vector_of(bundle.embedding) if dense else None,
    )
    if query.is_empty:
        raise SettingsError("the query is empty; give it a text, an image, or both.")
    return query


def dense_texts_of(texts: Any) -> tuple[str, ...]:
    """Return those of `custom_embedding_strs` in which something can be read.

    Raises:
        SettingsError: one of them is no string, or they are no list.
    """
    if texts is None:
        return ()
    if not isinstance(texts, Iterable):
        raise SettingsError(
            f"custom_embedding_strs={shown(texts)} was given; a list of texts is needed."
        )

    strings = [texts] if isinstance(texts, str) else list(texts)
    for text in strings:
        if not isinstance(text, str):
            raise SettingsError(f"custom_embedding_strs holds {shown(text)}; texts are allowed.")

    return tuple(filter(None, map(clean_text, strings)))


def dense_vector_of(embedding: Any) -> tuple[float, ...] | None:
    """Return the numbers of a query's `embedding`.

    Raises:
        SettingsError: it is no list of numbers, or none that a search can use.
    """
    if embedding is None:
        return None

    try:
        vector = tuple(float(number) for number in embedding)
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"the query's embedding is no list of numbers ({short(str(error))}); leave it out."
        ) from error

    if not all(map(math.isfinite, vector)) or not any(vector):
        raise SettingsError(
            "the query's embedding has a number that is none, or is all zeros; "
            "leave it out, or embed again."
        )
    return vector


def _query_image(location: Any) -> ImageSource | None:
    if location is None or (isinstance(location, str) and not location):
        return None
    if not isinstance(location, str | Path):
        raise SettingsError(
            f"the query's image_path is {shown(location)}; a path or a data: URI is needed."
        )
    return source_at(location, label="the query's image")
