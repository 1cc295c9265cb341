"""Files are walked through once and opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Rnx
from fakes import FakeEmbedding, write_pdf

import llama_index_rnx.ingestion.discovery as discovery
import llama_index_rnx.ingestion.indexing as indexing
import llama_index_rnx.pdf.pages as pages
from llama_index_rnx import NodeCollection
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion import SourceFile, index_paths, nodes_of
from llama_index_rnx.ingestion.readers import read_file
from llama_index_rnx.pdf.worker import PdfReader


class Bar:
    """Notes the totals and the steps that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __call__(self, count: int) -> None:
        self.told.append(("done", count))

    def add_total(self, count: int) -> None:
        self.told.append(("expect", count))


def test_a_pdf_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        write_pdf(tmp_path / f"{i}.pdf", ["one", "two", "three"])
    requests: list[str] = []
    ask = pages._ask

    def counted(task: str, *args: Any, **options: Any) -> Any:
        requests.append(task)
        return ask(task, *args, **options)

    monkeypatch.setattr(pages, "_ask", counted)
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    assert index_paths(collection, [tmp_path], show_progress=False).written == 9
    assert {task: requests.count(task) for task in requests} == {"count": 3, "text": 9, "draw": 9}
    collection.close()


def test_the_document_stays_open_for_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one", "two"])
    reader = PdfReader()
    opened: list[str] = []
    original = PdfReader._load

    def counted(self: PdfReader, path: str) -> Any:
        opened.append(path)
        return original(self, path)

    monkeypatch.setattr(PdfReader, "_load", counted)
    for request in (
        {"do": "count", "path": str(path)},
        {"do": "text", "path": str(path), "page": 0},
        {"do": "text", "path": str(path), "page": 1},
    ):
        reader.answer(request)
    reader.close()
    assert opened == [str(path)]


def test_a_file_that_was_read_knows_its_state_and_its_nodes(tmp_path: Path) -> None:
    source = SourceFile(path=write_pdf(tmp_path / "a.pdf", ["one", "two"]), docid="a.pdf")
    contents = read_file(source)
    assert contents.stamp.nodes == len(contents.nodes) == 2
    assert contents.stamp.mtime_ns == source.path.stat().st_mtime_ns
    assert [node.to_dict() for node in contents.nodes] == [
        node.to_dict() for node in nodes_of(source)
    ]


def test_totals_are_told_before_the_nodes_of_each_batch_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "NODES_AT_ONCE", 3)
    for i in range(4):
        write_pdf(tmp_path / f"{i}.pdf", ["one", "two"])
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    bar = Bar()
    assert index_paths(collection, [tmp_path], bar=bar).written == 8
    assert [event for event in bar.told if event[1]] == [
        ("expect", 4),
        ("done", 4),
        ("expect", 4),
        ("done", 4),
    ]
    collection.close()


def test_few_letters_are_held_at_once_however_many_a_page_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "CHARACTERS_AT_ONCE", 100)
    for i in range(4):
        write_pdf(tmp_path / f"{i}.pdf", ["60 letters on a page of one file".ljust(60, ".")])
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    bar = Bar()
    assert index_paths(collection, [tmp_path], bar=bar).written == 4
    assert [event for event in bar.told if event[0] == "expect" and event[1]] == [
        ("expect", 2),
        ("expect", 2),
    ]
    collection.close()


def test_a_bad_file_shows_before_anything_of_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.4 and no more")
    with pytest.raises(RNXError, match=r"bad\.pdf: cannot be opened as a PDF"):
        read_file(SourceFile(path=tmp_path / "bad.pdf", docid="bad.pdf"))


def test_the_command_walks_through_a_folder_once(
    rnx: Rnx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("Bees make honey.")
    walked: list[Path] = []
    walk = discovery._walk

    def counted(start: Any, *args: Any) -> Any:
        walked.append(start.path)
        return walk(start, *args)

    monkeypatch.setattr(discovery, "_walk", counted)
    assert rnx("index", docs, "--to", tmp_path / "index").code == 0
    assert walked == [docs]
