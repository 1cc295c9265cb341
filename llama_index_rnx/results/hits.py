"""What a search found, as people and programs read it: rank after and before reranking, kind,
source, text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_rnx.candidates import SOURCE, PageNode, usable_candidate
from llama_index_rnx.text import clean


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One line of a result. Ranks count from 1; `source` and `page` are those of the file that the
    node came from.
    """

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
        """The name in a TREC run: the source, with `#page` where there is one; without a source the
        node's id.
        """
        if not self.source:
            return self.id
        return self.source if self.page is None else f"{self.source}#{self.page}"

    def to_dict(self) -> dict[str, Any]:
        """The fields for JSON."""
        names = (
            "rank",
            "id",
            "score",
            "retrieval_rank",
            "retrieval_score",
            "kind",
            "source",
            "page",
            "text",
        )
        return {name: getattr(self, name) for name in names}


def hits_of(final: Sequence[NodeWithScore], retrieved: Sequence[NodeWithScore]) -> list[Hit]:
    """The final list, each node with the rank and the score that the retriever gave it."""
    places = {
        hit.node_id: (rank, float(hit.score or 0.0)) for rank, hit in enumerate(retrieved, start=1)
    }
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


ARROWS = {"up": "↑", "down": "↓", "same": "="}


def movement(hit: Hit) -> str:
    """`up`, `down` or `same`: where the reranker moved a hit from its place in the retriever's
    list.
    """
    return (
        "up"
        if hit.rank < hit.retrieval_rank
        else "down"
        if hit.rank > hit.retrieval_rank
        else "same"
    )


def source_of(hit: Hit) -> str:
    """The file and the page, as people say it."""
    name = clean(hit.source or hit.id)
    return name if hit.page is None else f"{name}, page {hit.page}"


def with_bars(hits: Sequence[Hit]) -> list[tuple[Hit, float]]:
    """Each hit with its score as a part of the greatest; where some are negative, from the least to
    the greatest.
    """
    floor = min([0.0, *(hit.score for hit in hits)])
    top = max((hit.score for hit in hits), default=0.0) - floor
    return [(hit, (hit.score - floor) / top if top > 0 else 0.0) for hit in hits]
