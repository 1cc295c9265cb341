"""The store of memories: computed once, kept for good, and no fault of the disk stops the work."""

from __future__ import annotations

import errno
import re
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeRanker

from llama_index_rnx import RNXError
from llama_index_rnx.candidates import Candidate
from llama_index_rnx.memory import (
    FILE_NAME,
    RAM,
    MemoryStore,
    RamCache,
    are_memories,
    object_backend,
)
from llama_index_rnx.memory.arrays import encode
from llama_index_rnx.memory.checksums import checksum
from llama_index_rnx.ranking import BatchingRanker, get_or_compute_memories
from llama_index_rnx.ranking.memories import REMEMBER_AT_ONCE


@pytest.fixture(autouse=True)
def _empty_ram() -> Iterator[None]:
    RAM.clear()
    yield
    RAM.clear()


def candidates(count: int = 3, start: int = 0) -> list[Candidate]:
    return [Candidate(id=f"c{i}", text=f"text number {i}") for i in range(start, start + count)]


def memory(*numbers: float) -> dict[str, torch.Tensor]:
    return {"vector": torch.tensor(numbers)}


def test_a_memory_is_made_once(tmp_path: Path) -> None:
    ranker, store = FakeRanker(), MemoryStore(tmp_path)
    first = get_or_compute_memories(ranker, candidates(), store)
    second = get_or_compute_memories(ranker, candidates(5), store)
    assert ranker.remembered == ["c0", "c1", "c2", "c3", "c4"]
    assert all(torch.equal(a["words"], b["words"]) for a, b in zip(first, second, strict=False))


def test_equal_contents_share_a_memory_and_keep_their_places(tmp_path: Path) -> None:
    ranker = FakeRanker()
    same = [
        Candidate(id="a", text="one"),
        Candidate(id="b", text="two"),
        Candidate(id="c", text="one"),
    ]
    found = get_or_compute_memories(ranker, same, MemoryStore(tmp_path))
    assert len(ranker.remembered) == 2
    assert torch.equal(found[0]["words"], found[2]["words"])
    assert not torch.equal(found[0]["words"], found[1]["words"])


def test_it_survives_a_reopen(tmp_path: Path) -> None:
    ranker, store = FakeRanker(), MemoryStore(tmp_path)
    get_or_compute_memories(ranker, candidates(), store)
    store.close()
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore(tmp_path))
    assert len(ranker.remembered) == 3


def test_tensors_come_back_bit_by_bit(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    kept = {
        "half": torch.randn(3, 4).half(),
        "small": torch.randint(-127, 127, (2, 3), dtype=torch.int8),
        "none": torch.zeros(0, 5),
        "int16": torch.tensor([-30000, 30000], dtype=torch.int16),
    }
    store.keep("f", {"d": kept})
    RAM.clear()
    found = store.find("f", ["d"])["d"]
    assert set(found) == set(kept)
    assert all(
        torch.equal(found[name], kept[name]) and found[name].dtype == kept[name].dtype
        for name in kept
    )


NUMPY_MEMORY = {
    "half": np.linspace(-1, 1, 12, dtype=np.float16).reshape(3, 4),
    "columns": np.arange(6, dtype=np.int8).reshape(2, 3).T,
    "backwards": np.arange(4, dtype=np.float32)[::-1],
    "big endian": np.arange(3, dtype=">i2"),
    "none": np.zeros((0, 5), np.float32),
    "scalar": np.array(3),
    "flags": np.array([True, False]),
}


def test_arrays_of_numpy_come_back_number_by_number(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.keep("f", {"d": NUMPY_MEMORY})
    RAM.clear()
    found = store.find("f", ["d"], "np")["d"]
    assert set(found) == set(NUMPY_MEMORY)
    for name, array in NUMPY_MEMORY.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype.name == array.dtype.name
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize("written", ["np", "pt"])
def test_what_numpy_wrote_torch_reads_and_the_other_way_round(written: str, tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1], np.uint8)}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    store = MemoryStore(tmp_path)
    store.keep("f", {"d": arrays if written == "np" else tensors})
    RAM.clear()
    as_arrays = store.find("f", ["d"], "np")["d"]
    RAM.clear()
    as_tensors = store.find("f", ["d"])["d"]
    for name in arrays:
        assert np.array_equal(as_arrays[name], arrays[name])
        assert torch.equal(as_tensors[name], tensors[name])


