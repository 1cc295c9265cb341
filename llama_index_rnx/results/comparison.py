"""Shows a question in a notebook: its hits before and after reranking, side by side. It knows no
page and no model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_rnx.candidates import query_of
from llama_index_rnx.defaults import TOP_N
from llama_index_rnx.results.hits import hits_of_lists
from llama_index_rnx.results.html import Comparison


def compare(
    retriever: BaseRetriever,
    reranker: BaseNodePostprocessor | None,
    query: str | QueryBundle,
    n: int = TOP_N,
) -> Comparison:
    """Retrieve, rerank (unless `reranker` is None), and keep the best `n` of both lists; a notebook
    shows them as cards.

    Any LlamaIndex retriever and reranker will do. `seconds` is what both took together.

    Raises:
        RNXError: the query is empty, or the retriever or the reranker fails.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
        >>> collection = NodeCollection(":memory:")
        >>> texts = "Bees make honey.", "Rust is iron oxide."
        >>> collection.add([TextNode(text=text) for text in texts])
        2
        >>> comparison = compare(RNXRetriever(collection), RNXRerank(), "What is rust?")
        >>> comparison.after[0].text, len(comparison.before)
        ('Rust is iron oxide.', 2)
    """
    bundle = QueryBundle(query) if isinstance(query, str) else query

    start = time.perf_counter()
    retrieved = retriever.retrieve(bundle)
    final = reranker.postprocess_nodes(retrieved, bundle) if reranker is not None else retrieved
    seconds = time.perf_counter() - start

    return comparison_of(bundle, retrieved, final, n, seconds)


def comparison_of(
    query: str | QueryBundle,
    retrieved: Sequence[NodeWithScore],
    final: Sequence[NodeWithScore],
    n: int,
    seconds: float,
) -> Comparison:
    """Return what `compare` does for two lists that exist already.

    Args:
        retrieved: what the retriever returned, best first.
        final: nodes of `retrieved`, as the reranker ordered them.
        n: how many of each list are shown.
        seconds: what both steps took together.
    """
    shown_query = query_of(query)
    before, after = hits_of_lists([retrieved[:n], final[:n]], retrieved)
    return Comparison(
        query=shown_query.text,
        image=shown_query.image,
        before=before,
        after=after,
        seconds=seconds,
    )
