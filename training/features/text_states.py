"""The token states of the frozen text encoder for every training text, computed once and kept in
blocks on disk. It knows no training.

A text is kept as the scorer's memory before its learned projection: compressed states, distinct
word pieces, chunks.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_index_rnx.console import progress_bar
from llama_index_rnx.rankers.mini import LAST_SPECIAL, ScorerConfig
from llama_index_rnx.system import atomic_write
from training.data import GradedList
from training.mini import EncodedText, TextEncoder, compress_tokens, distinct_pieces

BLOCK = 2_048  # texts a file: what a killed run loses at most
TEXTS_AT_ONCE = 256  # bounds the full states in memory
COUNTED_AT_ONCE = 4_096

# Stands in front of a query, which has an entry of its own.
QUERY_PREFIX = "query:"

_FIELDS = ("states", "pieces", "counts", "chunks")


@dataclass(frozen=True, kw_only=True)
class CachedText:
    """One text. states: [<= slots, 384] fp16 (of a query: every token, with specials); pieces,
    counts: [L]; chunks: [C, 384].
    """

    states: Tensor
    pieces: Tensor
    counts: Tensor
    chunks: Tensor


class TextStateCache:
    """A folder of blocks: `fill` adds what is missing, `[text]` reads. A query is stored under
    `query:` and its text.

    Args:
        folder: of the blocks.
        weights: of the word pieces, [vocabulary], 0..1 (see `idf`).
        config: how many slots and pieces a text keeps.
    """

    def __init__(
        self, folder: Path, weights: Tensor, config: ScorerConfig = ScorerConfig()
    ) -> None:
        self.folder = folder
        self.weights = weights
        self.config = config
        self.entries: dict[str, CachedText] = {}

        folder.mkdir(parents=True, exist_ok=True)
        for block in self._blocks():
            self._open(block)

    def __getitem__(self, text: str) -> CachedText:
        return self.entries[_key(text)]

    def __contains__(self, text: str) -> bool:
        return _key(text) in self.entries

    def fill(self, tower: TextEncoder, texts: Iterable[str], label: str) -> None:
        """Encode and write the texts that are not cached yet, block by block."""
        missing = [text for text in dict.fromkeys(texts) if text not in self]
        # Texts of one length share a batch; the encoder's own cut keeps blocks balanced.
        missing.sort(key=len)
        with progress_bar(label, len(missing), "texts") as advance:
            for start in range(0, len(missing), BLOCK):
                block = missing[start : start + BLOCK]
                self._write(tower, block)
                advance(len(block))

    def _write(self, tower: TextEncoder, texts: Sequence[str]) -> None:
        entries: list[CachedText] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            batch = texts[start : start + TEXTS_AT_ONCE]
            encoded = tower.encode([text.removeprefix(QUERY_PREFIX) for text in batch])
            entries += [self._entry(*pair) for pair in zip(batch, encoded, strict=True)]

        tensors = {}
        for name in _FIELDS:
            column = [getattr(entry, name) for entry in entries]
            tensors[name] = torch.cat(column)
            tensors[f"size_{name}"] = torch.tensor([len(value) for value in column])

        block = self.folder / f"block-{len(self._blocks()):04d}.safetensors"
        with atomic_write(block) as partial:
            save_file(tensors, partial, metadata={"keys": " ".join(map(_key, texts))})
        self._open(block)

    def _entry(self, text: str, encoded: EncodedText) -> CachedText:
        ids = encoded.ids
        if text.startswith(QUERY_PREFIX):
            return CachedText(
                states=encoded.states.half(),
                pieces=ids.int(),
                counts=ids.int(),
                chunks=encoded.chunks.half(),
            )
        pieces, counts = distinct_pieces(ids, self.weights, self.config.lexicon)
        states = compress_tokens(encoded.states, ids, self.weights, self.config.slots)
        return CachedText(
            states=states.half(),
            pieces=pieces.int(),
            counts=counts.int(),
            chunks=encoded.chunks.half(),
        )

    def _blocks(self) -> list[Path]:
        return sorted(self.folder.glob("block-*.safetensors"))

    def _open(self, block: Path) -> None:
        with safe_open(block, "pt") as file:
            keys = file.metadata()["keys"].split()
        tensors = load_file(block)
        columns = [torch.split(tensors[name], tensors[f"size_{name}"].tolist()) for name in _FIELDS]
        for key, *row in zip(keys, *columns, strict=True):
            self.entries[key] = CachedText(**dict(zip(_FIELDS, row, strict=True)))


def idf(tower: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Return weights of the word pieces, [vocabulary], 0..1: log(1 + texts / texts with the piece)
    over its largest value; specials have 0.
    """
    texts_with: Counter[int] = Counter()
    for start in range(0, len(texts), COUNTED_AT_ONCE):
        batch = list(texts[start : start + COUNTED_AT_ONCE])
        for encoding in tower.tokenizer.encode_batch(batch, add_special_tokens=False):
            texts_with.update(set(encoding.ids))

    frequency = torch.zeros(tower.config.vocabulary)
    counts = torch.tensor([float(count) for count in texts_with.values()])
    frequency[torch.tensor(list(texts_with))] = counts

    largest = torch.tensor(1 + float(len(texts))).log()
    weights = (1 + len(texts) / (frequency + 1)).log() / largest
    weights[: LAST_SPECIAL + 1] = 0.0
    return weights


def texts_of(lists: Iterable[GradedList]) -> list[str]:
    """Return all queries, with their prefix, and all candidates' texts."""
    return [
        text
        for graded_list in lists
        for text in (f"{QUERY_PREFIX}{graded_list.query}", *graded_list.texts)
    ]


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