def test_both_write_the_same_bytes() -> None:
    arrays = {"b": np.arange(3, dtype=np.int16), "a": np.ones((2, 2), np.float16)}
    assert encode(arrays) == encode({k: torch.from_numpy(v) for k, v in arrays.items()})


def test_a_memory_of_a_type_that_numpy_has_not_is_made_again(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.keep("f", {"d": {"x": torch.ones(2, dtype=torch.bfloat16)}})
    RAM.clear()
    assert store.find("f", ["d"], "np") == {}
    assert store.find("f", ["d"])["d"]["x"].dtype == torch.bfloat16


class NumpyRanker(FakeRanker):
    """Remembers in arrays of numpy, and says so."""

    framework: Any = "np"

    def remember(self, candidates: Any) -> Any:
        memories = super().remember(candidates)
        return [{"words": memory["words"].numpy()} for memory in memories]


def test_a_ranker_gets_its_memories_back_as_it_gave_them(tmp_path: Path) -> None:
    for inner, kind in ((NumpyRanker(), np.ndarray), (FakeRanker(), torch.Tensor)):
        for ranker in (inner, BatchingRanker(inner)):
            RAM.clear()
            found = get_or_compute_memories(ranker, candidates(), MemoryStore(tmp_path))
            assert all(isinstance(each["words"], kind) for each in found)
        assert inner.remembered == ["c0", "c1", "c2"], "once, and then read"


def test_another_framework_is_named_in_one_line() -> None:
    ranker = NumpyRanker()
    ranker.framework = "jax"
    with pytest.raises(RNXError, match=r"framework='jax' was given; 'np' .* and 'pt' .* allowed"):
        get_or_compute_memories(ranker, candidates(), MemoryStore())


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a text"]),
        np.array([None]),
        np.float32(1.0),
        [1.0, 2.0],
        "a text",
    ],
    ids=["texts", "objects", "a number", "a list", "a text"],
)
def test_what_is_no_array_of_numbers_is_refused(value: Any) -> None:
    class Odd(FakeRanker):
        def remember(self, candidates: Any) -> Any:
            return [{"x": value} for _ in candidates]

    with pytest.raises(RNXError, match="no mapping of names to tensors, or to arrays of numbers"):
        get_or_compute_memories(Odd(), candidates(), MemoryStore())


SLOW_TORCH = """
import threading, time
from llama_index_rnx.memory import are_memories
importing = threading.Thread(target=lambda: __import__("torch"))
importing.start()
while "torch" not in sys.modules:
    time.sleep(0.001)
assert not are_memories([{"a": "no array"}])
importing.join()
"""


def test_a_torch_that_another_thread_imports_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "import time\ntime.sleep(0.3)\nclass Tensor: ...\n", encoding="utf-8"
    )
    program = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{SLOW_TORCH}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_memory_is_of_one_framework() -> None:
    array, tensor = np.ones(1), torch.ones(1)
    assert are_memories([{}, {"a": array, "b": array}, {"a": tensor}])
    assert not are_memories([{}, {"a": array, "b": tensor}])
    assert not are_memories([[array]])


def test_another_fingerprint_is_another_memory(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    one, two = FakeRanker(fingerprint="fake/one"), FakeRanker(fingerprint="fake/two")
    get_or_compute_memories(one, candidates(), store)
    get_or_compute_memories(two, candidates(), store)
    assert len(one.remembered) == len(two.remembered) == 3
    assert store.find("fake/three", [c.digest for c in candidates()]) == {}


def test_what_is_in_ram_is_also_kept_on_the_disk_of_a_second_store(tmp_path: Path) -> None:
    ranker = FakeRanker()
    get_or_compute_memories(ranker, candidates(), MemoryStore())  # a reranker saw them first
    store = MemoryStore(tmp_path)
    get_or_compute_memories(ranker, candidates(), store)  # then they are indexed
    store.close()
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore(tmp_path))  # another day
    assert len(ranker.remembered) == 3


def test_a_killed_run_loses_no_more_than_one_part(tmp_path: Path) -> None:
    class Stops(FakeRanker):
        def remember(self, found: Any) -> Any:
            if len(self.remembered) >= REMEMBER_AT_ONCE:
                raise KeyboardInterrupt
            return super().remember(found)

    ranker, many = Stops(), candidates(REMEMBER_AT_ONCE + 10)
    with pytest.raises(KeyboardInterrupt):
        get_or_compute_memories(ranker, many, MemoryStore(tmp_path))
    RAM.clear()
    assert (
        len(MemoryStore(tmp_path).find(ranker.fingerprint, [c.digest for c in many]))
        == REMEMBER_AT_ONCE
    )


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.keep("f", {f"d{i}": memory(i) for i in range(1_300)})
    RAM.clear()
    found = store.find("f", [f"d{i}" for i in range(1_300)])
    assert [found[f"d{i}"]["vector"].item() for i in range(1_300)] == list(range(1_300))


