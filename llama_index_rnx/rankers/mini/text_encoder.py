"""The text encoder: words in, token states and one vector a chunk out. It knows neither queries nor
candidates.

Axes, named once: B chunks of one batch, T word pieces, C chunks of one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from llama_index_rnx.rankers.mini.quantization import Floats, dequantize_matrix, normalize

# Word pieces of a chunk, without [CLS] and [SEP]; gte-small was trained on up to 512.
CHUNK_PIECES = 254

# Chunks of a text, about 1,500 words; what follows is not read.
MAX_CHUNKS = 8

# Word pieces of a forward: bounds the memory. More of them are no faster.
BATCH_PIECES = 1_024

_WORDS = "text.bert.embeddings.word_embeddings.weight"


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """One text after the encoder.

    Attributes:
        ids: [T] word pieces.
        states: [T, 384].
        chunks: [C, 384], unit length.
    """

    ids: NDArray[np.int64]
    states: Floats
    chunks: Floats

    @property
    def vector(self) -> Floats:
        """The retrieval vector, [384]: the normalised mean of the chunks (of one chunk: the chunk's
        own).
        """
        return normalize(self.chunks.mean(0))


class ChunkTokenizer:
    """Cuts texts into chunks of word pieces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.cls = int(tokenizer.token_to_id("[CLS]") or 0)
        self.sep = int(tokenizer.token_to_id("[SEP]") or 0)

    @classmethod
    def from_folder(cls, folder: Path) -> ChunkTokenizer:
        """Return the word-piece tokenizer of a folder that holds `tokenizer.json`."""
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")))

    def chunk_ids(self, text: str, max_chunks: int = MAX_CHUNKS) -> list[list[int]]:
        """Return the word pieces of a text in chunks, each from [CLS] to [SEP]; an empty text is
        one empty chunk.
        """
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        pieces = encoding.ids[: max_chunks * CHUNK_PIECES]
        starts = range(0, max(len(pieces), 1), CHUNK_PIECES)
        return [[self.cls, *pieces[start : start + CHUNK_PIECES], self.sep] for start in starts]


class TextEncoder:
    """gte-small, a BERT without its pooler; no prefix is put before queries or texts."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._tokenizer = ChunkTokenizer.from_folder(checkpoint.folder)

        # A text looks up a few hundred of 30,522 rows, so these stay int8.
        self._words = checkpoint.tensor(_WORDS)  # [vocabulary, 384]
        self._word_scales = checkpoint.scale(_WORDS)  # [vocabulary]

    def encode(self, texts: Sequence[str], max_chunks: int = MAX_CHUNKS) -> list[EncodedText]:
        """Encode every text, chunk by chunk.

        Only chunks of one length share a batch: nothing is padded, and what a text becomes does not
        depend on the others.
        """
        chunk_lists = [self._tokenizer.chunk_ids(text, max_chunks) for text in texts]
        chunks = [chunk for chunk_list in chunk_lists for chunk in chunk_list]
        states: dict[int, Floats] = {}
        for batch in _batches_of_one_length(chunks):
            ids = np.array([chunks[index] for index in batch])  # [B, T]
            states.update(zip(batch, self._forward(ids), strict=True))

        in_order = (states[index] for index in range(len(chunks)))
        return [
            _assemble(chunk_list, [next(in_order) for _ in chunk_list])
            for chunk_list in chunk_lists
        ]

    def _forward(self, ids: NDArray[np.int64]) -> Floats:
        """[B, T] -> states [B, T, 384]."""
        rows = ids.ravel()
        scales = None if self._word_scales is None else self._word_scales[rows]
        words = dequantize_matrix(self._words[rows], scales)  # [B x T, 384]
        (states,) = self._checkpoint.run("text", {"words": words.reshape(*ids.shape, -1)})
        return states


def _batches_of_one_length(chunks: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the indices of chunks of one length, at most `BATCH_PIECES` word pieces at a time."""
    by_length = sorted(range(len(chunks)), key=lambda index: len(chunks[index]), reverse=True)
    for length, group in groupby(by_length, key=lambda index: len(chunks[index])):
        indices = list(group)
        count = max(1, BATCH_PIECES // length)
        for start in range(0, len(indices), count):
            yield indices[start : start + count]


def _assemble(chunk_ids: list[list[int]], states: list[Floats]) -> EncodedText:
    """Join the chunks of one text: ids and states [T, 384] of each."""
    ids = np.array([piece for chunk in chunk_ids for piece in chunk])  # [T]
    means = np.stack([state.mean(0) for state in states])  # [C, 384]
    return EncodedText(ids=ids, states=np.concatenate(states), chunks=normalize(means))
