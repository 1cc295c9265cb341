"""The text encoder: words in, token states and one vector a chunk out. It knows neither queries nor
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from llama_index_rnx.rankers.mini import MAX_CHUNKS, ChunkTokenizer
from training.mini.bert import BertEncoder

# Padded word pieces of a forward: bounds the memory, whatever the lengths.
BATCH_PIECES = 8_192


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The shape of the text encoder; the defaults are gte-small (33M parameters, MIT)."""

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 12
    heads: int = 12
    intermediate: int = 1_536
    positions: int = 512


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """One text after the encoder.

    Attributes:
        ids: [T] word pieces.
        states: [T, 384].
        chunks: [C, 384], unit length.
    """

    ids: Tensor
    states: Tensor
    chunks: Tensor

    @property
    def vector(self) -> Tensor:
        """The retrieval vector, [384]: the normalised mean of the chunks (of one chunk: the chunk's
        own).
        """
        return nn.functional.normalize(self.chunks.mean(0), dim=0)


class TextEncoder(nn.Module):
    """gte-small, a BERT without its pooler; no prefix is put before queries or texts."""

    def __init__(
        self, tokenizer: Tokenizer, config: TextEncoderConfig = TextEncoderConfig()
    ) -> None:
        super().__init__()
        self.config = config
        self.chunks = ChunkTokenizer(tokenizer)
        self.bert = BertEncoder(**asdict(config))

    @classmethod
    def tokenizer_from(cls, folder: Path) -> Tokenizer:
        """Return the word-piece tokenizer of a folder that holds `tokenizer.json`."""
        return ChunkTokenizer.from_folder(folder).tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The word pieces of a text."""
        return self.chunks.tokenizer

    @property
    def sep(self) -> int:
        """The id that ends a chunk."""
        return self.chunks.sep

    def chunk_ids(self, text: str, max_chunks: int = MAX_CHUNKS) -> list[list[int]]:
        """Return the word pieces of a text in chunks, each from [CLS] to [SEP]."""
        return self.chunks.chunk_ids(text, max_chunks)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] -> states [B, T, 384]."""
        states: Tensor = self.bert(ids, mask)
        return states

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], max_chunks: int = MAX_CHUNKS) -> list[EncodedText]:
        """Encode every text, chunk by chunk, in batches of similar length (their padding is wasted
        work).
        """
        chunks = [self.chunk_ids(text, max_chunks) for text in texts]

        # (text, chunk) of every chunk, the longest first.
        waiting = [
            (text, chunk)
            for text, chunks_of_text in enumerate(chunks)
            for chunk in range(len(chunks_of_text))
        ]
        waiting.sort(key=lambda position: len(chunks[position[0]][position[1]]), reverse=True)

        states: dict[tuple[int, int], Tensor] = {}
        while waiting:
            longest = len(chunks[waiting[0][0]][waiting[0][1]])
            count = max(1, BATCH_PIECES // longest)
            batch = waiting[:count]
            waiting = waiting[count:]
            encoded = self._forward_lists([chunks[text][chunk] for text, chunk in batch])
            states.update(zip(batch, encoded, strict=True))

        return [
            _assemble(chunks_of_text, [states[text, chunk] for chunk in range(len(chunks_of_text))])
            for text, chunks_of_text in enumerate(chunks)
        ]

    def _forward_lists(self, lists: list[list[int]]) -> list[Tensor]:
        ids, mask = pad_ids(lists, device=self.bert.embeddings.word_embeddings.weight.device)
        states = self(ids, mask).float()  # [B, T, 384]
        return [state[: len(pieces)] for state, pieces in zip(states, lists, strict=True)]


def pad_ids(
    lists: Sequence[Sequence[int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Pad lists of word pieces: -> ids, mask: [B, T], padded with 0 ([PAD])."""
    longest = max(map(len, lists))
    ids = [[*pieces, *[0] * (longest - len(pieces))] for pieces in lists]
    mask = [[1] * len(pieces) + [0] * (longest - len(pieces)) for pieces in lists]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the unit mean of the states under the mask, as gte-small was trained: [B, T, 384],
    [B, T] -> [B, 384].
    """
    weights = mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    mean = (states * weights).sum(1) / weights.sum(1)  # [B, 384]
    return nn.functional.normalize(mean, dim=-1)


def _assemble(chunk_ids: list[list[int]], states: list[Tensor]) -> EncodedText:
    """Join the chunks of one text: ids and states [T, 384] of each."""
    means = [nn.functional.normalize(state.mean(0), dim=0) for state in states]  # [384] each
    ids = torch.tensor([piece for chunk in chunk_ids for piece in chunk])  # [T]
    return EncodedText(ids=ids, states=torch.cat(states), chunks=torch.stack(means))
