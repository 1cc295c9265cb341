"""The text tower: words in, token states and one vector a chunk out. It knows neither queries nor
candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from llama_index_rnx.rankers.mini.bert import BertEncoder

CHUNK_PIECES = (
    254  # word pieces a chunk, without [CLS] and [SEP]; gte-small was trained on up to 512
)
MAX_CHUNKS = 8  # about 1,500 words; what follows is not read
BATCH_PIECES = 8_192  # padded word pieces a forward: bounds the memory, whatever the lengths


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The shape of the text tower; the defaults are gte-small (33M parameters, MIT)."""

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 12
    heads: int = 12
    intermediate: int = 1_536
    positions: int = 512


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """One text after the tower. ids: [T] word pieces; states: [T, 384]; chunks: [C, 384], unit
    length.
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
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.cls, self.sep = (int(tokenizer.token_to_id(mark) or 0) for mark in ("[CLS]", "[SEP]"))
        self.bert = BertEncoder(**asdict(config))

    @classmethod
    def tokenizer_from(cls, folder: Path) -> Tokenizer:
        """The word-piece tokenizer of a folder that holds `tokenizer.json`."""
        return Tokenizer.from_file(str(folder / "tokenizer.json"))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] -> states [B, T, 384]."""
        states: Tensor = self.bert(ids, mask)
        return states

    def chunk_ids(self, text: str, max_chunks: int = MAX_CHUNKS) -> list[list[int]]:
        """The word pieces of a text in chunks, each from [CLS] to [SEP]; an empty text is one empty
        chunk.
        """
        pieces = self.tokenizer.encode(text, add_special_tokens=False).ids[
            : max_chunks * CHUNK_PIECES
        ]
        starts = range(0, max(len(pieces), 1), CHUNK_PIECES)
        return [[self.cls, *pieces[start : start + CHUNK_PIECES], self.sep] for start in starts]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], max_chunks: int = MAX_CHUNKS) -> list[EncodedText]:
        """Every text through the tower, chunk by chunk, in batches of like length (their padding is
        wasted work).
        """
        chunks = [self.chunk_ids(text, max_chunks) for text in texts]
        flat = [
            (text, chunk) for text, of_text in enumerate(chunks) for chunk in range(len(of_text))
        ]
        flat.sort(key=lambda place: len(chunks[place[0]][place[1]]), reverse=True)
        encoded: dict[tuple[int, int], Tensor] = {}
        while flat:
            longest = len(chunks[flat[0][0]][flat[0][1]])
            batch, flat = (
                flat[: max(1, BATCH_PIECES // longest)],
                flat[max(1, BATCH_PIECES // longest) :],
            )
            encoded.update(
                zip(batch, self._forward_lists([chunks[t][c] for t, c in batch]), strict=True)
            )
        return [
            _assemble(of_text, [encoded[t, c] for c in range(len(of_text))])
            for t, of_text in enumerate(chunks)
        ]

    def _forward_lists(self, lists: list[list[int]]) -> list[Tensor]:
        ids, mask = pad_ids(lists, device=self.bert.embeddings.word_embeddings.weight.device)
        states = self(ids, mask).float()  # [B, T, 384]
        return [state[: len(pieces)] for state, pieces in zip(states, lists, strict=True)]


def pad_ids(
    lists: Sequence[Sequence[int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Lists of word pieces -> ids, mask: [B, T], padded with 0 ([PAD])."""
    longest = max(map(len, lists))
    ids = torch.tensor(
        [[*pieces, *[0] * (longest - len(pieces))] for pieces in lists], device=device
    )
    mask = torch.tensor(
        [[1] * len(pieces) + [0] * (longest - len(pieces)) for pieces in lists], device=device
    )
    return ids, mask


def pool(states: Tensor, mask: Tensor) -> Tensor:
    """The unit mean of the states under the mask: [B, T, 384], [B, T] -> [B, 384]. As gte-small was
    trained.
    """
    weights = mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    mean = (states * weights).sum(1) / weights.sum(1)  # [B, 384]
    return nn.functional.normalize(mean, dim=-1)


def _assemble(ids: list[list[int]], states: list[Tensor]) -> EncodedText:
    chunks = torch.stack(
        [nn.functional.normalize(state.mean(0), dim=0) for state in states]
    )  # [C, 384]
    flat = torch.tensor([piece for chunk in ids for piece in chunk])  # [T]
    return EncodedText(ids=flat, states=torch.cat(states), chunks=chunks)
