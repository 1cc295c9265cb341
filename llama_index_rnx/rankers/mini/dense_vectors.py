"""The dense space of rnx-mini, in which a retriever searches: 384 numbers of gte-small, then 384 of
the image space. It knows no list and no index.
"""

from __future__ import annotations

import numpy as np

from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.image_scorer import ImageScorer
from llama_index_rnx.rankers.mini.memories import chunk_vectors
from llama_index_rnx.rankers.mini.quantization import Floats, normalize
from llama_index_rnx.rankers.mini.queries import EncodedQuery

# The image half of a text's dense vector: enough to find texts by an image, too little to reorder
# texts.
CAPTION_SHARE = 0.3

# Extra hubness of a page image: lowers its text-query logit by 2.5; image queries are unaffected. A
# page is an image beside a text of several chunks.
PAGE_HUB = 0.2


class DenseVectors:
    """Turns queries and memories into vectors [768] of unit length."""

    def __init__(self, image_scorer: ImageScorer) -> None:
        self._image_scorer = image_scorer

    def query_vector(self, query: EncodedQuery) -> Floats:
        """Return the vector of a query; of one with text and image, of both together."""
        halves: list[Floats] = []
        if query.text is not None:
            halves.append(self._text_side(query.text.states.vector, query.text.caption.vector))
        if query.image is not None:
            halves.append(self._image_side(query.image))
        return normalize(np.stack(halves).sum(0))

    def text_vector(self, memory: Memory) -> Floats | None:
        """Return the vector of a remembered text; None without text."""
        if "chunks" not in memory:
            return None
        text = normalize(chunk_vectors(memory).mean(0))  # [384]
        return self._text_side(text, memory["caption"].astype(np.float32))

    def image_vector(self, memory: Memory) -> Floats | None:
        """Return the vector of a remembered image, whose first half is zero; None without image."""
        return self._image_side(memory) if "vector" in memory else None

    def _text_side(self, text: Floats, caption: Floats) -> Floats:
        """[384], [D] -> [768]."""
        share = CAPTION_SHARE
        (as_caption,) = self._image_scorer.query_vector(caption[None])  # [384]
        return np.concatenate([text * (1 - share**2) ** 0.5, as_caption * share])

    def _image_side(self, memory: Memory) -> Floats:
        """-> [768]."""
        vector = memory["vector"].astype(np.float32)[None]  # [1, D]
        is_page = len(memory.get("chunks", ())) > 1
        hub = memory["hub"] + PAGE_HUB if is_page else memory["hub"]  # [1]
        (indexed,) = self._image_scorer.index_vector(vector, hub)  # [384]
        return np.concatenate([np.zeros(self._image_scorer.config.text_width, np.float32), indexed])
