"""The hits of a search, as people and programs read them: rank after and before reranking, kind,
source, text. It knows no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_rnx.candidates import SOURCE, PageNode, kinds_of
from llama_index_rnx.text import clean

ARROWS = {"up": "↑", "down": "↓", "same": "="}

JSON_FIELDS = (
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


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One line of a result.

    Ranks count from 1. `score` is what the reranker gave, or the retriever where nothing was
    reranked; `retrieval_score` is what the retriever gave. `kind` is `text`, `image` or `both`.
    `source` and `page` (from 1) are those of the file that the node came from, None where there is
    none.
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
        """Return the fields for JSON."""
        return {name: getattr(self, name) for name in JSON_FIELDS}


def hits_of(final: Sequence[NodeWithScore], retrieved: Sequence[NodeWithScore]) -> list[Hit]:
    """Return the final list, each node with the rank and the score that the retriever gave it.

    Args:
        final: nodes of `retrieved`, best first.
        retrieved: what the retriever returned, best first.
    """
    return hits_of_lists([final], retrieved)[0]


def hits_of_lists(
    lists: Sequence[Sequence[NodeWithScore]], retrieved: Sequence[NodeWithScore]
) -> list[list[Hit]]:
    """Return several orders of what one retriever returned as hits; see `hits_of`.

    A node that stands in more than one list is looked into once.
    """
    retrieval = {
        scored.node_id: (rank, _score_of(scored)) for rank, scored in enumerate(retrieved, start=1)
    }
    nodes = {scored.node_id: scored.node for ranked in lists for scored in ranked}
    kinds = dict(zip(nodes, kinds_of(list(nodes.values())), strict=True))

    return [
        [
            _build_hit(rank, scored, kinds[scored.node_id], *retrieval[scored.node_id])
            for rank, scored in enumerate(ranked, start=1)
        ]
        for ranked in lists
    ]


def _build_hit(
    rank: int, scored: NodeWithScore, kind: str, retrieval_rank: int, retrieval_score: float
) -> Hit:
    node = scored.node
    return Hit(
        rank=rank,
        id=node.node_id,
        score=_score_of(scored),
        retrieval_rank=retrieval_rank,
        retrieval_score=retrieval_score,
        kind=kind,
        source=node.metadata.get(SOURCE),
        page=node.page if isinstance(node, PageNode) else None,
        text=node.get_content(),
        node=node,
    )


def _score_of(scored: NodeWithScore) -> float:
    return float(scored.score or 0.0)


def movement(hit: Hit) -> str:
    """Return `up`, `down` or `same`: where the reranker moved a hit from its place in the
    retriever's list.
    """
    return direction(hit.retrieval_rank, hit.rank)


def direction(old_rank: int, new_rank: int) -> str:
    """Return `up`, `down` or `same` for a move from one rank to another; rank 1 is at the top."""
    if new_rank < old_rank:
        return "up"
    return "down" if new_rank > old_rank else "same"


def source_of(hit: Hit) -> str:
    """Return the file and the page, as people say it."""
    name = clean(hit.source or hit.id)
    return name if hit.page is None else f"{name}, page {hit.page}"


def with_bars(hits: Sequence[Hit]) -> list[tuple[Hit, float]]:
    """Return each hit with the length of its score's bar, from 0 to 1.

    The bar is the score as a share of the greatest score. Where some scores are negative, it goes
    from the least score to the greatest.
    """
    floor = min([0.0, *(hit.score for hit in hits)])
    top = max((hit.score for hit in hits), default=0.0) - floor
    return [(hit, (hit.score - floor) / top if top > 0 else 0.0) for hit in hits]
