"""A folder whose files are cut off, emptied, removed, overwritten or flipped: one line, or an
answer; never the end of the process, and never a hang. Every action is a process of its own.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import Forked
from sizes import sizes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks are a matter of Unix")
NODES = 120


def cut(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as stream:
        stream.truncate(rng.randrange(path.stat().st_size or 1))


def emptied(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def removed(path: Path, rng: random.Random) -> None:
    path.unlink()


def flipped(path: Path, rng: random.Random) -> None:
    """Flip bits where there is data, and not in a hole."""
    with path.open("r+b") as stream:
        length = len(stream.read(2**20).rstrip(b"\0")) or 1
        for _ in range(rng.choice([1, 4, 32])):
            position = rng.randrange(length)
            stream.seek(position)
            byte = stream.read(1) or b"\0"
            stream.seek(position)
            stream.write(bytes([byte[0] ^ (1 << rng.randrange(8))]))


def overwritten(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as stream:
        stream.seek(rng.randrange(min(path.stat().st_size, 4_096) or 1))
        stream.write(rng.choice([bytes(64), rng.randbytes(64), bytes(4_096)]))


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    process = Forked()
    yield process
    process.close()


@pytest.fixture(scope="module")
def whole(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp("engine") / "index"
    assert forked.run("write", index, 0, NODES).value == NODES
    return index


@pytest.mark.parametrize("damage", [cut, emptied, removed, flipped, overwritten])
@pytest.mark.parametrize("times", sizes(3, 120))
def test_a_damaged_file_is_one_line(
    damage: Callable[[Path, random.Random], None],
    times: int,
    forked: Forked,
    whole: Path,
    tmp_path: Path,
) -> None:
    forked.run("copy", whole, tmp_path / "right")
    right = forked.run("use", tmp_path / "right", NODES).value
    files = sorted(p.relative_to(whole) for p in (whole / "edge").rglob("*") if p.is_file())
    outcomes: Counter[str] = Counter()
    for seed in range(times):
        rng, index = random.Random(seed), tmp_path / "index"
        forked.run("copy", whole, index)
        file = rng.choice(files)
        damage(index / file, rng)
        # As after a kill, where there is no list of the files to compare them with.
        is_closed = seed % 2 == 0
        if not is_closed:
            (index / "edge/rnx/closed.json").unlink(missing_ok=True)
        outcome = forked.run("use", index, NODES)
        assert outcome.code == 0, (seed, file, outcome)
        if outcome.error:
            assert str(index) in outcome.error
            assert "\n" not in outcome.error
            outcomes["told"] += 1
        else:
            outcomes["right" if outcome.value == right else "not seen"] += 1
            # What changes inside a large file without changing its size is not seen.
            is_small = (whole / file).stat().st_size <= 2**20
            assert outcome.value == right or not (is_closed and is_small), (seed, file)
        shutil.rmtree(index)
    print(f"{times} files {damage.__name__}: {dict(outcomes)}")


@pytest.mark.parametrize("name", ["collection.json", "closed.json", "shard/edge_config.json"])
def test_a_collection_with_a_damaged_file_is_never_replaced(
    name: str, forked: Forked, whole: Path, tmp_path: Path
) -> None:
    forked.run("copy", whole, tmp_path / "index")
    file = tmp_path / "index/edge/rnx" / name
    file.write_text("{")
    assert f"{file} is damaged" in forked.run("write", tmp_path / "index", 0, NODES).error
    if name != "closed.json":
        file.unlink()
        assert f"{file} is missing" in forked.run("write", tmp_path / "index", 0, NODES).error
    assert list((tmp_path / "index/edge/rnx/shard/segments").iterdir())


def test_a_list_of_files_is_no_trap_after_a_kill(
    forked: Forked, whole: Path, tmp_path: Path
) -> None:
    """A killed process leaves no list, and nothing is compared that it may have changed."""
    forked.run("copy", whole, tmp_path / "index")
    forked.run("write", tmp_path / "index", NODES, 1_000, kill_after=0.5)
    assert not forked.run("use", tmp_path / "index", NODES).error