def test_a_damaged_blob_is_made_again_and_replaced(tmp_path: Path) -> None:
    ranker, store = FakeRanker(), MemoryStore(tmp_path)
    expected = get_or_compute_memories(ranker, candidates(), store)
    store.close()
    _flip_a_byte(tmp_path / FILE_NAME)
    RAM.clear()
    store = MemoryStore(tmp_path)
    found = get_or_compute_memories(ranker, candidates(), store)
    assert len(ranker.remembered) == 4  # the three, and one of them again
    assert all(torch.equal(a["words"], b["words"]) for a, b in zip(found, expected, strict=True))
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), store)
    assert len(ranker.remembered) == 4


def _flip_a_byte(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        key, data = connection.execute("SELECT key, data FROM memories LIMIT 1").fetchone()
        damaged = data[:-1] + bytes([data[-1] ^ 0xFF])
        connection.execute("UPDATE memories SET data = ? WHERE key = ?", (damaged, key))
    connection.close()


def test_a_blob_that_is_no_memory_counts_as_unknown(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.keep("f", {"d": memory(1.0)})
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        (key,) = connection.execute("SELECT key FROM memories").fetchone()
        crc = checksum(key, b"rubbish")
        connection.execute("UPDATE memories SET data = ?, crc = ?", (b"rubbish", crc))
    connection.close()
    RAM.clear()
    assert MemoryStore(tmp_path).find("f", ["d"]) == {}


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "memories"):
        with pytest.raises(RNXError, match=r"file.*' is a file or lies in one; name a folder"):
            MemoryStore(place)
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_folder_that_cannot_be_made_is_said_once_and_ram_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.warns(RuntimeWarning, match=r"Read-only.*kept in RAM only") as said:
        store = MemoryStore(tmp_path / "memories")
    assert len(said) == 1
    _works_in_ram(store)


def test_a_file_that_is_no_database_is_put_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this was never a database" * 100)
    with pytest.warns(RuntimeWarning, match="is damaged .*kept as memories.sqlite.damaged"):
        store = MemoryStore(tmp_path)
    _works_in_ram(store)
    store.close()
    RAM.clear()
    ranker = FakeRanker(fingerprint="kept")
    get_or_compute_memories(ranker, candidates(), MemoryStore(tmp_path))
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore(tmp_path))
    assert len(ranker.remembered) == 3


def test_a_row_under_anothers_key_is_not_believed(tmp_path: Path) -> None:
    """As a damaged index of the file would give it: the data is whole, but of another candidate."""
    ranker, store = FakeRanker(), MemoryStore(tmp_path)
    expected = get_or_compute_memories(ranker, candidates(2), store)
    store.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        keys = [row[0] for row in connection.execute("SELECT key FROM memories")]
        for key, new in ((keys[0], b"x"), (keys[1], keys[0]), (b"x", keys[1])):
            connection.execute("UPDATE memories SET key = ? WHERE key = ?", (new, key))
    connection.close()
    RAM.clear()
    found = get_or_compute_memories(ranker, candidates(2), MemoryStore(tmp_path))
    assert all(torch.equal(a["words"], b["words"]) for a, b in zip(found, expected, strict=True))
    assert len(ranker.remembered) == 4


class FullDisk:
    """A connection that reads, and fails to write as sqlite does on a full disk."""

    def __init__(self, inner: sqlite3.Connection) -> None:
        self.inner = inner

    def executemany(self, *_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_full_disk_is_said_once_and_ram_goes_on(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store._backend._connection = FullDisk(store._backend._connection)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match=r"disk is full.*RAM only") as said:
        store.keep("f", {"d": memory(1.0)})
    assert len(said) == 1
    _works_in_ram(store)


def test_a_full_disk_can_still_be_read(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.keep("f", {"old": memory(7.0)})
    RAM.clear()
    store._backend._connection = FullDisk(store._backend._connection)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="disk is full"):
        store.keep("f", {"new": memory(8.0)})
    assert store.find("f", ["old"])["old"]["vector"].item() == 7.0


def test_a_disk_that_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    class Unreadable(FullDisk):
        def execute(self, *_: Any) -> None:
            raise sqlite3.DatabaseError("disk image is malformed")

    store = MemoryStore(tmp_path)
    store._backend._connection = Unreadable(store._backend._connection)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="malformed"):
        assert store.find("f", ["d"]) == {}
    _works_in_ram(store)


