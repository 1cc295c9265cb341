"""The listwise scorer: the token states of a query against what is remembered of every candidate,
then the candidates among themselves.

It knows neither words nor images nor encoders: token states, vectors and one image logit come in, a
score each goes out. Axes, named once: N candidates, C chunks, S memory tokens, Q query tokens,
L distinct word pieces, F features, D memory width, W scorer width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from llama_index_rnx.rankers.mini.candidate_batch import (
    LAST_SPECIAL,
    CandidateBatch,
    Mask,
    QueryStates,
    compress_tokens,
    count_occurrences,
    heaviest,
)
from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from llama_index_rnx.rankers.mini.config import ScorerConfig
from llama_index_rnx.rankers.mini.quantization import Floats, normalize
from llama_index_rnx.rankers.mini.text_encoder import EncodedText

BASE_FEATURES = 8


@dataclass(frozen=True, kw_only=True)
class ScorerOutput:
    """The scorer's output for N candidates, each by itself, before they are compared with one
    another.

    Attributes:
        features: [N, F].
        vectors: [N, W].
        text_logit, image_logit: [N].
        occurrences: [N, Q] of each query piece.
        length: [N] in word pieces.
        long, has_text, has_image: [N] bool.
    """

    features: Floats
    vectors: Floats
    text_logit: Floats
    occurrences: Floats
    length: Floats
    long: Mask
    has_text: Mask
    has_image: Mask
    image_logit: Floats

    @classmethod
    def join(cls, outputs: Sequence[ScorerOutput]) -> ScorerOutput:
        """Join the outputs of several steps of a list, in their order."""
        names = [field.name for field in fields(cls)]
        return cls(
            **{
                name: np.concatenate([getattr(output, name) for output in outputs])
                for name in names
            }
        )


class ListwiseScorer:
    """Scores of N candidates for one query, listwise.

    * base logit: learned weights on cosine, late interaction and exact overlap, plus the image
      logit
    * joint: query tokens attend to the candidate's memory tokens -> a candidate vector and a
      residual of the logit
    * list: candidates attend to one another -> a second residual
    """

    def __init__(self, checkpoint: Checkpoint, config: ScorerConfig) -> None:
        self._checkpoint = checkpoint
        self.config = config

        # The idf of every word piece, 0 to 1.
        self.weights = checkpoint.weight("reader.weights")
        self._compress = checkpoint.weight("reader.compress.weight").T  # [384, D]
        self._kinds = _ModalityCalibration(checkpoint, config)

    def remember(self, encoded: EncodedText) -> Floats:
        """Return the memory tokens of a text, [S, D], unit length."""
        states = compress_tokens(encoded.states, encoded.ids, self.weights, self.config.slots)
        return normalize(states @ self._compress)

    def query(self, encoded: EncodedText) -> QueryStates:
        """Return a query without specials, its heaviest word pieces only."""
        ids = encoded.ids
        words = np.flatnonzero(ids > LAST_SPECIAL)  # [T']
        heavy = words[np.sort(heaviest(self.weights[ids[words]], self.config.query_tokens))]
        # Where there are nothing but specials, take [CLS].
        index = heavy if len(heavy) else np.zeros(1, np.int64)  # [Q]
        return QueryStates(
            states=encoded.states[index],
            pieces=ids[index],
            weights=self.weights[ids[index]],
            vector=encoded.vector,
        )

    def score_each(self, query: QueryStates, batch: CandidateBatch) -> ScorerOutput:
        """Score each candidate by itself, so that a list may be scored in steps, side by side."""
        occurrences = count_occurrences(query.pieces, batch)  # [N, Q]
        length = batch.counts.sum(1)  # [N]
        if batch.has_text.any():
            inputs = {
                "states": query.states,
                "weights": query.weights,
                "vector": query.vector,
                "tokens": batch.tokens,
                "token_mask": batch.token_mask,
                "chunks": batch.chunks,
                "chunk_mask": batch.chunk_mask,
                "occurrences": occurrences,
                "length": length,
            }
            features, vectors, text_logit = self._checkpoint.run("candidates", inputs)
        else:
            # There are images alone, and nothing to attend to.
            count = len(batch.has_text)
            features = np.zeros((count, BASE_FEATURES), np.float32)
            vectors = np.zeros((count, self.config.width), np.float32)
            text_logit = np.zeros(count, np.float32)

        return ScorerOutput(
            features=features * batch.has_text[:, None],
            vectors=vectors,
            text_logit=text_logit * batch.has_text,
            occurrences=occurrences,
            length=length,
            long=batch.long,
            has_text=batch.has_text,
            has_image=batch.has_image,
            image_logit=batch.image_logit,
        )

    def compare(self, output: ScorerOutput) -> Floats:
        """Compare the candidates with one another: scores [N]; higher is better."""
        logits = self._kinds.logits(output)  # [N]
        if not output.has_text.any():
            # The residual of images is zero.
            return logits

        scores = logits + self._residual(output, logits)
        if not output.long.any():
            return scores
        best_chunk = output.features[:, 0] + output.features[:, 1]  # [N]
        bm25 = list_bm25(output.occurrences, output.length, output.has_text)  # [N]
        return blend_long(scores, best_chunk, bm25, output.long)

    def _residual(self, output: ScorerOutput, logits: Floats) -> Floats:
        """[N] -> [N]."""
        inputs = {
            "vectors": output.vectors,
            "features": output.features,
            "logits": logits,
            "image_logit": output.image_logit,
            "has_text": output.has_text.astype(np.float32),
            "has_image": output.has_image.astype(np.float32),
        }
        (residual,) = self._checkpoint.run("list", inputs)
        return residual


def blend_long(scores: Floats, best_chunk: Floats, bm25: Floats, long: Mask) -> Floats:
    """Score texts of several chunks, such as pages, by the mean of three views: the scorer, the
    best chunk, exact words.

    Each view is standardised over the long texts of the list, and the mean has the scorer's own
    scale; nothing is fitted. The scorer alone learned from passages and pools a page into as many
    tokens: on 157 questions to the pages of 26 documents R@1 rose from 42.7 to 46.5 (mmdocir,
    2026-11-22). All [N]; texts of one chunk keep their scores.
    """
    if int(long.sum()) < 2:
        return scores
    views = np.stack([scores, best_chunk, bm25])[:, long]  # [3, long]
    mean = views.mean(1, keepdims=True)
    spread = views.std(1, keepdims=True)
    blended = scores.copy()
    blended[long] = ((views - mean) / (spread + 1e-6)).mean(0) * spread[0] + mean[0]
    return blended


def list_bm25(counts: Floats, length: Floats, has_text: Mask) -> Floats:
    """Return BM25 (k1 = 1.2, b = .75) of each text, by the document frequencies and the mean length
    of the list: counts of the query pieces [N, Q] and lengths [N] -> [N].

    It is divided by the idf of the whole query and shifted: about -1 (no word of it) to 1.
    """
    texts = np.float32(max(1, has_text.sum()))
    frequency = (counts > 0).sum(0, dtype=np.float32)  # [Q]
    idf = np.log1p((texts - frequency + 0.5) / (frequency + 0.5))  # [Q]
    norm = 0.25 + 0.75 * length / max(np.float32(1), length.sum() / texts)  # [N]
    saturated = counts * 2.2 / (counts + 1.2 * norm[:, None])  # [N, Q]
    scores: Floats = saturated @ idf / max(np.float32(1e-6), idf.sum()) * 1.5 - 1.0
    return scores


class _ModalityCalibration:
    """One scale for texts, images and both: a weight for each side and a bias for each kind of
    candidate.

    Text alone is the measure and stays as it is. A candidate that is both answers by its text or by
    its image: the log of the summed odds, which an image that says nothing cannot lower.
    """

    def __init__(self, checkpoint: Checkpoint, config: ScorerConfig) -> None:
        self._picture_bias = config.picture_bias
        self._text_weight, self._image_weight, self._bias = (
            checkpoint.weight(f"reader.kinds.{name}")
            for name in ("text_weight", "image_weight", "bias")
        )

    def logits(self, output: ScorerOutput) -> Floats:
        """-> [N]."""
        # 0 text, 1 image, 2 both.
        kind = output.has_image.astype(int) + (output.has_image & output.has_text)  # [N]
        image_logit = self._image_weight[kind] * output.image_logit + self._bias[kind]  # [N]
        either = np.logaddexp(self._text_weight[kind] * output.text_logit, image_logit)  # [N]

        with_image = np.where(output.has_text, either, image_logit + self._picture_bias)
        return np.where(output.has_image, with_image, output.text_logit)
