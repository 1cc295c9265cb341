"""`rnx index` killed at random points: after a last run nothing is lost, nothing doubled, and all
is as if undisturbed.

The small twins, with a fake model and a few kills, are in tests/ingestion/test_indexing.py.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, write_image, write_pdf
from warm import KILLED, Warm, texts

from llama_index_rnx.collection.edge import EdgeClient
from llama_index_rnx.collection.schema import EDGE
from llama_index_rnx.memory.sqlite_backend import FILE_NAME

NOTES, PICTURES, PAGES = 64, 3, 2  # three batches
KILLS = 50


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    process = Warm()
    yield process
    process.close()


@dataclass(frozen=True, kw_only=True)
class Index:
    """All that a run left: payloads and vectors by point id, and the stored memories by key."""

    points: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    memories: dict[bytes, bytes]

    def same_as(self, other: Index, older_memories: bool) -> None:
        """Ids, payloads and memories are the same; vectors up to what bfloat16 rounds otherwise in
        other company.
        """
        assert self.points.keys() == other.points.keys()
        for point, (payload, vectors) in self.points.items():
            assert payload == other.points[point][0]
            assert vectors.keys() == other.points[point][1].keys()
            for name, vector in vectors.items():
                assert _cosine(_dense(vector), _dense(other.points[point][1][name])) > 0.9999
        extra = self.memories.keys() - other.memories.keys()
        assert other.memories.keys() <= self.memories.keys()
        assert older_memories or not extra


def _dense(vector: Any) -> Any:
    return np.asarray(vector if isinstance(vector, list) else [*vector.indices, *vector.values])


def _cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def opened(folder: Path) -> Index:
    client = EdgeClient(folder / EDGE)
    try:
        found, _ = client.scroll("rnx", limit=10_000, with_vectors=True)
    finally:
        client.close()
    connection = sqlite3.connect(folder / "memories" / FILE_NAME)
    memories = dict(connection.execute("SELECT key, data FROM memories").fetchall())
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    points: Any = {str(point.id): (point.payload, point.vector) for point in found}
    return Index(points=points, memories=memories)


def corpus(folder: Path, edition: int) -> Path:
    """Write notes, images and a PDF; the second edition changes a third and lengthens the PDF."""
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(texts(NOTES)):
        if edition == 1 or i % 3 == 0:
            (folder / f"note{i:02}.md").write_text(
                text + (" It was changed." if edition == 2 else "")
            )
    for i in range(PICTURES):
        if edition == 1 or i % 3 == 0:
            write_image(
                folder / f"picture{i}.png", (RED, GREEN, BLUE)[(i + edition) % 3], (20 + i, 30)
            )
    write_pdf(
        folder / "booklet.pdf", [f"Page {i} of edition {edition}" for i in range(PAGES + edition)]
    )
    moment = 1_700_000_000 + edition
    for path in folder.iterdir():
        os.utime(path, (moment, moment))
    return folder


@pytest.mark.stress
def test_killed_fifty_times(warm: Warm, tmp_path: Path) -> None:
    rng, log = random.Random(KILLS), tmp_path / "log.txt"
    whole, spent = [], []
    for edition in (1, 2):  # as it is when nobody kills: a fresh index of each edition
        source = corpus(tmp_path / "corpus", edition)
        start = time.monotonic()
        assert warm.run("index", source, "--to", tmp_path / f"whole{edition}", log=log) == 0, (
            log.read_text()
        )
        spent.append(time.monotonic() - start)
        whole.append(opened(tmp_path / f"whole{edition}"))
    done = rounds = 0
    while done < KILLS:
        index, edition = tmp_path / f"index{rounds}", 1 + rounds % 2
        if edition == 2:  # an index of the first edition, whole, that is brought up to the second
            corpus(tmp_path / "corpus", 1)
            assert warm.run("index", source, "--to", index, log=log) == 0, log.read_text()
        corpus(tmp_path / "corpus", edition)
        for _ in range(rng.randint(1, 3)):
            done += _killed(warm, rng, spent[edition - 1], "index", source, "--to", index, log=log)
        assert warm.run("index", source, "--to", index, log=log) == 0, log.read_text()
        opened(index).same_as(whole[edition - 1], older_memories=edition == 2)
        shutil.rmtree(index)
        rounds += 1
    assert "Traceback" not in log.read_text()
    print(f"{done} kills in {rounds} indexes; an undisturbed run took {spent[0]:.1f} s")


def _killed(warm: Warm, rng: random.Random, seconds: float, *arguments: object, log: Path) -> bool:
    """By the clock, or before a write; a run that ended before its kill does not count."""
    if rng.random() < 0.5:
        return warm.run(*arguments, log=log, kill_after=rng.uniform(0.0, seconds)) == KILLED
    return warm.run(*arguments, log=log, die_at=rng.randint(1, 400)) == KILLED
