"""The engine of a folder among processes, forks and threads, on read-only files, and in place of
indexes that earlier versions made. Kills, damage and full disks are in tests/stress.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from qdrant_client import QdrantClient

from llama_index_rnx import NodeCollection
from llama_index_rnx.candidates import Query
from llama_index_rnx.collection import folders
from llama_index_rnx.collection.edge import EdgeClient, EdgeError
from llama_index_rnx.errors import StorageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and modes of Unix")
SUBJECTS = ["bees", "iron", "moon", "bread"]


def nodes(start: int, stop: int) -> list[TextNode]:
    return [
        TextNode(id_=f"n{i}", text=f"{SUBJECTS[i % 4]} and number{i}", metadata={"parity": i % 2})
        for i in range(start, stop)
    ]


def opened(location: Any, name: str = "rnx") -> NodeCollection:
    return NodeCollection(location, name=name, embedding=FakeEmbedding(), ranker=None)


def write_old_index(folder: Path, count: int, *names: str) -> list[Any]:
    """Write an index as earlier versions made it, and return its answers."""
    client = QdrantClient(path=str(folder))
    found = []
    for name in names:
        collection = opened(client, name)
        collection.add(nodes(0, count), show_progress=False)
        found.append(answers(collection))
        collection.close()
    client.close()
    return found


def answers(collection: NodeCollection) -> Any:
    """Return counts, nodes, and what is first for many queries, with and without a filter."""
    even = MetadataFilters(filters=[MetadataFilter(key="parity", value=0)])
    tops = [
        [(hit.node_id, round(hit.score, 5)) for hit in collection.search(query, 1, filters)]
        for i in range(0, len(collection), 4)
        for query in [Query(text=f"{SUBJECTS[i % 4]} and number{i}")]
        for filters in (None, even)
    ]
    texts = [(node.node_id, node.metadata) for node in collection.get([f"n{i}" for i in range(99)])]
    return len(collection), texts, tops


def in_fork(action: Callable[[], Any]) -> int:
    """Return the exit code of an action in a fork: 0 for True, 1 for anything else."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)
            code = 0 if action() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refused(action: Callable[[], Any], words: str) -> bool:
    try:
        action()
    except StorageError as error:
        return words in str(error)
    return False


def test_a_fork_can_neither_use_nor_damage_what_its_parent_has_open(tmp_path: Path) -> None:
    collection = opened(tmp_path / "index")
    collection.add(nodes(0, 40), show_progress=False)
    memory = opened(":memory:")
    memory.add(nodes(0, 8), show_progress=False)

    for action in (
        lambda: refused(lambda: len(collection), "is a fork"),
        lambda: refused(lambda: memory.add(nodes(8, 9)), "is a fork"),
        lambda: refused(lambda: opened(tmp_path / "index"), f"process {os.getppid()}"),
        # Closed or dropped: the engine would flush what the parent goes on writing.
        lambda: [collection.close(), memory.close()],
        lambda: collection.__dict__.clear() or memory.__dict__.clear() or True,
    ):
        assert in_fork(action) == 0
        collection.add(nodes(len(collection), len(collection) + 10), show_progress=False)
    assert len(memory) == 8
    memory.close()
    collection.close()

    again = opened(tmp_path / "index")
    assert len(again) == 90
    assert len(again.get([f"n{i}" for i in range(90)])) == 90
    again.close()


def test_a_second_process_is_told_who_has_it_and_gets_it_after_a_crash(tmp_path: Path) -> None:
    script = (
        "import sys; from fakes import FakeEmbedding; from llama_index_rnx import NodeCollection\n"
        "c = NodeCollection(sys.argv[1], embedding=FakeEmbedding(), ranker=None)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "index")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(StorageError, match=f"in use by process {owner.pid} .*wait for it"):
            opened(tmp_path / "index")
        owner.kill()
    opened(tmp_path / "index").close()


def test_many_threads_at_once(tmp_path: Path) -> None:
    collection = opened(tmp_path / "index")
    collection.add(nodes(0, 20), show_progress=False)

    def work(number: int) -> None:
        start = 100 * number
        collection.add(nodes(start, start + 20), show_progress=False)
        collection.search(Query(text="bees"), k=5)
        collection.delete([f"n{start + 1}"])
        collection._index.call(lambda client: client.optimize("rnx"))
        again = opened(tmp_path / "index")
        assert again.get([f"n{start}"])
        again.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 17)))
    assert len(collection) == 20 + 16 * 19
    collection.close()
    with pytest.raises(StorageError, match="was closed"):
        len(collection)


def test_threads_that_open_one_folder_share_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def open_at_once(_: int) -> NodeCollection:
        barrier.wait()
        return opened(tmp_path / "index")

    with ThreadPoolExecutor(8) as pool:
        collections = list(pool.map(open_at_once, range(8)))
    for collection in collections:
        collection.close()
    opened(tmp_path / "index").close()


class PanicException(BaseException):
    """Named as the engine's."""


