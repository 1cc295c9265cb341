"""Nodes become points here and nowhere else: candidates, memories, vectors, payloads, in batches.

It knows models and the store of memories. It sends nothing and asks no Qdrant: a collection decides
between the two steps which of the prepared nodes have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import BaseNode
from qdrant_client import models

from llama_index_rnx.candidates import candidate_of
from llama_index_rnx.collection.metadata import clean_name
from llama_index_rnx.collection.points import (
    PreparedNode,
    Stamp,
    build_point,
    check_path,
    with_stored_metadata,
)
from llama_index_rnx.collection.reports import Skipped
from llama_index_rnx.embed import EmbeddingModel, embed_candidates
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories

# A node, and the file that it came from.
StampedNode = tuple[BaseNode, Stamp | None]


def reads_memories_of(model: EmbeddingModel, ranker: Ranker | None) -> bool:
    """Return whether an embedding of this model reads its vectors off this ranker's memories."""
    if ranker is None or model.ranker is None:
        return False
    return ranker is model.ranker or ranker.fingerprint == model.fingerprint


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """Makes points of nodes, by the models and the memory store of one collection.

    Args:
        ranker: prepares the memories; None prepares none.
        embeds_memories: whether the embedding reads its vectors off the memories of this ranker.
        allow_urls: fetch the images of nodes that hold a URL only.
    """

    embedding: MultiModalEmbedding
    ranker: Ranker | None
    memories: MemoryStore
    embeds_memories: bool
    allow_urls: bool

    def prepare(self, stamped: Sequence[StampedNode]) -> tuple[list[PreparedNode], list[Skipped]]:
        """Return the nodes with their candidates and payloads, and those that cannot be stored.
        No model is called and no image is opened.
        """
        prepared: list[PreparedNode] = []
        skipped: list[Skipped] = []
        for node, stamp in stamped:
            try:
                prepared.append(self._prepare_node(node, stamp))
            except RNXError as error:
                skipped.append(_skipped(node, error))
        return prepared, skipped

    def build_points(
        self, prepared: Sequence[PreparedNode]
    ) -> tuple[list[models.PointStruct], list[Skipped]]:
        """Return the points of the nodes, and the nodes whose images cannot be read.

        Memories are looked up or computed once, and handed on to the embedding.
        """
        if not prepared:
            return [], []
        try:
            return self._embed(prepared), []
        except ImageError as error:
            if len(prepared) == 1:
                return [], [_skipped(prepared[0].node, error)]

        # Halves, until the node with the broken image stands alone.
        half = len(prepared) // 2
        points, skipped = self.build_points(prepared[:half])
        more_points, more_skipped = self.build_points(prepared[half:])
        return points + more_points, skipped + more_skipped

    def _prepare_node(self, node: BaseNode, stamp: Stamp | None) -> PreparedNode:
        check_path(stamp)
        stored = with_stored_metadata(node)
        candidate = candidate_of(stored, self.allow_urls)
        prepared = PreparedNode(node=stored, candidate=candidate, stamp=stamp)

        # The payload is computed here, so that a node that cannot be stored costs itself only.
        prepared.payload  # noqa: B018
        return prepared

    def _embed(self, prepared: Sequence[PreparedNode]) -> list[models.PointStruct]:
        candidates = [node.candidate for node in prepared]
        memories = None
        if self.ranker is not None:
            memories = get_or_compute_memories(self.ranker, candidates, self.memories)

        readable = memories if self.embeds_memories else None
        vectors = embed_candidates(self.embedding, candidates, readable)
        return [build_point(node, dense) for node, dense in zip(prepared, vectors, strict=True)]


def _skipped(node: BaseNode, error: Exception) -> Skipped:
    return Skipped(id=clean_name(node.node_id), reason=clean_name(str(error)))