def _works_in_ram(store: MemoryStore) -> None:
    ranker = FakeRanker()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_or_compute_memories(ranker, candidates(), store)
        get_or_compute_memories(ranker, candidates(), store)
    assert len(ranker.remembered) == 3


def test_a_store_without_a_folder_writes_nothing_and_reads_the_open_ones(tmp_path: Path) -> None:
    ranker = FakeRanker()
    store = MemoryStore(tmp_path / "a")
    get_or_compute_memories(ranker, candidates(), store)
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore())
    assert len(ranker.remembered) == 3
    store.close()
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore())
    assert len(ranker.remembered) == 6  # nobody has it open


def test_a_closed_store_goes_on_in_ram(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.close()
    store.close()
    _works_in_ram(store)


def test_ram_gives_way_to_the_least_recently_used() -> None:
    cache = RamCache(limit=3 * 40)
    for name in b"abc":
        cache.put(bytes([name]), {"x": torch.zeros(10)})  # 40 bytes
    assert cache.get(b"a") is not None
    cache.put(b"d", {"x": torch.zeros(10)})
    assert cache.get(b"b") is None
    assert all(cache.get(name) is not None for name in (b"a", b"c", b"d"))
    cache.put(b"d", {"x": torch.zeros(20)})  # put again: its old size does not count
    assert cache.get(b"d") is not None
    assert sum(cache.get(bytes([name])) is not None for name in b"abcd") == 2


def test_one_memory_larger_than_the_limit_is_kept_alone() -> None:
    cache = RamCache(limit=10)
    cache.put(b"a", {"x": torch.zeros(100)})
    assert cache.get(b"a") is not None
    cache.put(b"b", {"x": torch.zeros(1)})
    assert cache.get(b"a") is None
    assert cache.get(b"b") is not None


def test_many_threads_on_one_store(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(40):
                store.keep("f", {f"{number}-{i}": memory(number, i), "shared": memory(1.0)})
                assert store.find("f", [f"{number}-{i}", "shared", "nothing"]).keys() == {
                    f"{number}-{i}",
                    "shared",
                }
                MemoryStore(tmp_path / f"{number}").close()
                MemoryStore().find("f", ["shared", "nothing"])
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    RAM.clear()
    assert len(store.find("f", [f"{number}-{i}" for number in range(6) for i in range(40)])) == 240


WRITER = """
# The room alone, without the package around it: that takes seconds to load, this one.
import sys, types, torch
package = sys.modules["llama_index_rnx"] = types.ModuleType("llama_index_rnx")
package.__path__ = [sys.argv[3]]
from llama_index_rnx.memory import MemoryStore
store = MemoryStore(sys.argv[1])
for i in range(30):
    names = [f"{sys.argv[2]}-{i}-{j}" for j in range(5)]
    store.keep("f", {name: {"x": torch.full((200,), float(i))} for name in names})
    store.keep("f", {"shared": {"x": torch.ones(3)}})
"""


@pytest.mark.parametrize("shared", [False, True], ids=["folder", "shared"])
def test_four_processes_write_at_once(tmp_path: Path, shared: bool) -> None:
    place = f"file://{tmp_path}/memories" if shared else str(tmp_path / "memories")
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", WRITER, place]
    package = str(Path(object_backend.__file__).parents[1])
    crew = [subprocess.Popen([*command, name, package], stderr=subprocess.PIPE) for name in "abcd"]
    ends = [(process.communicate(timeout=120)[1].decode(), process.returncode) for process in crew]
    assert [code for _, code in ends] == [0] * 4, ends
    digests = [f"{name}-{i}-{j}" for name in "abcd" for i in range(30) for j in range(5)]
    found = MemoryStore(place).find("f", [*digests, "shared"])
    assert len(found) == 601
    assert {float(found[f"c-{i}-0"]["x"][0]) for i in range(30)} == set(map(float, range(30)))
    assert list(tmp_path.rglob("*.part")) == []


# --- a place that many machines share


@pytest.fixture
def address() -> Iterator[str]:
    """A store of objects in this process."""
    import fsspec

    yield "memory://rnx-memories"
    fsspec.filesystem("memory").store.clear()


def test_objects_are_found_by_another_process_and_other_models_are_apart(tmp_path: Path) -> None:
    ranker = FakeRanker()
    get_or_compute_memories(ranker, candidates(), MemoryStore(f"file://{tmp_path}/shared"))
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore(f"file://{tmp_path}/shared"))
    assert len(ranker.remembered) == 3
    assert (
        MemoryStore(f"file://{tmp_path}/shared").find("other", [c.digest for c in candidates()])
        == {}
    )
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_a_store_of_objects_is_as_good_as_a_folder(address: str) -> None:
    ranker, store = FakeRanker(), MemoryStore(address)
    expected = get_or_compute_memories(ranker, candidates(), store)
    RAM.clear()
    found = get_or_compute_memories(ranker, candidates(5), MemoryStore(address))
    assert len(ranker.remembered) == 5
    assert all(torch.equal(a["words"], b["words"]) for a, b in zip(found, expected, strict=False))
    RAM.clear()
    # Whatever store is open in the process is read.
    get_or_compute_memories(ranker, candidates(5), MemoryStore())
    assert len(ranker.remembered) == 5


def test_a_damaged_object_is_made_again_and_replaced(tmp_path: Path) -> None:
    place, ranker = f"file://{tmp_path}/shared", FakeRanker()
    get_or_compute_memories(ranker, candidates(), MemoryStore(place))
    one, other, _ = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    whole = one.read_bytes()
    one.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
    other.write_bytes(b"")
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), MemoryStore(place))
    assert len(ranker.remembered) == 5
    assert one.read_bytes() == whole


