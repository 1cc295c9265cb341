"""Links in an indexed folder: those that stay inside are followed, those that lead out are listed,
and nothing blocks.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import Rnx
from fakes import RED, FakeEmbedding, write_image, write_pdf

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.cli.index import remove_options
from llama_index_rnx.collection import Skipped
from llama_index_rnx.ingestion import IndexReport, discover, index_paths, survey
from llama_index_rnx.ingestion.workers import _sum, report_of

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with two texts, and beside it another with a private one."""
    for name in ("docs/deep", "docs/.hidden", "other/deep"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "docs/a.txt",
        "docs/deep/b.txt",
        "docs/.hidden/h.txt",
        "other/x.txt",
        "other/deep/y.txt",
    ):
        (tmp_path / name).write_text(f"This is {name}.")
    return tmp_path / "docs"


@pytest.fixture
def collection() -> Iterator[NodeCollection]:
    found = NodeCollection(":memory:", embedding=FakeEmbedding())
    yield found
    found.close()


def link(at: Path, to: Path | str) -> Path:
    at.symlink_to(to)
    return at


def names(*paths: Path, follow_links: bool = False) -> list[str]:
    return [source.docid for source in discover(paths, follow_links)[0]]


def indexed(collection: NodeCollection, *paths: Path, follow_links: bool = False) -> IndexReport:
    return index_paths(collection, list(paths), show_progress=False, follow_links=follow_links)


# --- inside


def test_what_is_reached_twice_is_indexed_once_by_its_plain_name(docs: Path) -> None:
    link(docs / "0.txt", docs / "a.txt")
    link(docs / "0deep", docs / "deep")
    link(docs / "deep" / "relative.txt", "../a.txt")
    assert names(docs) == ["a.txt", "deep/b.txt"]
    assert survey([docs]).outside == []


def test_loops_end(docs: Path) -> None:
    link(docs / "deep" / "up", docs)
    link(docs / "me", docs / "me")
    link(docs / "here", ".")
    link(docs / "one", docs / "two")
    link(docs / "two", docs / "one")
    assert names(docs) == ["a.txt", "deep/b.txt"]
    assert survey([docs]).outside == []


def test_a_link_to_a_hidden_folder_inside_shows_it(docs: Path) -> None:
    link(docs / "shown", docs / ".hidden")
    link(docs / "shown.txt", docs / ".hidden" / "h.txt")
    assert names(docs) == ["a.txt", "deep/b.txt", "shown.txt"]
    (docs / "shown.txt").unlink()
    assert names(docs) == ["a.txt", "deep/b.txt", "shown/h.txt"]
    assert names(docs / "shown") == ["h.txt"]  # a folder that is named may be a link itself


def test_a_store_that_knows_no_suffixes(docs: Path, collection: NodeCollection) -> None:
    """As git-annex, DVC and the hub's cache have it: the content's name is its hash."""
    write_pdf(docs / ".hidden" / "0a1b", ["first", "second"])
    link(docs / "paper.pdf", docs / ".hidden" / "0a1b")
    assert indexed(collection, docs).skipped == []
    assert [node.get_content() for node in collection.get(["paper.pdf#1", "paper.pdf#2"])] == [
        "first",
        "second",
    ]
    assert (again := indexed(collection, docs)).unchanged == 3, again
    assert again.missing == []


def test_hard_links_are_files(docs: Path) -> None:
    os.link(docs / "a.txt", docs / "hard.txt")
    assert names(docs) == ["a.txt", "hard.txt", "deep/b.txt"]


def test_a_link_between_two_named_folders_stays_inside(docs: Path) -> None:
    other = docs.parent / "other"
    link(docs / "other", other)
    link(docs / "x.txt", other / "x.txt")
    found = survey([docs, other])
    assert found.outside == []
    assert [source.docid for source in found.files] == [
        "a.txt",
        "deep/b.txt",
        "x.txt",
        "deep/y.txt",
    ]
    assert names(docs, other / "deep") == ["a.txt", "deep/b.txt", "y.txt"]


def test_a_named_file_may_be_a_link(docs: Path) -> None:
    there = link(docs / "there.txt", docs.parent / "other" / "x.txt")
    found = survey([there])
    assert [(source.docid, source.path.name) for source in found.files] == [("there.txt", "x.txt")]
    assert found.outside == []


# --- outside


@pytest.mark.parametrize("to", ["../other", "../other/x.txt", "..", "/", "../other/deep"])
def test_what_leads_out_is_listed_and_not_followed(docs: Path, to: str) -> None:
    out = link(docs / ("out.txt" if to.endswith(".txt") else "out"), to)
    found = survey([docs])
    assert found.outside == [str(out)]
    assert [source.docid for source in found.files] == ["a.txt", "deep/b.txt"]


def test_a_link_through_a_link_leads_out(docs: Path) -> None:
    link(docs / "first", docs / "second")
    link(docs / "second", docs.parent / "other")
    assert survey([docs]).outside == [str(docs / "first"), str(docs / "second")]


def test_a_folder_whose_name_begins_alike_is_outside(docs: Path) -> None:
    (docs.parent / "docs2").mkdir()
    (docs.parent / "docs2" / "z.txt").write_text("neighbour")
    out = link(docs / "out", docs.parent / "docs2")
    assert survey([docs]).outside == [str(out)]


