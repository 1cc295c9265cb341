"""Retrieve, then rerank: hits for one query or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_rnx.errors import ImageError
from llama_index_rnx.ranking import LISTS_AT_ONCE
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.results.hits import Hit, hits_of
from llama_index_rnx.retrieve import RNXRetriever


def search(retriever: RNXRetriever, reranker: RNXRerank | None, query: Any, n: int) -> list[Hit]:
    """Retrieve, rerank (unless `reranker` is None), and keep the best `n`. `query`: a text or a
    `QueryBundle`.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(id_="a", text="Bees make honey."), TextNode(id_="b", text="Rust is iron oxide.")])
        2
        >>> (hit,) = search(RNXRetriever(collection), RNXRerank(), "What is rust?", n=1)
        >>> hit.rank, hit.id, hit.kind, hit.text
        (1, 'b', 'text', 'Rust is iron oxide.')
    """
    retrieved = retriever.retrieve(query)
    if reranker is None:
        return hits_of(retrieved[:n], retrieved)
    text, bundle = (query, None) if isinstance(query, str) else (None, query)
    return hits_of(
        reranker.postprocess_nodes(retrieved, query_str=text, query_bundle=bundle)[:n], retrieved
    )


def search_many(
    retriever: RNXRetriever, reranker: RNXRerank | None, queries: Sequence[QueryBundle], n: int
) -> Iterator[list[Hit] | ImageError]:
    """`search` for every query, a few at once, so that their lists share forwards; the error of a
    query whose image is none.
    """
    for start in range(0, len(queries), LISTS_AT_ONCE):
        part = queries[start : start + LISTS_AT_ONCE]
        retrieved = [_retrieved(retriever, query) for query in part]
        asks = [
            (query, hits)
            for query, hits in zip(part, retrieved, strict=True)
            if not isinstance(hits, ImageError)
        ]
        final = iter(reranker.postprocess_many(asks) if reranker else [hits for _, hits in asks])
        yield from (
            hits if isinstance(hits, ImageError) else hits_of(next(final)[:n], hits)
            for hits in retrieved
        )


def _retrieved(retriever: RNXRetriever, query: QueryBundle) -> list[NodeWithScore] | ImageError:
    try:
        return retriever.retrieve(query)
    except ImageError as error:
        return error
