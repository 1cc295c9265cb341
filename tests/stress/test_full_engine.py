"""The engine of a folder on a full disk, at every amount of free room: one line and never the end
of the process, which a page without room in a mapped file would be; with room the next run
completes.

Two real disks: one in RAM (tmpfs), where a hole that is read takes room, and an ext4 in a file.
Mounting takes a privilege; where it is missing these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Forked, Outcome, write_local_index
from sizes import sizes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it mounts disks")
NODES = 100
DISK = 512 * 2**20
SMALL = [64]
FULL = [0, 4, 16, 64, 256, 1_024, 2_048, *range(4_096, 102_401, 8_192)]


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    process = Forked()
    yield process
    process.close()


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs"]
    if request.param == "ext4":
        with image.open("wb") as stream:
            stream.truncate(DISK)
        if not shutil.which("mkfs.ext4"):
            pytest.skip("no mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        options = ["-o", "loop", str(image)]
    mounted = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def fill(disk: Path, kib: int) -> Path:
    """Leave so many KiB free, and return the file that takes the others."""
    filler, size = disk / "filler", 0
    os.sync()
    with filler.open("wb") as stream:
        while free(disk) > 1_024 * kib:
            step = max(4_096, (free(disk) - 1_024 * kib) // 2 // 4_096 * 4_096)
            try:
                os.posix_fallocate(stream.fileno(), size, step)
            except OSError:
                break
            size += step
    return filler


def check(outcome: Outcome, kib: int) -> bool:
    """Return whether an action went through; what did not says why in one line."""
    if outcome.error:
        assert "\n" not in outcome.error, (kib, outcome)
        assert "full" in outcome.error or "No space" in outcome.error, (kib, outcome)
    return not outcome.error


@pytest.mark.parametrize("amounts", sizes(SMALL, FULL))
def test_an_index_on_a_full_disk(
    amounts: list[int], disk: Path, forked: Forked, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    forked.run("write", whole, 0, NODES)
    done = {"made": [], "opened": [], "written": []}  # type: dict[str, list[int]]
    for kib in amounts:
        filler = fill(disk, kib)
        if check(forked.run("write", disk / "new", 0, NODES), kib):
            done["made"].append(kib)
        filler.unlink()
        assert forked.run("write", disk / "new", 0, NODES).value == NODES
        assert forked.run("look", disk / "new", NODES).value == [f"n{i}" for i in range(NODES)]
        shutil.rmtree(disk / "new")

        forked.run("copy", whole, disk / "old")
        filler = fill(disk, kib)
        if check(forked.run("look", disk / "old", NODES), kib):
            done["opened"].append(kib)
        if check(forked.run("write", disk / "old", NODES, 3 * NODES), kib):
            done["written"].append(kib)
        filler.unlink()
        assert forked.run("write", disk / "old", 0, 3 * NODES).value == 3 * NODES
        held = forked.run("look", disk / "old", 3 * NODES).value
        assert held == [f"n{i}" for i in range(3 * NODES)]
        shutil.rmtree(disk / "old")
    print({what: f"from {min(kibs)} KiB" if kibs else "never" for what, kibs in done.items()})
    assert amounts == SMALL or all(done.values())


@pytest.mark.parametrize("amounts", sizes(SMALL, FULL))
def test_a_conversion_on_a_full_disk(
    amounts: list[int], disk: Path, forked: Forked, tmp_path: Path
) -> None:
    write_local_index(tmp_path / "old", NODES)
    converted = []
    for kib in amounts:
        forked.run("copy", tmp_path / "old", disk / "old")
        before = {p.name for p in (disk / "old").iterdir()}
        filler = fill(disk, kib)
        outcome = forked.run("look", disk / "old", NODES)
        if check(outcome, kib):
            converted.append(kib)
        elif (disk / "old/meta.json").exists():
            assert {p.name for p in (disk / "old").iterdir()} == before | {".lock"}
        filler.unlink()
        held = forked.run("look", disk / "old", NODES).value
        assert held == [f"n{i}" for i in range(NODES)]
        shutil.rmtree(disk / "old")
    print(f"converted from {min(converted, default=None)} KiB")
