"""The image side of a query, and its score with an image that is remembered. It knows no pixels and
no list.

Axes, named once: N candidates, T word pieces, R regions, D image space, V word space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from llama_index_rnx.rankers.mini.config import ImageConfig
from llama_index_rnx.rankers.mini.quantization import Floats, normalize

# Of the index vectors: room for a correction of up to .22.
_CONSTANT = 0.5
_NORM_SQUARED = 1.2

# Two photographs of one thing have about this cosine; unrelated ones about .3.
SAME_IMAGE = 0.7


@dataclass(frozen=True, kw_only=True)
class CaptionVectors:
    """A text as a query on the image side.

    Attributes:
        vector: [D], unit length.
        words: [T, V], unit length.
        weights: [T] of sum 1.
    """

    vector: Floats
    words: Floats
    weights: Floats


class ImageScorer:
    """Puts together what a text and an image have in common.

    logit = exp(log_scale) * (cosine + late * late_interaction - hub * (hubness - hub_mean)) + bias;
    the scale is calibrated so that a softmax over 20 retrieved candidates is a probability, the
    bias so that a sigmoid is one.
    """

    def __init__(self, checkpoint: Checkpoint, config: ImageConfig) -> None:
        self._checkpoint = checkpoint
        self.config = config
        self.scale = float(np.exp(checkpoint.weight("image.log_scale")))
        self.late, self.hub, self.bias, self.hub_mean = (
            float(checkpoint.weight(f"image.{name}"))
            for name in ("late", "hub", "bias", "hub_mean")
        )

    def caption(self, states: Floats, pooled: Floats) -> CaptionVectors:
        """Encode a text for images: states [T, 384] and its vector [384]."""
        inputs = {"states": states, "pooled": pooled[None]}
        vector, words, weights = self._checkpoint.run("caption", inputs)
        return CaptionVectors(vector=vector, words=words, weights=weights)

    def score(
        self, caption: CaptionVectors, vectors: Floats, regions: Floats, hubs: Floats
    ) -> Floats:
        """One query with candidates [N, D], [N, R, V], [N] -> logits [N]."""
        near = vectors @ caption.vector + self.late * late_interaction(caption, regions)  # [N]
        logits: Floats = self.scale * (near - self._lowered(hubs)) + self.bias
        return logits.astype(np.float32)

    def same_image(self, query: Floats, vector: Floats) -> float:
        """Return the logit of an image [D] for an image query [D]."""
        return self.scale * (float(vector @ query) - SAME_IMAGE)

    def is_caption(self, query: Floats, hub: float, caption: Floats) -> float:
        """Return the logit of a text [D], as a caption, for an image query [D] of this hubness."""
        lowered = self.hub * (hub - self.hub_mean)
        return self.scale * (float(caption @ query) - lowered) + self.bias

    def index_vector(self, vectors: Floats, hubs: Floats) -> Floats:
        """[N, D], [N] -> unit [N, D + 2]: cosine with a `query_vector` falls with hubness, by as
        much as in `score`.
        """
        lowered = -self._lowered(hubs) / _CONSTANT  # [N]

        # All vectors have one length before they are normalised, so the correction stays in scale.
        filler = np.sqrt((_NORM_SQUARED - 1 - np.square(lowered)).clip(0))  # [N]
        return normalize(np.column_stack([vectors, lowered, filler]).astype(np.float32))

    def query_vector(self, vectors: Floats) -> Floats:
        """[N, D] -> unit [N, D + 2]."""
        constants = np.tile(np.array([_CONSTANT, 0.0], np.float32), (len(vectors), 1))  # [N, 2]
        return normalize(np.column_stack([vectors, constants]))

    def _lowered(self, hubs: Floats) -> Floats:
        """Return by how much hubness lowers a cosine, [N]."""
        lowered: Floats = self.hub * (hubs - self.hub_mean)
        return lowered


def late_interaction(caption: CaptionVectors, regions: Floats) -> Floats:
    """Compare every word with its best region (ColBERT, arXiv 2004.12832): [N, R, V] -> [N]."""
    cosines = regions @ caption.words.T  # [N, R, T]
    total: Floats = cosines.max(1) @ caption.weights
    return total
