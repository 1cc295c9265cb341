"""What a notebook shows of a question: its hits before and after reranking, side by side. It knows
no page and no model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_rnx.candidates import query_of
from llama_index_rnx.defaults import TOP_N
from llama_index_rnx.results.hits import hits_of
from llama_index_rnx.results.html import Comparison


def compare(
    retriever: BaseRetriever,
    reranker: BaseNodePostprocessor | None,
    query: str | QueryBundle,
    n: int = TOP_N,
) -> Comparison:
    """Retrieves, reranks (unless `reranker` is None), and keeps the best `n` of both lists; a
    notebook shows them as cards.

    Any LlamaIndex retriever and reranker will do. `seconds` is what both took together.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(text="Bees make honey."), TextNode(text="Rust is iron oxide.")])
        2
        >>> found = compare(RNXRetriever(collection), RNXRerank(), "What is rust?")
        >>> found.after[0].text, len(found.before)
        ('Rust is iron oxide.', 2)
    """
    bundle = QueryBundle(query) if isinstance(query, str) else query
    start = time.perf_counter()
    retrieved = retriever.retrieve(bundle)
    final = reranker.postprocess_nodes(retrieved, bundle) if reranker is not None else retrieved
    return comparison_of(bundle, retrieved, final, n, time.perf_counter() - start)


def comparison_of(
    query: str | QueryBundle,
    retrieved: Sequence[NodeWithScore],
    final: Sequence[NodeWithScore],
    n: int,
    seconds: float,
) -> Comparison:
    """The same from lists that are there already; `final` holds nodes of `retrieved` only."""
    asked = query_of(query)
    before, after = hits_of(retrieved[:n], retrieved), hits_of(final[:n], retrieved)
    return Comparison(
        query=asked.text, image=asked.image, before=before, after=after, seconds=seconds
    )
