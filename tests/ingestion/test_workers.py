"""Several processes, machines and GPUs at one corpus: each file once, none lost, and a killed
worker's work taken up.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QdrantServer, Rnx, free_port
from fakes import BLUE, GREEN, RED, FakeEmbedding, write_image, write_pdf

from llama_index_rnx import NodeCollection, RNXError, Storage
from llama_index_rnx.console import JsonLines
from llama_index_rnx.ingestion import (
    MemoryWorkerPool,
    Shard,
    device_of,
    discover,
    index_paths,
    resolve_shard,
)
from llama_index_rnx.ingestion.workers import Worker, main
from llama_index_rnx.memory import RAM
from llama_index_rnx.rankers.mini import MiniRanker

_names = itertools.count()
NAMES = [f"folder{i % 7}/file{i}.pdf" for i in range(1_000)]


# --- shares


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_file_is_in_exactly_one_share_and_shares_are_about_equal(count: int) -> None:
    shares = [Shard(index=number, count=count) for number in range(1, count + 1)]
    assert all(sum(share.contains(name) for share in shares) == 1 for name in NAMES)
    assert all(abs(sum(map(share.contains, NAMES)) - 1_000 / count) < 60 for share in shares)


def test_the_parts_of_a_share_are_the_share() -> None:
    whole = Shard(index=2, count=3)
    parts = [whole.subshard(number, 4) for number in (1, 2, 3, 4)]
    assert [sum(part.contains(name) for part in parts) for name in NAMES] == [
        int(whole.contains(name)) for name in NAMES
    ]


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        (None, {}, Shard()),
        ("2/8", {"RANK": "0", "WORLD_SIZE": "4"}, Shard(index=2, count=8)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, Shard(index=4, count=4)),
        (None, {"RANK": "", "WORLD_SIZE": ""}, Shard()),
    ],
)
def test_who_says_which_share(
    asked: str | None, environment: dict[str, str], expected: Shard
) -> None:
    assert resolve_shard(asked, environment) == expected


@pytest.mark.parametrize("asked", ["", "2", "0/2", "3/2", "a/b", "-1/2", "1/0", "1/" + "9" * 5_000])
def test_a_share_that_is_none(asked: str) -> None:
    with pytest.raises(RNXError, match="i/n"):
        resolve_shard(asked, {})


def test_each_process_of_a_machine_has_its_own_gpu() -> None:
    assert device_of("cuda", {"LOCAL_RANK": "3"}) == "cuda:3"
    assert device_of("cuda", {}) == "cuda"
    assert device_of("cpu", {"LOCAL_RANK": "3"}) == "cpu"
    assert device_of(None, {"LOCAL_RANK": "3"}) is None


# --- one corpus, several workers


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Two folders with the same names, and one of each kind."""
    for folder, colour in (("one", RED), ("two", BLUE)):
        root = tmp_path / "docs" / folder
        root.mkdir(parents=True)
        for i in range(6):
            (root / f"{i}.txt").write_text(f"note {i} of {folder} about subject{i}")
        write_image(root / "picture.png", colour)
        write_pdf(root / "paper.pdf", [f"page {n} of {folder}" for n in range(3)], colour=GREEN)
    return tmp_path / "docs"


def in_threads(*work: Callable[[], object]) -> None:
    """All at once; the first fault comes out."""
    faults: list[BaseException] = []

    def guarded(one: Callable[[], object]) -> None:
        try:
            one()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.server
def test_shares_together_are_the_whole(qdrant_server: QdrantServer, docs: Path) -> None:
    name, paths = f"workers-{next(_names)}", [docs / "one", docs / "two"]
    crew = [
        NodeCollection(qdrant_server.url, name=name, embedding=FakeEmbedding()) for _ in range(3)
    ]
    shares = [Shard(index=number, count=3) for number in (1, 2, 3)]
    work = [
        lambda c=c, s=s: index_paths(c, paths, share=s) for c, s in zip(crew, shares, strict=True)
    ]  # type: ignore[misc]
    in_threads(*work)
    assert len(crew[0]) == 2 * (6 + 1 + 3)
    assert len(crew[0].paths()) == 16
    texts = {node.get_content() for node in crew[0].get(["2.txt", "two/2.txt"])}
    assert texts == {"note 2 of one about subject2", "note 2 of two about subject2"}
    again = index_paths(crew[0], paths)
    assert (again.written, again.unchanged) == (0, 16)
    for collection in crew:
        collection.close()