class Remote:
    """What stands at the other end of a store of objects, and may be dead, full or slow."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.dead = self.full = self.slow = False
        self.asked = 0

    def cat(self, paths: list[str], on_error: str) -> dict[str, Any]:
        self.asked += 1
        if self.slow:
            time.sleep(5)
        if self.dead:
            raise ConnectionError("no route to host")
        return {path: self.objects.get(path, FileNotFoundError(path)) for path in paths}

    def pipe(self, objects: dict[str, bytes]) -> None:
        self.asked += 1
        if self.dead or self.full:
            raise OSError("quota exceeded")
        self.objects.update(objects)


@pytest.fixture
def remote(address: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Remote, MemoryStore]:
    found, store = Remote(), MemoryStore(address)
    store._backend._file_system = found  # type: ignore[union-attr]
    monkeypatch.setattr(object_backend, "TIMEOUT_SECONDS", 0.2)
    return found, store


@pytest.mark.parametrize(
    ("fault", "word"), [("dead", "cannot be read .no route"), ("slow", "no answer within")]
)
def test_a_dead_place_costs_time_and_never_a_result(
    remote: tuple[Remote, MemoryStore], fault: str, word: str
) -> None:
    place, store = remote
    setattr(place, fault, True)
    ranker = FakeRanker()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            RAM.clear()
            assert len(get_or_compute_memories(ranker, candidates(), store)) == 3
    assert len(ranker.remembered) == 9
    assert re.search(word, str(said[0].message))
    assert len(said) <= 2  # reading and writing, once each: then it is left alone
    assert place.asked <= 4


def test_it_is_asked_again_after_a_while_and_then_gets_what_it_lacks(
    remote: tuple[Remote, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store = remote
    monkeypatch.setattr(object_backend, "COOLDOWN_SECONDS", 0.0)
    place.full = True
    ranker = FakeRanker()
    with pytest.warns(RuntimeWarning, match="cannot be written .quota exceeded"):
        get_or_compute_memories(ranker, candidates(), store)
    place.full = False
    get_or_compute_memories(ranker, candidates(), store)  # from RAM
    assert len(place.objects) == 3
    asked = place.asked
    get_or_compute_memories(ranker, candidates(), store)
    assert place.asked == asked  # what is there is not written again
    RAM.clear()
    get_or_compute_memories(ranker, candidates(), store)
    assert len(ranker.remembered) == 3


@pytest.mark.parametrize("address", ["nowhere://bucket/x", "s3://bucket/x"])
def test_an_address_that_nobody_knows_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not installed
    with pytest.raises(RNXError, match=r"cannot be used .*s3fs") as error:
        MemoryStore(address)
    assert "\n" not in str(error.value)


def test_a_closed_store_of_objects_goes_on_in_ram(address: str) -> None:
    store = MemoryStore(address)
    store.close()
    _works_in_ram(store)
