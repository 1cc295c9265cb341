"""Files that are added while an index is asked: judged by content, named for show, whole or not
there, taken up again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import BLUE, RED, FakeEmbedding, image_bytes, pdf_bytes, png_bomb, write_endless_pdf
from fakes.ui import put, settled

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.candidates import Query
from llama_index_rnx.errors import StorageError
from llama_index_rnx.ingestion import index_paths, readers
from llama_index_rnx.pdf import pages as pdf
from llama_index_rnx.pdf.pages import PageText
from llama_index_rnx.pdf.worker_pool import Pool
from llama_index_rnx.ui import library as ui_library
from llama_index_rnx.ui import open_library, uploaded_files
from llama_index_rnx.ui.library import Library
from llama_index_rnx.ui.run import uploads_folder


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[tuple[NodeCollection, Library]]:
    collection = NodeCollection(folder, embedding=FakeEmbedding())
    library = Library(collection, folder / "uploads", **options)
    try:
        yield collection, library
    finally:
        library.close()
        collection.close()


def on_disk(folder: Path) -> set[str]:
    return {path.suffix for path in (folder / "uploads").iterdir()}


def test_a_file_becomes_pages_that_are_found(tmp_path: Path) -> None:
    with opened(tmp_path) as (collection, library):
        entry, again = put(library, "bees.pdf", pdf_bytes(["Bees sleep.", "Bees make honey."]))
        assert (entry.name, entry.state, again) == ("bees.pdf", "waiting", False)
        assert settled(library)[0].to_dict() == entry.to_dict() | {
            "state": "ready",
            "done": 2,
            "total": 2,
        }
        assert collection.search(Query(text="honey"))[0].node.node_id == "bees.pdf#2"


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, library):
        assert put(library, "report.pdf", image_bytes(RED))[0].name == "report.pdf.png"
        assert put(library, "photo.JPEG", image_bytes(BLUE, format="JPEG"))[0].name == "photo.JPEG"
        assert put(library, "x", image_bytes(BLUE, format="WEBP"))[0].name == "x.webp"
        assert all(entry.state == "ready" for entry in settled(library))


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("empty.pdf", b"", "empty.pdf: is empty (0 bytes)"),
        ("note.pdf", b"Dear diary", "note.pdf: is neither a PDF nor an image"),
        ("page.html", b"<html><script>alert(1)</script>", "neither a PDF nor an image"),
        ("torn.pdf", pdf_bytes(["a"])[:200], "torn.pdf: cannot be opened as a PDF"),
        (
            "locked.pdf",
            pdf_bytes(["a"], encrypted=True),
            "locked.pdf: cannot be opened as a PDF (it needs a password)",
        ),
        ("torn.png", image_bytes(RED)[:50], "torn.png: cannot be read as an image"),
        (
            "bomb.png",
            png_bomb(),
            "bomb.png: cannot be read as an image (Image size (900000000 pixels)",
        ),
        ("long.pdf", pdf_bytes(["a"] * 4), "long.pdf: has 4 pages; from 1 to 3 are taken."),
        ("big.png", b"\x89PNG\r\n\x1a\n" + bytes(2**20), "big.png: has more than 1 MiB"),
    ],
    ids=lambda given: given.split(":")[0] if isinstance(given, str) else "",
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, part: str
) -> None:
    monkeypatch.setattr(uploaded_files, "MAX_PAGES", 3)
    with opened(tmp_path, max_bytes=2**20) as (_, library):
        with pytest.raises(RNXError) as error:
            put(library, name, data)
        assert part in str(error.value)
        assert str(tmp_path) not in str(error.value)
        assert library.entries() == []
        assert on_disk(tmp_path) == set()


def test_an_upload_that_is_broken_off(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, library):
        with library.receive("a.pdf") as upload:
            upload.write(pdf_bytes(["a"])[:100])
            assert on_disk(tmp_path) == {".part"}
        assert on_disk(tmp_path) == set()
        assert library.entries() == []


def test_the_same_file_twice_and_another_of_the_same_name(tmp_path: Path) -> None:
    with opened(tmp_path) as (collection, library):
        first, _ = put(library, "a.pdf", pdf_bytes(["one"]))
        assert put(library, "b.pdf", pdf_bytes(["one"])) == (library.entries()[0], True)
        assert put(library, "a.pdf", pdf_bytes(["two"]))[0].name == "a (2).pdf"
        assert [entry.name for entry in settled(library)] == [first.name, "a (2).pdf"]
        assert len(collection) == 2


@pytest.mark.parametrize(
    "name", ["../../up.png", "/etc/up.png", "..\\up.png", "\u202eup.png", "a\x00/up.png", ".up.png"]
)
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "index").mkdir()
    with opened(tmp_path / "index") as (_, library):
        assert put(library, name, image_bytes(RED))[0].name == "up.png"
        settled(library)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert sorted(len(path.stem) for path in (tmp_path / "index" / "uploads").iterdir()) == [64, 64]


def test_what_was_not_indexed_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_index_rnx.ingestion.indexing.STEP", 1)
    data, written, closing = (
        pdf_bytes([f"page {i}" for i in range(9)]),
        threading.Event(),
        threading.Event(),
    )
    original = NodeCollection.write

    def slow(self: NodeCollection, *given: Any) -> int:
        found = original(self, *given)
        written.set()
        closing.wait(10)
        return found

    with monkeypatch.context() as slowly, opened(tmp_path) as (collection, library):
        slowly.setattr(NodeCollection, "write", slow)
        put(library, "long.pdf", data)
        put(library, "next.png", image_bytes(RED))
        assert written.wait(10)
        library._closed.set()
        closing.set()
        library.close()
        assert 0 < len(collection) < 9
    with opened(tmp_path) as (collection, library):
        assert {entry.name: entry.total for entry in settled(library)} == {
            "long.pdf": 9,
            "next.png": 1,
        }
        assert len(collection) == 10
    with opened(tmp_path) as (_, library):
        assert all(entry.state == "ready" for entry in library.entries())


def test_what_the_index_held_before(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.png").write_bytes(image_bytes(RED))
    with opened(tmp_path / "index") as (collection, _):
        index_paths(collection, [tmp_path / "notes"], show_progress=False)
    with opened(tmp_path / "index") as (collection, library):
        assert [(entry.name, entry.state) for entry in library.entries()] == [("a.png", "ready")]
        assert put(library, "b.png", image_bytes(RED))[1], "the same content, under whatever name"
        assert put(library, "a.png", image_bytes(BLUE))[0].name == "a (2).png"
        settled(library)
        assert len(collection) == 2


def test_a_file_that_cannot_be_indexed_costs_itself_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as (collection, library):
        with monkeypatch.context() as broken:
            broken.setattr(
                NodeCollection,
                "write",
                lambda *given: (_ for _ in ()).throw(RNXError("Qdrant is away.")),
            )
            put(library, "a.png", image_bytes(RED))
            assert settled(library)[0].note == "Qdrant is away."
        entry, again = put(library, "again.png", image_bytes(RED))
        assert (entry.name, again) == ("a.png", False)
        assert settled(library)[0].state == "ready"
        assert len(collection) == 1


def test_a_page_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as (collection, library):
        put(library, "a.pdf", pdf_bytes(["one", "two", "three"], broken_page=1))
        assert settled(library)[0].note == "left out: a.pdf#2"
        assert len(collection) == 2


def test_a_page_that_never_ends_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNX_PDF_SECONDS", "0.2")
    bad = write_endless_pdf(tmp_path / "bad.pdf").read_bytes()
    with opened(tmp_path / "index") as (collection, library):
        put(library, "bad.pdf", bad)
        put(library, "good.pdf", pdf_bytes(["one"]))
        assert [(entry.name, entry.state, entry.note) for entry in settled(library)] == [
            ("bad.pdf", "failed", "left out: bad.pdf#1"),
            ("good.pdf", "ready", ""),
        ]
        assert len(collection) == 1


def test_closing_does_not_wait_for_a_page_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ui_library, "CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("RNX_PDF_SECONDS", "600")
    monkeypatch.setenv("RNX_PDF_MIB", "1000000")
    own = Pool()
    monkeypatch.setattr(pdf, "shared_pool", lambda: own)
    bad = write_endless_pdf(tmp_path / "bad.pdf").read_bytes()
    with opened(tmp_path / "index") as (_, library):
        put(library, "bad.pdf", bad)
        settled(library, lambda entries: entries[0].state == "indexing")
        begun = time.monotonic()
    assert time.monotonic() - begun < 10
    assert library._thread.is_alive()
    own.close()
    library._thread.join(timeout=20)
    assert not library._thread.is_alive()
    assert "indexing failed" not in caplog.messages


def test_uploads_that_were_read_otherwise_are_read_again_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before, opened(tmp_path) as (collection, library):
        before.setattr(readers, "reader_of", lambda source: 0)
        before.setattr(
            readers,
            "read_pages",
            lambda path: [PageText(text="must be cali\x02brated", has_fields=False)],
        )
        put(library, "a.pdf", pdf_bytes(["must be calibrated"]))
        put(library, "b.png", image_bytes(RED))
        settled(library)
    with opened(tmp_path) as (collection, library):
        assert [entry.state for entry in settled(library)] == ["ready", "ready"]
        assert collection.get(["a.pdf#1"])[0].get_content() == "must be calibrated"
        assert len(collection) == 2
    with opened(tmp_path) as (_, library):
        assert all(entry.state == "ready" for entry in library.entries())


def test_too_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui_library, "MAX_WAITING", 0)
    with opened(tmp_path) as (_, library), pytest.raises(RNXError, match="0 files wait already"):
        put(library, "a.png", image_bytes(RED))


def test_where_an_index_may_be(tmp_path: Path) -> None:
    with open_library("", "rnx") as (collection, _):
        temporary = Path(str(collection.location))
        assert temporary.is_dir()
    assert not temporary.exists()
    with open_library(str(tmp_path / "new"), "rnx"):
        assert (tmp_path / "new" / "uploads" / "rnx").is_dir()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RNXError, match="holds other things"), open_library(str(tmp_path), "rnx"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "new"]
    first = uploads_folder("http://localhost:6333", "a")
    second = uploads_folder("http://localhost:6333", "b")
    assert first != second
    assert first.parent == second.parent


def test_the_index_is_made_fast_once_no_file_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    is_done = threading.Event()

    def optimize(collection: NodeCollection) -> bool:
        sizes.append(len(collection))
        is_done.set()
        return True

    monkeypatch.setattr(NodeCollection, "optimize", optimize)
    with opened(tmp_path) as (_, library):
        put(library, "bees.pdf", pdf_bytes(["Bees sleep.", "Bees make honey."]))
        assert is_done.wait(20)
    assert sizes == [2]


def test_a_failure_to_make_it_fast_is_logged_and_the_next_file_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def optimize(_: NodeCollection) -> bool:
        raise StorageError("the disk is full")

    monkeypatch.setattr(NodeCollection, "optimize", optimize)
    with opened(tmp_path) as (_, library):
        for count, name in enumerate(("one.pdf", "two.pdf"), 1):
            put(library, name, pdf_bytes([f"Bees of {name}."]))
            end = time.monotonic() + 20
            while caplog.text.count("the disk is full") < count and time.monotonic() < end:
                time.sleep(0.01)
        assert caplog.text.count("the disk is full") == 2