@pytest.mark.server
def test_two_workers_on_the_same_files_double_nothing(
    qdrant_server: QdrantServer, docs: Path
) -> None:
    name = f"workers-{next(_names)}"
    crew = [
        NodeCollection(qdrant_server.url, name=name, embedding=FakeEmbedding()) for _ in range(2)
    ]
    in_threads(*[lambda c=c: index_paths(c, [docs]) for c in crew])  # type: ignore[misc]
    assert len(crew[0]) == 20
    for collection in crew:
        collection.close()


def test_a_file_keeps_its_name_whoever_came_first(docs: Path) -> None:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    third = docs.parent / "three" / "two"
    third.mkdir(parents=True)
    (third / "0.txt").write_text("note of a third")
    index_paths(collection, [docs / "two"])
    # Both names are taken, so the last file is told apart by a mark of its own.
    index_paths(collection, [docs / "one", third])
    by_path = {
        path: nodes[0]["metadata"]["source"]
        for path, nodes in collection.files(collection.paths()).items()
    }
    assert by_path[str(docs / "two" / "0.txt")] == "0.txt"
    assert by_path[str(docs / "one" / "0.txt")] == "one/0.txt"
    assert len(set(by_path.values())) == len(by_path) == 17
    assert index_paths(collection, [third, docs / "one", docs / "two"]).unchanged == 17
    collection.close()


