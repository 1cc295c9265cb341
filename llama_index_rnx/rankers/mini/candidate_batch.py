"""The inputs of the listwise scorer: the memory of a text, a query, and a batch of candidates. It
knows no network.

Axes, named once: N candidates, C chunks, S memory tokens, Q query tokens, L distinct word pieces,
T word pieces, D memory width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.config import ScorerConfig
from llama_index_rnx.rankers.mini.quantization import Floats, dequantize_rows

# BERT's vocabulary: [PAD], [CLS], [SEP] and unused ids come before its first sign, "!".
LAST_SPECIAL = 998

Ids = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class QueryStates:
    """One query.

    Attributes:
        states: [Q, 384] of its word pieces.
        pieces: [Q].
        weights: [Q], the idf of each.
        vector: [384], unit length.
    """

    states: Floats
    pieces: Ids
    weights: Floats
    vector: Floats


@dataclass(frozen=True, kw_only=True)
class CandidateBatch:
    """N candidates, padded.

    Attributes:
        tokens: [N, S, D]; token_mask: [N, S].
        chunks: [N, C, 384]; chunk_mask: [N, C].
        pieces, counts: [N, L], 0 where there is none.
        has_text, has_image: [N] bool.
        image_logit: [N], zero without an image.
    """

    tokens: Floats
    token_mask: Mask
    chunks: Floats
    chunk_mask: Mask
    pieces: Ids
    counts: Floats
    has_text: Mask
    has_image: Mask
    image_logit: Floats

    @property
    def long(self) -> Mask:
        """Return which texts have several chunks, as most pages do: [N] bool."""
        is_long: Mask = self.chunk_mask.sum(1) > 1
        return is_long


def heaviest(weights: Floats, count: int) -> NDArray[np.int64]:
    """Return the indices of the largest weights, the largest first; of equal ones the earlier."""
    return np.argsort(-weights, kind="stable")[:count]


def compress_tokens(states: Floats, ids: Ids, weights: Floats, slots: int) -> Floats:
    """Return at most `slots` vectors for a text of any length, in its order: states [T, 384],
    ids [T] -> [<= slots, 384].

    Specials are always dropped. Beyond `slots`, the light half of the word pieces is dropped first
    (stop words and signs have the lowest `weights`, one for each word piece of the vocabulary),
    then neighbours are averaged.
    """
    is_word = ids > LAST_SPECIAL  # [T]
    states = states[is_word]
    ids = ids[is_word]
    if len(ids) > slots:
        states = states[np.sort(heaviest(weights[ids], max(slots, len(ids) // 2)))]
    if len(states) <= slots:
        return states

    # The first of the neighbours that share a slot; slots differ in size by one at most.
    starts = -(-np.arange(slots) * len(states) // slots)  # [slots]
    sizes = np.diff(starts, append=len(states))  # [slots]
    sums: Floats = np.add.reduceat(states, starts)
    means: Floats = np.divide(sums, sizes[:, None], dtype=np.float32)
    return means  # [slots, 384]


def distinct_pieces(ids: Ids, weights: Floats, limit: int) -> tuple[Ids, Ids]:
    """Return the distinct word pieces of ids [T], the heaviest where there are more than `limit`,
    and their counts: [<= limit] each.
    """
    pieces, counts = np.unique(ids[ids > LAST_SPECIAL], return_counts=True)
    if len(pieces) > limit:
        heavy = heaviest(weights[pieces], limit)
        pieces = pieces[heavy]
        counts = counts[heavy]
    return pieces, counts.clip(max=255)


def count_occurrences(pieces: Ids, batch: CandidateBatch) -> Floats:
    """Return how often each query piece occurs in each text: [Q] -> [N, Q]."""
    same = batch.pieces[:, None, :] == pieces[None, :, None]  # [N, Q, L]
    counts: Floats = np.matmul(same.astype(np.float32), batch.counts[:, :, None])[..., 0]
    return counts


def collate(
    memories: Sequence[Memory], config: ScorerConfig, image_logit: Floats | None = None
) -> CandidateBatch:
    """Pad what memories hold of texts to one batch.

    Args:
        memories: N of them, as `remember` makes them; any may have no text.
        config: of the scorer.
        image_logit: [N], of those with an image; None where no candidate has one.
    """
    tokens, token_mask = _rows(memories, "tokens", "token_scales", config.memory_width)
    chunks, chunk_mask = _rows(memories, "chunks", "chunk_scales", config.state_width)
    pieces, _ = pad_rows([memory.get("pieces") for memory in memories])
    counts, _ = pad_rows([memory.get("counts") for memory in memories])
    no_logits: Floats = np.zeros(len(memories), np.float32)
    return CandidateBatch(
        tokens=tokens,
        token_mask=token_mask,
        chunks=chunks,
        chunk_mask=chunk_mask,
        pieces=pieces,
        counts=counts.astype(np.float32),
        has_text=np.array(["chunks" in memory for memory in memories]),
        has_image=np.array(["vector" in memory for memory in memories]),
        image_logit=no_logits if image_logit is None else image_logit,
    )


def _rows(memories: Sequence[Memory], rows: str, scales: str, width: int) -> tuple[Floats, Mask]:
    """Return the named rows of each memory, [N, longest, width], and their mask [N, longest].

    They are padded in int8 and dequantized together: a hundred small calls cost more than their
    arithmetic.
    """
    padded, mask = pad_rows([memory.get(rows) for memory in memories], width)
    padded_scales, _ = pad_rows([memory.get(scales) for memory in memories])
    return dequantize_rows(padded, padded_scales), mask


def pad_rows(rows: Sequence[NDArray[Any] | None], *width: int) -> tuple[NDArray[Any], Mask]:
    """Pad arrays `[*, *width]` of one dtype to `[N, longest, *width]`, and return them with their
    mask `[N, longest]`; None is an array without rows. `longest` is 1 at least.
    """
    lengths = np.array([0 if row is None else len(row) for row in rows])  # [N]
    longest = max(1, int(lengths.max()))
    dtype = next((row.dtype for row in rows if row is not None), np.dtype(np.int8))
    padded = np.zeros((len(rows), longest, *width), dtype)
    for index, row in enumerate(rows):
        if row is not None:
            padded[index, : len(row)] = row
    return padded, np.arange(longest) < lengths[:, None]
