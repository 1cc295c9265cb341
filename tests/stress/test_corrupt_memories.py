"""A memory file damaged at random: what comes out of the store is right or made again, and never an
error.
"""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from fakes import FakeRanker
from sizes import sizes

from llama_index_rnx.candidates import Candidate
from llama_index_rnx.memory import RAM, MemoryStore
from llama_index_rnx.memory.sqlite_backend import FILE_NAME
from llama_index_rnx.ranking import get_or_compute_memories

TEXTS = [Candidate(id=str(i), text=f"text number {i} " * (1 + i % 40)) for i in range(120)]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, FakeRanker, list[torch.Tensor]]:
    """A store on disk, its ranker, and what it remembers."""
    ranker, store = FakeRanker(fingerprint="fixed"), MemoryStore(tmp_path / "whole")
    found = [memory["words"] for memory in get_or_compute_memories(ranker, TEXTS, store)]
    store.close()
    RAM.clear()
    return tmp_path / "whole", ranker, found


def flipped(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 3, 30, 300])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def zeroed(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    length = min(rng.choice([10, 512, 4_096, 20_000]), len(data) - start)
    data[start : start + length] = bytes(length)


def pages_swapped(data: bytearray, rng: random.Random) -> None:
    """As a disk does that writes a page to the wrong place."""
    count = len(data) // 4_096
    one, other = (4_096 * rng.randrange(1, count) for _ in range(2))
    data[one : one + 4_096], data[other : other + 4_096] = (
        data[other : other + 4_096],
        data[one : one + 4_096],
    )


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, pages_swapped])
@pytest.mark.parametrize("times", sizes(10, 250))
def test_damage_is_seen_and_made_good(
    damage: object, times: int, kept: tuple[Path, FakeRanker, list[torch.Tensor]], tmp_path: Path
) -> None:
    whole, ranker, expected = kept
    made, kept_bytes = 0, (whole / FILE_NAME).read_bytes()
    for seed in range(times):
        folder, data = tmp_path / "damaged", bytearray(kept_bytes)
        damage(data, random.Random(seed))  # type: ignore[operator]
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(data)
        before = len(ranker.remembered)
        for _ in range(2):  # with what is left of it, and after it was mended
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                store = MemoryStore(folder)
                found = get_or_compute_memories(ranker, TEXTS, store)
                store.close()
            assert all(
                torch.equal(memory["words"], right)
                for memory, right in zip(found, expected, strict=True)
            ), seed
            RAM.clear()
        made += len(ranker.remembered) - before
        shutil.rmtree(folder)
    print(
        f"{times} files damaged ({getattr(damage, '__name__', '')}): "
        f"{made / times:.0f} of {2 * len(TEXTS)} memories made again"
    )
