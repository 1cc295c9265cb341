"""A full disk, a real one (a small tmpfs): one line that says so, nothing half-written, and the
next run completes.

Mounting takes a privilege; where it is missing these tests are skipped. tests/memory/test_memory.py
fills a disk by other means.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result, Rnx
from fakes import RED, write_image
from warm import texts

from llama_index_rnx import NodeCollection
from llama_index_rnx.memory import RAM, MemoryStore

# The store says that it is full; that is no failure.
pytestmark = pytest.mark.filterwarnings("always::RuntimeWarning")
Resize = Callable[[int], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A folder that is a disk of its own, and what sets its size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")

    def resize(kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)

    yield folder, resize
    RAM.clear()
    subprocess.run(["umount", "-l", str(folder)], check=True)


def one_line(result: Result) -> str:
    """The error: a single line on stderr that starts so, exit code 2."""
    assert result.code == 2, result
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    return lines[0]


@pytest.mark.parametrize(
    "kib",
    [
        8,
        256,
        pytest.param(64, marks=pytest.mark.stress),
        pytest.param(700, marks=pytest.mark.stress),
    ],
)
def test_an_index_on_a_full_disk(
    kib: int, disk: tuple[Path, Resize], rnx: Rnx, tmp_path: Path
) -> None:
    folder, resize = disk
    source = tmp_path / "notes"
    source.mkdir()
    for i, text in enumerate(texts(100)):
        (source / f"note{i:03}.md").write_text(text * 5)
    resize(kib)
    line = one_line(rnx("index", source, "--to", folder / "index"))
    assert "full" in line or "space" in line, line
    resize(524_288)
    again = rnx("index", source, "--to", folder / "index")
    assert again.code == 0, again.err
    assert "100 nodes in" in again.err
    found = rnx("search", texts(100)[7], "--from", folder / "index", "-n", 1, "--format", "json")
    assert "note007.md" in found.out


def test_a_run_file_on_a_full_disk(disk: tuple[Path, Resize], rnx: Rnx, tmp_path: Path) -> None:
    folder, resize = disk
    rows = ",".join(
        f'{{"docid":"{"d" * 200}{i}","text":"{text}"}}' for i, text in enumerate(texts(400))
    )
    lists = tmp_path / "lists.jsonl"
    lists.write_text(f'{{"qid":"1","query":"bees","candidates":[{rows}]}}\n')
    line = one_line(rnx("rerank", lists, "--run", folder / "out.trec"))
    assert "space" in line, line
    assert list(folder.iterdir()) == []
    resize(4_096)
    assert rnx("rerank", lists, "--run", folder / "out.trec").code == 0
    assert len((folder / "out.trec").read_text().splitlines()) == 400


def test_memories_on_a_full_disk_are_kept_in_ram(disk: tuple[Path, Resize]) -> None:
    from fakes import FakeRanker

    from llama_index_rnx.candidates import Candidate
    from llama_index_rnx.ranking import get_or_compute_memories

    folder, resize = disk
    ranker, many = (
        FakeRanker(),
        [Candidate(id=str(i), text=f"{i} words " * 100) for i in range(200)],
    )
    store = MemoryStore(folder)
    with pytest.warns(RuntimeWarning, match="cannot be written .*full.*kept in RAM only"):
        found = get_or_compute_memories(ranker, many, store)
    assert len(found) == len(get_or_compute_memories(ranker, many, store)) == 200
    assert len(ranker.remembered) == 200
    store.close()
    RAM.clear()
    resize(8_192)
    get_or_compute_memories(ranker, many, MemoryStore(folder))
    RAM.clear()
    assert len(MemoryStore(folder).find(ranker.fingerprint, [one.digest for one in many])) == 200


def test_a_page_on_a_full_disk(disk: tuple[Path, Resize], rnx: Rnx, tmp_path: Path) -> None:
    """The demo's folder: pictures, index and page on a disk that is too small for them."""
    folder, _ = disk
    line = one_line(rnx("demo", "--folder", folder / "demo"))
    assert "space" in line or "full" in line, line


def test_a_collection_says_it_in_one_line(disk: tuple[Path, Resize], tmp_path: Path) -> None:
    from fakes import FakeEmbedding
    from llama_index.core.schema import ImageNode, TextNode

    from llama_index_rnx.errors import RNXError

    folder, resize = disk
    resize(128)
    nodes = [TextNode(id_=str(i), text=text) for i, text in enumerate(texts(200))]
    nodes.append(ImageNode(id_="picture", image_path=str(write_image(tmp_path / "red.png", RED))))
    collection = NodeCollection(folder / "index", embedding=FakeEmbedding(), ranker=None)
    with pytest.raises(RNXError, match="full") as caught:
        collection.add(nodes)
    assert "\n" not in str(caught.value)
    resize(524_288)
    written = collection.add(nodes)
    assert 0 < written <= 201
    assert len(collection) == 201
    collection.close()