def test_an_engine_that_panicked_is_not_used_again(tmp_path: Path) -> None:
    collection = opened(tmp_path / "index")
    collection.add(nodes(0, 3), show_progress=False)
    collection.close()

    client = EdgeClient(tmp_path / "index" / "edge")
    assert client.count("rnx").count == 3

    def panic(_: object) -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(EdgeError, match="out of bounds"):
        client._engine("rnx").run(panic)
    with pytest.raises(EdgeError, match="has stopped: index out of bounds"):
        client.count("rnx")
    client.close()


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that cannot be written; the superuser may write everywhere, so it is said."""
    collection = opened(tmp_path / "index")
    collection.add(nodes(0, 40), show_progress=False)
    collection.close()
    monkeypatch.setattr(folders, "is_read_only", lambda folder: True)
    return tmp_path / "index"


def test_a_read_only_index_is_copied_once_and_the_copy_is_removed(
    read_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    before = {path: path.stat().st_mtime_ns for path in read_only.rglob("*")}
    with caplog.at_level(logging.WARNING):
        collection, again = opened(read_only), opened(read_only)
    assert [" MiB are copied to " in line for line in caplog.messages] == [True]
    assert collection.search(Query(text="number7"), k=1)[0].node_id == "n7"
    (copy,) = place.iterdir()
    sizes = [(path.stat().st_size, 512 * path.stat().st_blocks) for path in copy.rglob("*")]
    assert sum(blocks for _, blocks in sizes) < sum(size for size, _ in sizes) / 10
    collection.close()
    again.close()
    assert not list(place.iterdir())
    assert before == {path: path.stat().st_mtime_ns for path in read_only.rglob("*")}


def test_a_copy_without_room_is_one_line(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(folders, "copy_sparse", full)
    with pytest.raises(StorageError, match=r"read-only.*No space left.*TMPDIR") as caught:
        opened(read_only)
    assert "\n" not in str(caught.value)
    del caught
    assert not list(place.iterdir())


def test_a_converted_index_answers_as_before(tmp_path: Path) -> None:
    names = ["rnx", "an odd näme", ".hidden", "x" * 200]
    before = write_old_index(tmp_path / "old", 48, *names)
    for _ in range(2):
        for name, expected in zip(names, before, strict=True):
            collection = opened(tmp_path / "old", name)
            assert answers(collection) == expected
            collection.close()
    assert not (tmp_path / "old/meta.json").exists()
    assert not (tmp_path / "old/collection").exists()


def test_an_empty_old_index_is_converted(tmp_path: Path) -> None:
    write_old_index(tmp_path / "old", 0)
    (tmp_path / "old/meta.json").write_text('{"collections": {}, "aliases": {}}')
    collection = opened(tmp_path / "old")
    assert collection.add(nodes(0, 4), show_progress=False) == 4
    collection.close()


def unfinished(folder: Path) -> None:
    (folder / "edge.new/rnx/shard").mkdir(parents=True)
    (folder / "edge.new/rnx/shard/half").write_text("x")


def hidden(folder: Path) -> None:
    unfinished(folder)
    (folder / "meta.json").rename(folder / "meta.json.converted")


@pytest.mark.parametrize("state", [unfinished, hidden])
def test_a_conversion_that_was_killed_begins_anew(
    state: Callable[[Path], None], tmp_path: Path
) -> None:
    (expected,) = write_old_index(tmp_path / "old", 20, "rnx")
    state(tmp_path / "old")
    collection = opened(tmp_path / "old")
    assert answers(collection) == expected
    collection.close()
    assert not {"edge.new", "meta.json.converted", "collection"} & set(os.listdir(tmp_path / "old"))


def test_a_conversion_that_was_killed_while_it_cleared_up_goes_on(tmp_path: Path) -> None:
    (expected,) = write_old_index(tmp_path / "old", 20, "rnx")
    shutil.copytree(tmp_path / "old/collection", tmp_path / "collection")
    opened(tmp_path / "old").close()
    (tmp_path / "collection").rename(tmp_path / "old/collection")
    (tmp_path / "old/meta.json.converted").write_text("{}")
    collection = opened(tmp_path / "old")
    assert answers(collection) == expected
    collection.close()
    assert not {"meta.json.converted", "collection"} & set(os.listdir(tmp_path / "old"))


def test_an_older_version_that_comes_back_destroys_nothing(tmp_path: Path) -> None:
    (expected,) = write_old_index(tmp_path / "old", 20, "rnx")
    opened(tmp_path / "old").close()
    write_old_index(tmp_path / "old", 4, "rnx")
    collection = opened(tmp_path / "old")
    assert answers(collection) == expected
    collection.close()


def cut_points(folder: Path) -> None:
    file = folder / "collection/rnx/storage.sqlite"
    os.truncate(file, file.stat().st_size // 2)


def cut_settings(folder: Path) -> None:
    (folder / "meta.json").write_text('{"collections": {"rnx": ')


def hostile_points(folder: Path) -> None:
    with sqlite3.connect(folder / "collection/rnx/storage.sqlite") as connection:
        pickled = f"cos\nsystem\n(S'touch {folder}/ran'\ntR.".encode()
        connection.execute("UPDATE points SET point = ? WHERE rowid = 3", (pickled,))
    connection.close()


def escaping_name(folder: Path) -> None:
    settings = json.loads((folder / "meta.json").read_text())
    settings["collections"]["../../away"] = settings["collections"]["rnx"]
    (folder / "meta.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("damage", [cut_points, cut_settings, hostile_points, escaping_name])
def test_a_damaged_old_index_is_one_line_and_left_as_it_was(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    write_old_index(folder, 40, "rnx")
    damage(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError) as caught:
        opened(folder)
    assert str(folder) in str(caught.value)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {**after, folder / ".lock": b""} == {**before, folder / ".lock": b""}


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    assert not [path for pid, path in list(folders._connections) if pid == os.getpid()]
