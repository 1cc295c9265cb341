"""What the frozen text tower says of every training text, computed once and kept in blocks on disk.
It knows no lists.

A text is kept as the reader's memory before its learned projection: compressed states, distinct
word pieces, chunks.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_index_rnx.rankers.mini import (
    LAST_SPECIAL,
    EncodedText,
    ScorerConfig,
    TextEncoder,
    compress_tokens,
    distinct_pieces,
)
from training.data import GradedList

BLOCK = 2_048  # texts a file: what a killed run loses at most
STEP = 256  # texts a call of the tower: bounds the full states in memory


@dataclass(frozen=True, kw_only=True)
class CachedText:
    """states: [<= slots, 384] fp16 (of a query: every token, with specials); pieces, counts: [L];
    chunks: [C, 384].
    """

    states: Tensor
    pieces: Tensor
    counts: Tensor
    chunks: Tensor


class TextStateCache:
    """A folder of blocks; `fill` adds what is missing, `[text]` reads. `query:` in front makes a
    query's own entry.
    """

    def __init__(
        self, folder: Path, weights: Tensor, config: ScorerConfig = ScorerConfig()
    ) -> None:
        self.folder, self.weights, self.config = folder, weights, config
        self.entries: dict[str, CachedText] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for block in sorted(folder.glob("block-*.safetensors")):
            self._open(block)

    def __getitem__(self, text: str) -> CachedText:
        return self.entries[_key(text)]

    def __contains__(self, text: str) -> bool:
        return _key(text) in self.entries

    def fill(self, tower: TextEncoder, texts: Iterable[str], label: str) -> None:
        """Encode what is not there yet, block by block, with a line of progress for each."""
        missing = [text for text in dict.fromkeys(texts) if text not in self]
        missing.sort(
            key=len
        )  # texts of one length share a batch; blocks stay balanced by the tower's own cut
        started = time.time()
        for start in range(0, len(missing), BLOCK):
            self._write(tower, missing[start : start + BLOCK])
            done, rate = min(start + BLOCK, len(missing)), (start + BLOCK) / (time.time() - started)
            print(
                f"{label}: {done}/{len(missing)} texts, {rate:.0f}/s, {(len(missing) - done) / rate:.0f} s left",
                flush=True,
            )

    def _write(self, tower: TextEncoder, texts: Sequence[str]) -> None:
        found = []
        for start in range(0, len(texts), STEP):
            step = texts[start : start + STEP]
            encoded = tower.encode([text.removeprefix("query:") for text in step])
            found += [self._entry(text, of) for text, of in zip(step, encoded, strict=True)]
        block = (
            self.folder
            / f"block-{len(list(self.folder.glob('block-*.safetensors'))):04d}.safetensors"
        )
        part = block.with_suffix(".part")
        names = ("states", "pieces", "counts", "chunks")
        tensors = {name: torch.cat([getattr(entry, name) for entry in found]) for name in names}
        sizes = {
            f"size_{name}": torch.tensor([len(getattr(entry, name)) for entry in found])
            for name in names
        }
        save_file({**tensors, **sizes}, part, metadata={"keys": " ".join(map(_key, texts))})
        part.rename(block)
        self._open(block)

    def _entry(self, text: str, encoded: EncodedText) -> CachedText:
        ids, states = encoded.ids, encoded.states
        if text.startswith("query:"):
            return CachedText(
                states=states.half(),
                pieces=ids.int(),
                counts=ids.int(),
                chunks=encoded.chunks.half(),
            )
        pieces, counts = distinct_pieces(ids, self.weights, self.config.lexicon)
        states = compress_tokens(states, ids, self.weights, self.config.slots)
        return CachedText(
            states=states.half(),
            pieces=pieces.int(),
            counts=counts.int(),
            chunks=encoded.chunks.half(),
        )

    def _open(self, block: Path) -> None:
        with safe_open(block, "pt") as file:
            keys = file.metadata()["keys"].split()
        tensors = load_file(block)
        names = ("states", "pieces", "counts", "chunks")
        columns = [torch.split(tensors[name], tensors[f"size_{name}"].tolist()) for name in names]
        for key, *row in zip(keys, *columns, strict=True):
            self.entries[key] = CachedText(**dict(zip(names, row, strict=True)))


def idf(tower: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Weights of the word pieces, 0..1: log(1 + texts / texts with it) over its largest value;
    specials have 0.
    """
    found: Counter[int] = Counter()
    for start in range(0, len(texts), 4_096):
        for encoding in tower.tokenizer.encode_batch(
            list(texts[start : start + 4_096]), add_special_tokens=False
        ):
            found.update(set(encoding.ids))
    frequency = torch.zeros(tower.config.vocabulary)
    frequency[torch.tensor(list(found))] = torch.tensor([float(count) for count in found.values()])
    weights = (1 + len(texts) / (frequency + 1)).log() / torch.tensor(1 + float(len(texts))).log()
    weights[: LAST_SPECIAL + 1] = 0.0
    return weights


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def texts_of(lists: Iterable[GradedList]) -> list[str]:
    """Queries (with their prefix) and candidates."""
    return [text for of in lists for text in (f"query:{of.query}", *of.texts)]