def test_they_are_followed_when_it_is_asked_for(docs: Path) -> None:
    link(docs / "out", docs.parent / "other")
    link(docs.parent / "other" / "back", docs)  # and from there back
    link(docs.parent / "other" / "further.txt", docs.parent / "far.txt")
    (docs.parent / "far.txt").write_text("far away")
    found = survey([docs], follow_links=True)
    assert found.outside == []
    expected = ["a.txt", "deep/b.txt", "out/x.txt", "out/deep/y.txt", "out/further.txt"]
    assert [source.docid for source in found.files] == expected


def test_a_link_to_the_folder_above_is_walked_once(docs: Path) -> None:
    link(docs / "up", "..")
    assert names(docs, follow_links=True) == [
        "a.txt",
        "deep/b.txt",
        "up/other/x.txt",
        "up/other/deep/y.txt",
    ]


def test_only_links_that_lead_out_are_an_error_that_says_so(docs: Path) -> None:
    (docs.parent / "links").mkdir()
    link(docs.parent / "links" / "out", docs)
    with pytest.raises(RNXError, match=r"1 links that lead out: --follow-links"):
        discover([docs.parent / "links"])
    assert names(docs.parent / "links", follow_links=True) == ["out/a.txt", "out/deep/b.txt"]


def test_of_other_kinds_no_link_is_listed(docs: Path) -> None:
    (docs.parent / "other" / "table.csv").write_text("a,b")
    link(docs / "table.csv", docs.parent / "other" / "table.csv")
    found = survey([docs])
    assert (found.outside, found.ignored) == ([], 1)


def test_broken_links_are_listed_with_the_reason(docs: Path, collection: NodeCollection) -> None:
    link(docs / "gone.txt", docs / "nowhere.txt")
    link(docs / "far.txt", docs.parent / "nowhere.txt")
    link(docs / "me.txt", docs / "me.txt")
    link(docs / "gone", docs / "nowhere")
    report = indexed(collection, docs)
    assert sorted(skipped.id for skipped in report.skipped) == ["far.txt", "gone.txt", "me.txt"]
    assert (report.written, report.ignored, report.outside) == (2, 1, [])


def test_what_was_indexed_through_a_link_before_is_kept_and_named(
    docs: Path, collection: NodeCollection
) -> None:
    out = link(docs / "out", docs.parent / "other")
    indexed(collection, docs, follow_links=True)
    report = indexed(collection, docs)
    assert (report.missing, report.outside) == ([], [str(out)])
    assert report.outside_kept == sorted(
        str(docs.parent / "other" / name) for name in ("x.txt", "deep/y.txt")
    )
    assert len(collection) == 4
    assert indexed(collection, docs, follow_links=True).outside_kept == []


def test_a_name_that_an_older_run_gave_is_kept(docs: Path, collection: NodeCollection) -> None:
    link(docs / "0.txt", docs / "a.txt")
    indexed(collection, docs / "0.txt")
    report = indexed(collection, docs)
    assert (report.written, report.unchanged) == (1, 1)
    assert [node.node_id for node in collection.get(["0.txt", "a.txt"])] == ["0.txt"]


# --- special files


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("follow_links", [False, True])
def test_pipes_devices_and_sockets_never_block(
    docs: Path, collection: NodeCollection, follow_links: bool
) -> None:
    os.mkfifo(docs / "pipe.txt")
    link(docs / "link.txt", docs / "pipe.txt")
    link(docs / "zero.txt", "/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(docs / "socket.pdf"))
        report = indexed(collection, docs, follow_links=follow_links)
    assert (report.written, report.ignored, report.skipped, report.outside) == (2, 4, [], [])
    with pytest.raises(RNXError, match="no file to index"):
        indexed(collection, docs / "pipe.txt")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_entered(docs: Path) -> None:
    link(docs / "in.txt", docs / "deep" / "b.txt")
    (docs / "deep").chmod(0)
    try:
        assert names(docs) == ["a.txt", "in.txt"]
    finally:
        (docs / "deep").chmod(0o700)


# --- the command


def test_the_command_lists_them_and_follows_when_asked(docs: Path, rnx: Rnx) -> None:
    write_image(docs.parent / "other" / "red.png", RED)
    for number in range(5):
        link(docs / f"out{number}", docs.parent / "other")
    told = rnx("index", str(docs), "--to", str(docs.parent / "index")).err
    assert "2 nodes written" in told
    assert f"not followed: 5 links lead out of the folders ({docs / 'out0'}" in told
    assert "out2, ...); followed with --follow-links" in told
    assert "out3" not in told
    told = rnx("index", str(docs), "--to", str(docs.parent / "index"), "--follow-links").err
    assert "3 nodes written" in told
    assert "--follow-links" not in told
    told = rnx("index", str(docs), "--to", str(docs.parent / "index")).err
    assert "kept as they are: 3 files that were indexed through them before" in told


def test_the_option_reaches_the_workers_and_their_reports_come_back() -> None:
    line = ["docs", "--follow-links", "--workers", "2", "--to", "http://there"]
    assert remove_options(line, "--workers", "--share", "--progress") == [
        "docs",
        "--follow-links",
        "--to",
        "http://there",
    ]
    report = IndexReport(files=2, outside=["docs/out"], skipped=[Skipped(id="a", reason="b")])
    told = [report_of(json.loads(json.dumps(asdict(report)))) for _ in range(2)]
    assert told[0] == report
    assert _sum(told).outside == ["docs/out"]  # each of them looked through all
