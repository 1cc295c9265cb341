"""Folders into a collection: every kind, every change, every bad file, and runs that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    BLUE,
    GREEN,
    RED,
    FakeEmbedding,
    FakeRanker,
    image_bytes,
    png_bomb,
    write_image,
    write_pdf,
)

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.candidates import PageNode, Query, candidate_of
from llama_index_rnx.ingestion import IndexReport, discover, index_paths

LONG = " ".join(f"Sentence number {i} of a long text is here." for i in range(120))  # 960 words


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """One file of every kind, and some that are none."""
    root = tmp_path / "docs"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".hidden").mkdir()
    write_pdf(root / "paper.pdf", ["alpha first", "beta second", "gamma third"], colour=GREEN)
    write_image(root / "red.png", RED)
    write_image(root / "deep" / "green.JPG", GREEN)
    write_image(root / "deep" / "blue.webp", BLUE)
    write_image(root / "photo.jpeg", BLUE)
    (root / "deep" / "er" / "Ünï cödé 蜂.md").write_text(
        "# Honey\n\nBees make it.", encoding="utf-8"
    )
    (root / "long.txt").write_text(LONG)
    (root / "table.csv").write_text("a,b")
    (root / ".secret.txt").write_text("hidden file")
    (root / ".hidden" / "a.txt").write_text("in a hidden folder")
    return root


@pytest.fixture
def collection() -> Iterator[NodeCollection]:
    found = NodeCollection(":memory:", embedding=FakeEmbedding())
    yield found
    found.close()


def files_of(collection: NodeCollection) -> dict[str, int]:
    return {
        Path(path).name: len(nodes) for path, nodes in collection.files(collection.paths()).items()
    }


def indexed(collection: NodeCollection, *paths: Path) -> IndexReport:
    return index_paths(collection, list(paths), show_progress=False)


# --- what is found


def test_every_kind_is_indexed(docs: Path, collection: NodeCollection) -> None:
    report = indexed(collection, docs)
    assert report.skipped == []
    assert (report.files, report.unchanged, report.ignored) == (7, 0, 1)
    found = files_of(collection)
    passages = found.pop("long.txt")
    assert passages > 4
    assert found == {
        "paper.pdf": 3,
        "red.png": 1,
        "green.JPG": 1,
        "blue.webp": 1,
        "photo.jpeg": 1,
        "Ünï cödé 蜂.md": 1,
    }
    assert report.written == len(collection) == 8 + passages


def test_pages_count_from_one_and_have_text_and_picture(
    docs: Path, collection: NodeCollection
) -> None:
    indexed(collection, docs)
    pages = collection.get(["paper.pdf#1", "paper.pdf#2", "paper.pdf#3"])
    assert [page.get_content() for page in pages] == ["alpha first", "beta second", "gamma third"]
    assert all(isinstance(page, PageNode) for page in pages)
    assert [page.metadata for page in pages] == [
        {"source": "paper.pdf", "page": n} for n in (1, 2, 3)
    ]
    assert {candidate_of(page).kind for page in pages} == {"both"}
    assert "paper.pdf#2" in [
        hit.node_id for hit in collection.search(Query(text="beta second"), k=2)
    ]


def test_names_are_paths_relative_to_the_folder(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    names = ["red.png", "deep/green.JPG", "deep/er/Ünï cödé 蜂.md", "long.txt", "long.txt@2"]
    nodes = collection.get(names)
    assert [node.node_id for node in nodes] == names
    assert [node.metadata["source"] for node in nodes] == [*names[:4], "long.txt"]


def test_file_names_are_not_embedded(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    for node in collection.get(["deep/er/Ünï cödé 蜂.md", "paper.pdf#1"]):
        assert "source" not in candidate_of(node).text


def test_a_file_may_be_named_itself(docs: Path, collection: NodeCollection) -> None:
    report = indexed(collection, docs / "red.png", docs / "deep" / "blue.webp", docs / "red.png")
    assert (report.files, report.written) == (2, 2)
    assert [node.node_id for node in collection.get(["red.png", "blue.webp"])] == [
        "red.png",
        "blue.webp",
    ]


def test_relative_paths_are_the_same_files(
    docs: Path, collection: NodeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(collection, docs)
    monkeypatch.chdir(docs.parent)
    report = indexed(collection, Path("docs"), Path("docs") / "deep" / ".." / "red.png")
    assert (report.written, report.unchanged) == (0, 7)


def test_two_folders_with_the_same_names(tmp_path: Path, collection: NodeCollection) -> None:
    for name, colour in (("one", RED), ("two", BLUE)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", colour)
        write_pdf(tmp_path / name / "p.pdf", [f"page of {name}"])
    indexed(collection, tmp_path / "one")
    indexed(collection, tmp_path / "two")
    assert len(collection) == 4
    assert collection.get(["p.pdf#1"])[0].get_content() == "page of one"
    assert collection.get(["two/p.pdf#1"])[0].get_content() == "page of two"
    again = indexed(collection, tmp_path / "two", tmp_path / "one")
    assert (again.written, again.unchanged) == (0, 4)


def test_symbolic_links(docs: Path, collection: NodeCollection) -> None:
    (docs / "deep" / "loop").symlink_to(docs, target_is_directory=True)
    (docs / "again.png").symlink_to(docs / "red.png")
    (docs / "dangling.png").symlink_to(docs / "nowhere.png")
    (docs / "self.txt").symlink_to(docs / "self.txt")
    report = indexed(collection, docs)
    assert len(report.skipped) == 2
    assert {Path(skipped.id).name for skipped in report.skipped} == {"dangling.png", "self.txt"}
    assert len([name for name in files_of(collection) if name.endswith("red.png")]) == 1
    assert indexed(collection, docs).written == 0


@pytest.mark.parametrize("make", ["nothing", "empty", "other"])
def test_nothing_to_index_is_one_clear_line(
    tmp_path: Path, make: str, collection: NodeCollection
) -> None:
    root = tmp_path / "root"
    if make != "nothing":
        root.mkdir()
    if make == "other":
        (root / "a.csv").write_text("1")
    word = "does not exist" if make == "nothing" else "no file to index"
    with pytest.raises(RNXError, match=word) as error:
        indexed(collection, root)
    assert ".pdf" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(collection) == 0


def test_discover_has_a_fixed_order(docs: Path) -> None:
    first, _ = discover([docs])
    assert [source.docid for source in first] == [source.docid for source in discover([docs])[0]]
    assert len({source.path for source in first}) == len(first)


# --- the second run


def test_a_second_run_adds_nothing_and_reads_nothing(
    docs: Path, collection: NodeCollection
) -> None:
    first = indexed(collection, docs)
    ranker = collection.ranker = FakeRanker()
    embedded = len(collection.embedding._texts)  # type: ignore[attr-defined]
    second = indexed(collection, docs)
    assert (second.written, second.unchanged, second.skipped, second.missing) == (
        0,
        first.files,
        [],
        [],
    )
    assert ranker.remembered == []
    assert len(collection.embedding._texts) == embedded  # type: ignore[attr-defined]


def test_a_changed_file_replaces_its_nodes(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    count = len(collection)
    write_pdf(docs / "paper.pdf", ["alpha first", "delta new"])
    report = indexed(collection, docs)
    assert report.unchanged == 6
    assert files_of(collection)["paper.pdf"] == 2  # one page fewer than before
    assert len(collection) == count - 1
    assert [
        node.get_content() for node in collection.get(["paper.pdf#1", "paper.pdf#2", "paper.pdf#3"])
    ] == [
        "alpha first",
        "delta new",
    ]
    assert indexed(collection, docs).written == 0


def test_a_text_that_shrinks_and_grows(docs: Path, collection: NodeCollection) -> None:
    for words, expected in (("short", 1), (LONG, None), ("short again", 1)):
        (docs / "long.txt").write_text(words)
        indexed(collection, docs)
        assert expected is None or files_of(collection)["long.txt"] == expected
    assert collection.get(["long.txt"])[0].get_content() == "short again"
    assert collection.get(["long.txt@2"]) == []


def test_a_changed_picture_is_embedded_again(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    write_image(docs / "red.png", GREEN, size=(30, 30))
    assert indexed(collection, docs).written == 1
    pictures = [
        hit.node_id
        for hit in collection.search(Query(text="green"))
        if hit.node_id.endswith((".png", ".webp"))
    ]
    assert pictures[0] == "red.png"


def test_a_touched_file_is_not_doubled(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    count = len(collection)
    os.utime(docs / "paper.pdf", ns=(1, 1))
    indexed(collection, docs)
    assert len(collection) == count
    assert indexed(collection, docs).unchanged == 7


def test_a_removed_file_is_reported_and_kept(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    count = len(collection)
    (docs / "red.png").unlink()
    report = indexed(collection, docs)
    assert report.missing == [str(docs / "red.png")]
    assert len(collection) == count
    assert indexed(collection, docs / "deep").missing == []  # not below what was named


def test_a_file_that_becomes_bad_keeps_its_nodes(docs: Path, collection: NodeCollection) -> None:
    indexed(collection, docs)
    (docs / "paper.pdf").write_bytes(b"%PDF-1.4 broken now")
    (docs / "red.png").write_bytes(b"broken now")
    report = indexed(collection, docs)
    assert sorted(skipped.id for skipped in report.skipped) == ["paper.pdf", "red.png"]
    assert files_of(collection)["paper.pdf"] == 3
    assert files_of(collection)["red.png"] == 1


# --- bad files

BAD = {
    "truncated.png": lambda: image_bytes(RED, (200, 200), "BMP")[:5_000],
    "truncated.jpg": lambda: image_bytes(RED, (600, 600), "JPEG")[:700],
    "zero.png": lambda: b"",
    "zero.pdf": lambda: b"",
    "zero.txt": lambda: b"",
    "blank.md": lambda: b" \n\t \n",
    "bomb.png": png_bomb,
    "broken.pdf": lambda: b"%PDF-1.7\nthis is no PDF",
    "not-a.pdf": lambda: b"plain words",
    "not-a.webp": lambda: b"plain words",
    "binary.txt": lambda: bytes(range(256)) * 20,
}


def test_bad_files_are_listed_with_one_clear_line_each_and_the_others_indexed(
    docs: Path, collection: NodeCollection
) -> None:
    for name, make in BAD.items():
        (docs / name).write_bytes(make())
    write_pdf(docs / "locked.pdf", ["secret"], encrypted=True)
    report = indexed(collection, docs)
    reasons = {Path(skipped.id).name: skipped.reason for skipped in report.skipped}
    assert set(reasons) == {*BAD, "locked.pdf"}
    for name, reason in reasons.items():
        assert name in reason
        assert "\n" not in reason
        assert "Traceback" not in reason
        assert 30 < len(reason) < 500
    assert "password" in reasons["locked.pdf"]
    assert "900000000" in reasons["bomb.png"] or "30000" in reasons["bomb.png"]
    assert "0 bytes" in reasons["zero.png"]
    assert len(report.skipped) == len(reasons)  # each once
    assert files_of(collection)["paper.pdf"] == 3
    assert len(files_of(collection)) == 7
    again = indexed(collection, docs)
    assert (again.written, again.unchanged, len(again.skipped)) == (0, 7, len(reasons))


def test_a_pdf_with_one_bad_page_costs_no_other_file(
    docs: Path, collection: NodeCollection
) -> None:
    write_pdf(docs / "aaa.pdf", ["one", "two", "three"], broken_page=1)
    report = indexed(collection, docs)
    assert [skipped.id for skipped in report.skipped] == ["aaa.pdf#2"]
    assert "cannot be drawn" in report.skipped[0].reason
    assert files_of(collection)["aaa.pdf"] == 2  # its other pages
    assert files_of(collection)["paper.pdf"] == 3


def test_a_pdf_without_pages_is_listed(docs: Path, collection: NodeCollection) -> None:
    write_pdf(docs / "none.pdf", [])
    report = indexed(collection, docs)
    assert [skipped.id for skipped in report.skipped] == ["none.pdf"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Käse und Öl".encode("latin-1"), "Käse und Öl"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("wide \u2603".encode("utf-16"), "wide \u2603"),
        (b"quotes \x93so\x94 of old editors", "quotes \u201cso\u201d of old editors"),
    ],
    ids=["latin-1", "utf-8-sig", "utf-16", "cp1252"],
)
def test_texts_that_are_not_utf8(
    tmp_path: Path, collection: NodeCollection, data: bytes, expected: str
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert indexed(collection, tmp_path / "a.txt").skipped == []
    assert collection.get(["a.txt"])[0].get_content() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows any byte in a name")
def test_a_name_that_is_no_unicode(docs: Path, collection: NodeCollection) -> None:
    os.rename(docs / "red.png", os.fsencode(docs) + b"/caf\xe9.png")
    report = indexed(collection, docs)
    assert len(report.skipped) == 1
    report.skipped[0].reason.encode()  # can be printed
    assert len(files_of(collection)) == 6


def test_a_folder_named_like_a_file(docs: Path, collection: NodeCollection) -> None:
    (docs / "folder.pdf").mkdir()
    (docs / "folder.pdf" / "a.txt").write_text("inside")
    assert indexed(collection, docs).skipped == []
    assert len(collection.get(["folder.pdf/a.txt"])) == 1


def test_a_file_that_goes_away_while_we_index(
    docs: Path, collection: NodeCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llama_index_rnx.ingestion.indexing as indexing

    real = indexing._read_changed

    def vanishing(*args: Any) -> Iterator[Any]:
        yield from list(real(*args))
        (docs / "red.png").unlink(missing_ok=True)
        (docs / "paper.pdf").unlink(missing_ok=True)

    monkeypatch.setattr(indexing, "_read_changed", vanishing)
    report = indexed(collection, docs)
    assert {skipped.id.split("#")[0] for skipped in report.skipped} == {"red.png", "paper.pdf"}
    assert "long.txt" in files_of(collection)


# --- killed runs


class Interrupted(FakeEmbedding):
    """Stops after so many pictures, as Ctrl-C does."""

    left: int = 3

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super()._get_image_embedding(img_file_path)


def test_an_interrupted_run_is_completed_by_the_next(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(50):
        write_image(docs / f"{i:02}.png", (i * 5, 0, 0))
    first = NodeCollection(tmp_path / "index", embedding=Interrupted(left=40))
    with pytest.raises(KeyboardInterrupt):
        indexed(first, docs)
    half = len(first)
    assert 0 < half < 50
    assert len(first.search(Query(text="red"), k=100)) == half  # usable
    first.close()
    second = NodeCollection(tmp_path / "index", embedding=Interrupted(left=1_000))
    report = indexed(second, docs)
    assert (report.written, report.unchanged) == (50 - half, half)
    assert len(second) == 50
    assert indexed(second, docs).written == 0
    second.close()


def test_an_interrupted_change_loses_no_page_and_is_completed(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    write_pdf(docs / "a.pdf", [f"old {i}" for i in range(38)])
    first = NodeCollection(tmp_path / "index", embedding=Interrupted(left=10_000))
    indexed(first, docs)
    write_pdf(docs / "a.pdf", [f"new {i}" for i in range(35)])
    first.embedding.left = 33  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        indexed(first, docs)
    assert len(first) == 38  # new pages and old ones, none lost
    first.embedding.left = 10_000  # type: ignore[attr-defined]
    indexed(first, docs)
    assert len(first) == 35
    assert {node.get_content()[:3] for node in first.get([f"a.pdf#{i}" for i in range(1, 36)])} == {
        "new"
    }
    first.close()


INDEX = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes import FakeEmbedding
from llama_index_rnx import NodeCollection
from llama_index_rnx.ingestion import index_paths
print("ready", flush=True)
index_paths(NodeCollection(sys.argv[2], embedding=FakeEmbedding()), [Path(sys.argv[3])])
"""


def test_a_killed_process_leaves_a_usable_index(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(150):
        write_image(docs / f"{i:03}.png", (i % 256, 0, 0))
    folder = tmp_path / "index"
    command = [sys.executable, "-c", INDEX, str(Path(__file__).parents[1]), str(folder), str(docs)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    time.sleep(random.uniform(0.2, 1.0))
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    collection = NodeCollection(folder, embedding=FakeEmbedding())
    before = len(collection)
    assert len(collection.search(Query(text="red"), k=500)) == before
    report = indexed(collection, docs)
    assert report.written == 150 - before
    assert len(collection) == 150
    collection.close()
