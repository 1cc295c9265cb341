"""The dense space of rnx-mini, in which a retriever searches: 384 numbers of gte-small, then 384 of
the image space. It knows no list and no index.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.memories import chunk_vectors
from llama_index_rnx.rankers.mini.model import MiniModel
from llama_index_rnx.rankers.mini.queries import EncodedQuery

# The image half of a text's dense vector: enough to find texts by an image, too little to reorder
# texts.
CAPTION_SHARE = 0.3

# Extra hubness of a page image: lowers its text-query logit by 2.5; image queries are unaffected. A
# page is an image beside a text of several chunks.
PAGE_HUB = 0.2


class DenseVectors:
    """Turns queries and memories into vectors [768] of unit length."""

    def __init__(self, model: MiniModel, device: str) -> None:
        self._model = model
        self._device = device

    def query_vector(self, query: EncodedQuery) -> Tensor:
        """Return the vector of a query; of one with text and image, of both together."""
        halves: list[Tensor] = []
        if query.text is not None:
            states = query.text.states
            halves.append(self._text_side(states.vector, query.text.caption.vector[0]))
        if query.image is not None:
            halves.append(self._image_side(query.image))
        return normalize(torch.stack(halves).sum(0), dim=0)

    def text_vector(self, memory: Memory) -> Tensor | None:
        """Return the vector of a remembered text; None without text."""
        if "chunks" not in memory:
            return None
        text = normalize(chunk_vectors(memory).mean(0), dim=0)  # [384]
        caption = memory["caption"].float()  # [D]
        return self._text_side(text.to(self._device), caption.to(self._device))

    def image_vector(self, memory: Memory) -> Tensor | None:
        """Return the vector of a remembered image, whose first half is zero; None without image."""
        return self._image_side(memory) if "vector" in memory else None

    def _text_side(self, text: Tensor, caption: Tensor) -> Tensor:
        """[384], [D] -> [768]."""
        share = CAPTION_SHARE
        as_caption = self._model.image.query_vector(caption.unsqueeze(0))[0]  # [384]
        return torch.cat([text * (1 - share**2) ** 0.5, as_caption * share])

    def _image_side(self, memory: Memory) -> Tensor:
        head = self._model.image
        vector = memory["vector"].float().to(self._device)  # [D]
        hub = memory["hub"].float().to(self._device)  # [1]
        if len(memory.get("chunks", ())) > 1:
            hub = hub + PAGE_HUB
        indexed = head.index_vector(vector.unsqueeze(0), hub)[0]  # [384]
        return torch.cat([torch.zeros(head.config.text_width, device=self._device), indexed])