def test_files_are_taken_up_part_by_part(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_rnx.ingestion.indexing.FILES_AT_ONCE", 3)
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    assert index_paths(collection, [docs]).written == 20
    assert index_paths(collection, [docs]).unchanged == 16
    (docs / "two" / "1.txt").unlink()
    assert index_paths(collection, [docs]).missing == [str(docs / "two" / "1.txt")]
    collection.close()


# --- the command


@pytest.mark.server
def test_workers_of_the_command(qdrant_server: QdrantServer, docs: Path, rnx: Rnx) -> None:
    name = f"workers-{next(_names)}"
    (docs / "one" / "bad.png").write_bytes(b"no picture")
    result = rnx(
        "index",
        docs,
        "--to",
        qdrant_server.url,
        "--collection",
        name,
        "--workers",
        "2",
        "--shards",
        "2",
        "--grpc",
    )
    assert result.code == 0, result.err
    assert "20 nodes written from 17 new or changed files" in result.err
    assert result.err.count("left out: ") == 1
    collection = NodeCollection(qdrant_server.url, name=name, storage=Storage(shards=2))
    assert len(collection) == 20
    collection.close()


def test_a_rememberer_is_asked_by_lines_and_fills_the_store(
    docs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mini: MiniRanker,
) -> None:
    (docs / "one" / "bad.png").write_bytes(b"no picture")
    files = [[str(source.path), source.docid] for source in discover([docs])[0]]
    monkeypatch.setattr(sys, "argv", ["workers", str(tmp_path)])
    monkeypatch.setattr(
        sys, "stdin", [json.dumps({"files": files[:9]}), json.dumps({"files": files[9:]})]
    )
    main()
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(fact.get("done", 0) for fact in facts) == 21  # the bad one was looked at too
    assert facts[-1] == {"ended": True}
    with sqlite3.connect(tmp_path / "memories.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM memories").fetchone()[0] == 20
    connection.close()


@pytest.mark.stress
def test_workers_of_a_folder_remember_and_one_writes(
    docs: Path, tmp_path: Path, rnx: Rnx, mini: MiniRanker
) -> None:
    (docs / "one" / "bad.png").write_bytes(b"no picture")
    result = rnx("index", docs, "--to", tmp_path / "idx", "--workers", "2")
    assert result.code == 0, result.err
    assert "a folder has one writer: 2 workers read and embed" in result.err
    assert "20 nodes written from 17 new or changed files" in result.err
    assert result.err.count("left out: ") == 1


@pytest.mark.stress
def test_the_memories_are_made_by_the_workers(
    docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = MemoryWorkerPool(2, str(tmp_path / "idx" / "memories"), None, JsonLines())
    try:
        os.kill(crew.crew[0].pid, signal.SIGKILL)  # one dies: its files are left to the writer
        crew.prepare(discover([docs])[0], 20)
    finally:
        crew.close()
    RAM.clear()
    writer = NodeCollection(tmp_path / "idx")
    assert isinstance(writer.ranker, MiniRanker)
    remembered: list[int] = []
    monkeypatch.setattr(
        MiniRanker,
        "remember",
        lambda self, found, real=MiniRanker.remember: (
            remembered.append(len(found)) or real(self, found)
        ),
    )
    assert index_paths(writer, [docs]).written == 20
    assert 0 < sum(remembered) < 20
    writer.close()


@pytest.mark.server
def test_a_killed_worker_is_named_and_the_next_run_completes(
    qdrant_server: QdrantServer,
    docs: Path,
    rnx: Rnx,
    monkeypatch: pytest.MonkeyPatch,
    mini: MiniRanker,
) -> None:
    name = f"workers-{next(_names)}"
    command = ["index", str(docs), "--to", qdrant_server.url, "--collection", name]
    told: list[dict[str, object]] = []
    worker = Worker(
        "llama_index_rnx.cli",
        [*command, "--share", "1/2", "--progress", "json"],
        told.append,
        threads=1,
    )
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.join() == "ended by signal 9"
    monkeypatch.setenv("RANK", "1")  # what `accelerate launch` says to a process
    monkeypatch.setenv("WORLD_SIZE", "2")
    facts = [json.loads(line) for line in rnx(*command, "--progress", "json").out.splitlines()]
    monkeypatch.delenv("WORLD_SIZE")
    half = facts[-1]["report"]["written"]
    assert (
        sum(fact.get("done", 0) for fact in facts)
        == sum(fact.get("expect", 0) for fact in facts)
        == half
    )
    assert 0 < half < 20
    result = rnx(*command)
    assert f"{20 - half} nodes written" in result.err
    assert "20 nodes in" in result.err


ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --mixed_precision no --dynamo_backend no "
    "--num_machines 1 --num_processes 2"
)
LAUNCHERS = [
    pytest.param(f"{ACCELERATE} --main_process_port", id="accelerate"),
    pytest.param(
        "torch.distributed.run --nproc_per_node 2 --master_port",
        id="torchrun",
        marks=pytest.mark.stress,
    ),
]


@pytest.mark.server
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launched_processes_share_a_corpus(
    qdrant_server: QdrantServer, docs: Path, launcher: str, rnx: Rnx
) -> None:
    """The real launchers; without a GPU both processes run on the CPU."""
    index = [
        "index",
        str(docs),
        "--to",
        qdrant_server.url,
        "--collection",
        f"workers-{next(_names)}",
    ]
    command = [
        sys.executable,
        "-m",
        *launcher.split(),
        str(free_port()),
        "-m",
        "llama_index_rnx.cli",
        *index,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    written = [
        int(count) for count in re.findall(r"(\d+) nodes written", done.stdout + done.stderr)
    ]
    assert len(written) == 2
    assert sum(written) == 20
    assert min(written) > 0
    assert "0 nodes written" in rnx(*index).err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--share", "3/2"], "i/n"),
        (["--shards", "3"], "only a Qdrant server"),
        (["--grpc", "--shards", "3"], "shards=3, grpc=True"),
        (["--metadata-index", "year"], "FIELD:KIND"),
        (["--metadata-index", "year:number"], "keyword, integer"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_wrong_options_are_one_line_and_make_no_index(
    docs: Path, tmp_path: Path, rnx: Rnx, options: list[str], word: str
) -> None:
    result = rnx("index", docs, "--to", tmp_path / "idx", *options)
    assert result.code == 2
    assert word in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "idx").exists()
