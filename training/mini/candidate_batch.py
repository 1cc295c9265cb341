"""The inputs of the listwise scorer: its shape, the memory of a text, a query, and a batch of
candidates. It knows no network.

Axes, named once: N candidates, C chunks, S memory tokens, Q query tokens, L distinct word pieces,
T word pieces, D memory width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llama_index_rnx.rankers.mini import LAST_SPECIAL, ScorerConfig


@dataclass(frozen=True, kw_only=True)
class TextMemory:
    """All that is kept of one text. Rows of `tokens` and `chunks` have unit length, so int8 with
    the scale 1/127 fits.

    Attributes:
        tokens: [S, D].
        chunks: [C, 384].
        pieces: [L] distinct word pieces.
        counts: [L] how often each occurs, at most 255.
    """

    tokens: Tensor
    chunks: Tensor
    pieces: Tensor
    counts: Tensor


@dataclass(frozen=True, kw_only=True)
class QueryStates:
    """One query.

    Attributes:
        states: [Q, 384] of its word pieces.
        pieces: [Q].
        vector: [384], unit length.
    """

    states: Tensor
    pieces: Tensor
    vector: Tensor


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

    tokens: Tensor
    token_mask: Tensor
    chunks: Tensor
    chunk_mask: Tensor
    pieces: Tensor
    counts: Tensor
    has_text: Tensor
    has_image: Tensor
    image_logit: Tensor

    @property
    def long(self) -> Tensor:
        """Return which texts have several chunks, as most pages do: [N] bool."""
        return self.chunk_mask.sum(1) > 1

    def to(self, device: str) -> CandidateBatch:
        """Return the same on another device."""
        return CandidateBatch(
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)}
        )

    def take(self, index: Tensor) -> CandidateBatch:
        """Return the candidates at `index`, in that order."""
        return CandidateBatch(
            **{field.name: getattr(self, field.name)[index] for field in fields(self)}
        )


def heaviest(weights: Tensor, count: int) -> Tensor:
    """Return the indices of the largest weights, the largest first; of equal ones the earlier, as
    in inference.
    """
    return weights.sort(descending=True, stable=True).indices[:count]


def compress_tokens(states: Tensor, ids: Tensor, weights: Tensor, slots: int) -> Tensor:
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
        count = max(slots, len(ids) // 2)
        heavy = heaviest(weights[ids], count).sort().values
        states = states[heavy]
    if len(states) <= slots:
        return states

    # The slot of each remaining vector, [T'].
    slot = torch.arange(len(states), device=states.device) * slots // len(states)
    total = states.new_zeros(slots, states.shape[1]).index_add_(0, slot, states)
    return total / slot.bincount(minlength=slots).unsqueeze(1)  # [slots, 384]


def distinct_pieces(ids: Tensor, weights: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the distinct word pieces of ids [T], the heaviest where there are more than `limit`,
    and their counts: [<= limit] each.
    """
    pieces, counts = torch.unique(ids[ids > LAST_SPECIAL], return_counts=True)
    if len(pieces) > limit:
        heavy = heaviest(weights[pieces], limit)
        pieces = pieces[heavy]
        counts = counts[heavy]
    return pieces, counts.clamp_max(255)


def count_occurrences(pieces: Tensor, batch: CandidateBatch) -> Tensor:
    """Return how often each query piece occurs in each text: [Q] -> [N, Q]."""
    same = batch.pieces.unsqueeze(1) == pieces.view(1, -1, 1)  # [N, Q, L]
    return (same * batch.counts.unsqueeze(1)).sum(-1)


def collate(
    memories: Sequence[TextMemory | None],
    config: ScorerConfig,
    has_image: Tensor | None = None,
    image_logit: Tensor | None = None,
) -> CandidateBatch:
    """Pad memories to one batch; None is a candidate without text.

    Args:
        has_image, image_logit: [N] each; None where no candidate has an image.
    """
    count = len(memories)
    tokens, token_mask = pad_rows([m.tokens if m else None for m in memories], config.memory_width)
    chunks, chunk_mask = pad_rows([m.chunks if m else None for m in memories], config.state_width)
    pieces, _ = pad_rows([m.pieces if m else None for m in memories])
    counts, _ = pad_rows([m.counts if m else None for m in memories])
    return CandidateBatch(
        tokens=tokens,
        token_mask=token_mask,
        chunks=chunks,
        chunk_mask=chunk_mask,
        pieces=pieces.long(),
        counts=counts.float(),
        has_text=torch.tensor([memory is not None for memory in memories]),
        has_image=torch.zeros(count, dtype=torch.bool) if has_image is None else has_image,
        image_logit=torch.zeros(count) if image_logit is None else image_logit,
    )


def pad_rows(rows: Sequence[Tensor | None], *width: int) -> tuple[Tensor, Tensor]:
    """Pad tensors `[*, *width]` to `[N, longest, *width]`, and return them with their mask
    `[N, longest]`; None is a tensor without rows. `longest` is 1 at least.
    """
    tensors = [torch.zeros(0, *width) if row is None else row for row in rows]
    lengths = torch.tensor([len(tensor) for tensor in tensors])  # [N]
    longest = max(1, int(lengths.max()))
    padded = pad_sequence(tensors, batch_first=True)  # [N, longest, *width]
    if padded.shape[1] < longest:
        # No candidate has any.
        padded = torch.zeros(len(rows), longest, *width)
    return padded, torch.arange(longest) < lengths.unsqueeze(1)
