"""Retrieve, then rerank: hits for one query or many. It knows no terminal and no page."""

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
    """Retrieve, rerank (unless `reranker` is None), and keep the best `n`.

    Args:
        query: a text or a `QueryBundle`.

    Raises:
        RNXError: the query is empty, or the retriever or the reranker fails.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection
        >>> texts = {"a": "Bees make honey.", "b": "Rust is iron oxide."}
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(id_=name, text=text) for name, text in texts.items()])
        2
        >>> (hit,) = search(RNXRetriever(collection), RNXRerank(), "What is rust?", n=1)
        >>> hit.rank, hit.id, hit.kind, hit.text
        (1, 'b', 'text', 'Rust is iron oxide.')
    """
    retrieved = retriever.retrieve(query)
    if reranker is None:
        return hits_of(retrieved[:n], retrieved)
    if isinstance(query, str):
        final = reranker.postprocess_nodes(retrieved, query_str=query)
    else:
        final = reranker.postprocess_nodes(retrieved, query_bundle=query)
    return hits_of(final[:n], retrieved)


def search_many(
    retriever: RNXRetriever, reranker: RNXRerank | None, queries: Sequence[QueryBundle], n: int
) -> Iterator[list[Hit] | ImageError]:
    """Yield what `search` gives for every query, or the error of a query whose image cannot be
    read.

    A few queries are searched at once, so that their lists share forwards.
    """
    for start in range(0, len(queries), LISTS_AT_ONCE):
        batch = queries[start : start + LISTS_AT_ONCE]
        yield from _search_batch(retriever, reranker, batch, n)


def _search_batch(
    retriever: RNXRetriever, reranker: RNXRerank | None, queries: Sequence[QueryBundle], n: int
) -> list[list[Hit] | ImageError]:
    retrieved = [_retrieve(retriever, query) for query in queries]
    lists = [
        (query, nodes)
        for query, nodes in zip(queries, retrieved, strict=True)
        if not isinstance(nodes, ImageError)
    ]
    final = iter(reranker.postprocess_many(lists) if reranker else [nodes for _, nodes in lists])

    results: list[list[Hit] | ImageError] = []
    for nodes in retrieved:
        if isinstance(nodes, ImageError):
            results.append(nodes)
        else:
            results.append(hits_of(next(final)[:n], nodes))
    return results


def _retrieve(retriever: RNXRetriever, query: QueryBundle) -> list[NodeWithScore] | ImageError:
    try:
        return retriever.retrieve(query)
    except ImageError as error:
        return error
