"""Rankers that can be computed by hand."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import torch

from fakes.colours import colour_of, words
from llama_index_rnx.candidates import Candidate, Query

_numbers = itertools.count()


class FakeRanker:
    """Scores a candidate by the share of the query's words in its text; an image knows its
    colour's name. Counts its calls.
    """

    def __init__(
        self, name: str = "fake", window: int = 20, fingerprint: str | None = None
    ) -> None:
        self.name, self.window = name, window
        self.fingerprint = fingerprint or f"fake/{next(_numbers)}"
        self.remembered: list[str] = []
        self.reads: list[int] = []
        self._lock = threading.Lock()
        self.busy = 0
        self.most_busy = 0

    def remember(self, candidates: Sequence[Candidate]) -> list[dict[str, torch.Tensor]]:
        self.remembered.extend(candidate.id for candidate in candidates)
        return [{"words": _tensor(_words_of(candidate))} for candidate in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        self.reads.append(len(memories))
        asked = set(words(query.text)) | ({colour_of(query.image.load())} if query.image else set())
        scores = [
            len(asked & set(_text(memory["words"]).split())) / max(1, len(asked))
            for memory in memories
        ]
        with self._lock:
            self.busy -= 1
        return scores


class SharingRanker(FakeRanker):
    """Reads several windows at once; `shared` says how many each time."""

    def __init__(self, window: int = 20) -> None:
        super().__init__(window=window)
        self.shared: list[int] = []

    def score_many(self, asks: Sequence[Any]) -> list[list[float]]:
        self.shared.append(len(asks))
        return [self.score(query, memories) for query, memories in asks]


class BrokenRanker(FakeRanker):
    """Fails when it is asked for scores."""

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        raise RuntimeError("the ranker broke")


def _words_of(candidate: Candidate) -> str:
    return " ".join(
        [*words(candidate.text), *([colour_of(candidate.image.load())] if candidate.image else [])]
    )


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _text(tensor: torch.Tensor) -> str:
    return bytes(tensor.tolist()).decode()
