"""What a search found, as people and programs read it: rank after and before reranking, kind, source, text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle

from llama_index_rnx.candidates import SOURCE, PageNode, usable_candidate
from llama_index_rnx.errors import ImageError
from llama_index_rnx.ranking import LISTS_AT_ONCE
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.retrieve import RNXRetriever


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One line of a result. Ranks count from 1; `source` and `page` are those of the file that the node came from."""

    rank: int
    id: str
    score: float
    retrieval_rank: int
    retrieval_score: float
    kind: str
    source: str | None
    page: int | None
    text: str
    node: BaseNode = field(repr=False, compare=False)

    @property
    def docid(self) -> str:
        """The name in a TREC run: the source, with `#page` where there is one; without a source the node's id."""
        if not self.source:
            return self.id
        return self.source if self.page is None else f"{self.source}#{self.page}"

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        names = ("rank", "id", "score", "retrieval_rank", "retrieval_score", "kind", "source", "page", "text")
        return {name: getattr(self, name) for name in names}


def search(retriever: RNXRetriever, reranker: RNXRerank | None, query: Any, n: int) -> list[Hit]:
    """Retrieve, rerank (unless `reranker` is None), and keep the best `n`. `query`: a text or a `QueryBundle`.

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
    return hits_of(reranker.postprocess_nodes(retrieved, query_str=text, query_bundle=bundle)[:n], retrieved)


def search_many(
    retriever: RNXRetriever, reranker: RNXRerank | None, queries: Sequence[QueryBundle], n: int
) -> Iterator[list[Hit] | ImageError]:
    """`search` for every query, a few at once, so that their lists share forwards; the error of a query whose image is none."""
    for start in range(0, len(queries), LISTS_AT_ONCE):
        part = queries[start : start + LISTS_AT_ONCE]
        retrieved = [_retrieved(retriever, query) for query in part]
        asks = [(query, hits) for query, hits in zip(part, retrieved, strict=True) if not isinstance(hits, ImageError)]
        final = iter(reranker.postprocess_many(asks) if reranker else [hits for _, hits in asks])
        yield from (hits if isinstance(hits, ImageError) else hits_of(next(final)[:n], hits) for hits in retrieved)


def _retrieved(retriever: RNXRetriever, query: QueryBundle) -> list[NodeWithScore] | ImageError:
    try:
        return retriever.retrieve(query)
    except ImageError as error:
        return error


def hits_of(final: Sequence[NodeWithScore], retrieved: Sequence[NodeWithScore]) -> list[Hit]:
    """The final list, each node with the rank and the score that the retriever gave it."""
    places = {hit.node_id: (rank, float(hit.score or 0.0)) for rank, hit in enumerate(retrieved, start=1)}
    return [_hit(rank, found, *places[found.node_id]) for rank, found in enumerate(final, start=1)]


def _hit(rank: int, found: NodeWithScore, retrieval_rank: int, retrieval_score: float) -> Hit:
    node = found.node
    return Hit(
        rank=rank,
        id=node.node_id,
        score=float(found.score or 0.0),
        retrieval_rank=retrieval_rank,
        retrieval_score=retrieval_score,
        kind=usable_candidate(node, allow_urls=True)[0].kind,
        source=node.metadata.get(SOURCE),
        page=node.page if isinstance(node, PageNode) else None,
        text=node.get_content(),
        node=node,
    )
