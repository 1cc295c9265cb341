"""The command line in this process, by its own `main`; one call as a process of its own, since that
takes seconds.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, Rnx, free_port
from fakes import BLUE, GREEN, RED, png_bomb, write_image, write_pdf

from llama_index_rnx import NodeCollection, RNXError
from llama_index_rnx.errors import StorageError

FIELDS = [
    "rank",
    "id",
    "score",
    "retrieval_rank",
    "retrieval_score",
    "kind",
    "source",
    "page",
    "text",
]


def refused(result: Result, *parts: str) -> None:
    """Exit code 2, one line, no traceback, and these words in it."""
    assert result.code == 2, result
    assert "Traceback" not in result.out + result.err
    lines = [line for line in result.err.splitlines() if line.strip()]
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], lines[0]
    assert result.out == ""


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "my docs"
    (root / "sub").mkdir(parents=True)
    write_pdf(
        root / "paper.pdf", ["Bees make honey in hives.", "Iron rusts in wet air."], colour=GREEN
    )
    write_image(root / "red.png", RED)
    write_image(root / "sub" / "blue.webp", BLUE)
    (root / "sub" / "law one.md").write_text(
        "The parliament passed the budget [bold] after a long night."
    )
    (root / "long.txt").write_text(
        " ".join(f"Dogs run on beach number {i} every day." for i in range(90))
    )
    return root


@pytest.fixture(scope="module")
def index(docs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of `docs`, made once by the command itself."""
    folder = tmp_path_factory.mktemp("index") / "idx"
    command = [sys.executable, "-m", "llama_index_rnx.cli", "index", str(docs), "--to", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "0 files unchanged" in done.stderr
    return folder


def trec(path: Path) -> list[tuple[str, str, str, int, float, str]]:
    rows = [line.split(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(len(row) == 6 for row in rows)
    return [
        (qid, q0, docid, int(rank), float(score), tag) for qid, q0, docid, rank, score, tag in rows
    ]


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n",
        encoding="utf-8",
    )
    return path


# --- index


def test_a_second_run_adds_nothing(rnx: Rnx, index: Path, docs: Path) -> None:
    result = rnx("index", docs, "--to", index)
    assert result.code == 0
    assert "0 nodes written" in result.err
    assert "5 files unchanged" in result.err
    assert result.out == ""


def test_bad_files_are_listed_at_the_end(rnx: Rnx, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.txt").write_text("good words")
    (docs / "empty.png").touch()
    (docs / "bomb.png").write_bytes(png_bomb())
    (docs / "broken.pdf").write_bytes(b"no pdf")
    write_pdf(docs / "locked.pdf", ["secret"], encrypted=True)
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert result.code == 0
    lines = result.err.splitlines()
    assert "1 nodes written" in lines[0] or "1 node written" in lines[0]
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert {
        name
        for line in left_out
        for name in ("empty.png", "bomb.png", "broken.pdf", "locked.pdf")
        if name in line
    } == {
        "empty.png",
        "bomb.png",
        "broken.pdf",
        "locked.pdf",
    }
    assert len(left_out) == 4
    assert lines[-1].startswith("left out: ")
    assert "Traceback" not in result.err


def test_a_removed_file_is_told(rnx: Rnx, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.txt", "b.txt"):
        (docs / name).write_text(f"words of {name}")
    assert rnx("index", docs, "--to", tmp_path / "idx").code == 0
    (docs / "a.txt").unlink()
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert f"gone: {docs / 'a.txt'}" in result.err


def test_wrong_paths_make_no_index(rnx: Rnx, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    refused(rnx("index", tmp_path / "nowhere", "--to", tmp_path / "idx"), "does not exist", ".pdf")
    refused(rnx("index", tmp_path / "empty", "--to", tmp_path / "idx"), "no file to index")
    assert not (tmp_path / "idx").exists()
    (tmp_path / "empty" / "a.txt").write_text("words")
    refused(rnx("index", tmp_path / "empty", "--to", tmp_path / "file"), "is a file")
    refused(
        rnx("index", tmp_path / "empty", "--to", f"http://127.0.0.1:{free_port()}"),
        "does not answer",
        "start it",
    )


def test_an_interrupt_ends_with_130(
    rnx: Rnx, monkeypatch: pytest.MonkeyPatch, docs: Path, tmp_path: Path
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llama_index_rnx.ingestion.index_paths", stop)
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert result.code == 130
    assert "the same command goes on from there" in result.err
    assert "Traceback" not in result.err


def test_an_index_that_cannot_be_made_faster_is_whole(
    rnx: Rnx, monkeypatch: pytest.MonkeyPatch, docs: Path, tmp_path: Path
) -> None:
    def fail(_: NodeCollection) -> bool:
        raise StorageError("it is whole, but searched more slowly.")

    monkeypatch.setattr(NodeCollection, "optimize", fail)
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert result.code == 0
    assert "searched more slowly" in result.err
    assert "nodes written" in result.err


def test_an_interrupt_while_it_is_made_faster_leaves_it_whole(
    rnx: Rnx, monkeypatch: pytest.MonkeyPatch, docs: Path, tmp_path: Path
) -> None:
    def stop(_: NodeCollection) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(NodeCollection, "optimize", stop)
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert result.code == 130
    assert "nodes written" in result.err
    assert json.loads(rnx("search", "honey", "--from", tmp_path / "idx", "--format", "json").out)


# --- search


def test_json_has_the_fields_of_the_contract(rnx: Rnx, index: Path) -> None:
    result = rnx("search", "how is honey made?", "--from", index, "--format", "json", "-n", "4")
    assert result.code == 0
    hits = json.loads(result.out)
    assert len(hits) == 4
    assert all(list(hit) == FIELDS for hit in hits)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(
        isinstance(hit["retrieval_rank"], int) and hit["retrieval_rank"] >= 1 for hit in hits
    )
    assert len({hit["retrieval_rank"] for hit in hits}) == 4
    assert {hit["kind"] for hit in hits} <= {"text", "image", "both"}
    pages = [hit for hit in hits if hit["source"] == "paper.pdf"]
    assert all(
        hit["page"] in (1, 2) and hit["kind"] == "both" and hit["id"] == f"paper.pdf#{hit['page']}"
        for hit in pages
    )
    assert all(hit["page"] is None for hit in hits if hit["source"] != "paper.pdf")


def test_no_rerank_is_the_head_of_the_retrieved(rnx: Rnx, index: Path) -> None:
    result = rnx(
        "search", "honey hives", "--from", index, "--no-rerank", "--format", "json", "-n", "3"
    )
    hits = json.loads(result.out)
    assert [hit["rank"] for hit in hits] == [hit["retrieval_rank"] for hit in hits] == [1, 2, 3]
    assert [hit["score"] for hit in hits] == [hit["retrieval_score"] for hit in hits]
    assert "paper.pdf#1" in [hit["id"] for hit in hits]


def test_k_bounds_what_is_reranked(rnx: Rnx, index: Path) -> None:
    result = rnx("search", "honey", "--from", index, "-k", "2", "-n", "5", "--format", "json")
    hits = json.loads(result.out)
    assert len(hits) == 2
    assert {hit["retrieval_rank"] for hit in hits} == {1, 2}


def test_a_picture_is_a_query(rnx: Rnx, index: Path, tmp_path: Path) -> None:
    asked = write_image(tmp_path / "asked.png", RED)
    alone = rnx("search", "--image", asked, "--from", index, "--format", "json", "-n", "2")
    assert alone.code == 0
    assert {hit["kind"] for hit in json.loads(alone.out)} <= {"image", "both", "text"}
    with_text = rnx(
        "search", "honey", "--image", asked, "--from", index, "--format", "json", "--no-rerank"
    )
    assert len(json.loads(with_text.out)) == 5


def test_the_table_and_the_page(rnx: Rnx, index: Path) -> None:
    table = rnx("search", "the budget of parliament [bold]", "--from", index, "-n", "3")
    assert table.code == 0
    assert "law one.md" in table.out
    page = rnx(
        "search", "honey <script>alert(1)</script>", "--from", index, "-n", "3", "--format", "html"
    )
    assert page.code == 0
    assert page.out.lstrip().lower().startswith("<!doctype html>")
    assert "<script>alert" not in page.out
    assert "data:image/" in page.out


def test_what_cannot_be_searched(rnx: Rnx, index: Path, tmp_path: Path) -> None:
    refused(rnx("search", "honey"), "--from")
    refused(rnx("search", "--from", index), "nothing to search for")
    refused(rnx("search", "  ", "--from", index), "nothing to search for")
    refused(
        rnx("search", "honey", "--from", tmp_path / "nowhere"), "there is no index", "rnx index"
    )
    refused(rnx("search", "honey", "--from", index, "--collection", "other"), "empty", "rnx index")
    refused(rnx("search", "honey", "--from", index, "--model", "rnx-maxi"), "rnx-maxi", "rnx-mini")
    refused(
        rnx("search", "honey", "--from", index, "--image", tmp_path / "no.png"),
        "no.png",
        "not there",
    )
    (tmp_path / "bad.png").write_bytes(b"no picture")
    refused(
        rnx("search", "--from", index, "--image", tmp_path / "bad.png"),
        "bad.png",
        "cannot be read as an image",
    )
    refused(rnx("search", "honey", "--from", f"http://127.0.0.1:{free_port()}"), "does not answer")


def test_a_folder_that_is_no_index_stays_as_it_is(rnx: Rnx, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    refused(rnx("search", "honey", "--from", tmp_path / "plain"), "rnx index")
    assert list((tmp_path / "plain").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["search", "x", "--from", "y", "-n", "0"], "'-n'"),
        (["search", "x", "--from", "y", "-k", "many"], "'-k'"),
        (["search", "x", "--from", "y", "--format", "xml"], "xml"),
        (["search", "x", "--nonsense"], "--nonsense"),
        (["index"], "argument"),
        (["index", "x"], "--to"),
        (["rerank", "x"], "--run"),
        (["dance"], "dance"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line(rnx: Rnx, arguments: list[str], word: str) -> None:
    refused(rnx(*arguments), word)


def test_help(rnx: Rnx) -> None:
    for arguments in (["--help"], ["search", "--help"], ["index", "--help"], ["rerank", "--help"]):
        result = rnx(*arguments)
        assert result.code == 0
        assert "Usage" in result.out
        assert "error" not in result.err
    bare = rnx()
    assert "Usage" in bare.out
    assert bare.err == ""
    assert bare.code == 2
    assert "Traceback" not in bare.err


def test_options_stand_in_their_panels_and_no_command_is_cut_short(rnx: Rnx) -> None:
    lines = rnx("index", "--help").out.splitlines()
    order = [
        lines.index(title)
        for title in ("Arguments:", "Options:", "Many processes and machines:", "Qdrant server:")
    ]
    assert order == sorted(order)
    assert lines.index("Qdrant server:") < next(
        i for i, line in enumerate(lines) if "--shards" in line
    )
    assert "..." not in rnx("--help").out.split("Commands:")[1]


def test_a_picture_deleted_after_indexing_does_not_stop_the_search(
    rnx: Rnx, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("Bees make honey.")
    write_image(docs / "red.png", RED)
    assert rnx("index", docs, "--to", tmp_path / "idx").code == 0
    (docs / "red.png").unlink()
    result = rnx("search", "honey", "--from", tmp_path / "idx", "--format", "json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["id"] == "a.txt"


# --- batches


def test_a_batch_is_a_trec_run(rnx: Rnx, index: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "asked.png", BLUE)
    rows = [
        {"qid": "q1", "query": "honey"},
        {"qid": "2", "query": "dogs on a beach"},
        {"qid": "q3", "query": "", "image": "asked.png"},
    ]
    queries = write_rows(tmp_path / "queries.jsonl", *rows, "")
    result = rnx(
        "search", "--queries", queries, "--run", tmp_path / "out.trec", "--from", index, "-n", "4"
    )
    assert result.code == 0, result.err
    run = trec(tmp_path / "out.trec")
    assert {q0 for _, q0, *_ in run} == {"Q0"}
    assert list(dict.fromkeys(qid for qid, *_ in run)) == ["q1", "2", "q3"]
    for qid in ("q1", "2", "q3"):
        own = [row for row in run if row[0] == qid]
        assert [row[3] for row in own] == [1, 2, 3, 4]
        scores = [row[4] for row in own]
        assert scores == sorted(scores, reverse=True)
        assert len({row[2] for row in own}) == 4  # a text of many passages stands once
    names = {docid for _, _, docid, *_ in run}
    assert names <= {
        "paper.pdf#1",
        "paper.pdf#2",
        "red.png",
        "sub/blue.webp",
        "sub/law%20one.md",
        "long.txt",
    }
    assert list(tmp_path.glob("*.part")) == []


def test_a_batch_without_rerank_equals_single_searches(
    rnx: Rnx, index: Path, tmp_path: Path
) -> None:
    queries = write_rows(tmp_path / "q.jsonl", {"qid": "a", "query": "iron rust"})
    assert (
        rnx(
            "search",
            "--queries",
            queries,
            "--run",
            tmp_path / "r",
            "--from",
            index,
            "--no-rerank",
            "-n",
            "2",
        ).code
        == 0
    )
    single = json.loads(
        rnx("search", "iron rust", "--from", index, "--no-rerank", "--format", "json").out
    )
    names = list(
        dict.fromkeys(
            hit["source"] if hit["page"] is None else f"{hit['source']}#{hit['page']}"
            for hit in single
        )
    )
    assert [row[2] for row in trec(tmp_path / "r")] == names[:2]


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("{not json", "is not JSON"),
        ('["a", "list"]', "a row is a JSON object"),
        ({"query": "x"}, "qid"),
        ({"qid": None, "query": "x"}, "qid"),
        ({"qid": "has space", "query": "x"}, "white space"),
        ({"qid": "q"}, "query is empty"),
        ({"qid": "q", "query": " "}, "query is empty"),
        ({"qid": "q", "query": "x", "image": 5}, "image"),
        ({"qid": "q", "query": "x", "image": ["a.png"]}, "image"),
        ({"qid": "q", "query": {"a": 1}}, "query"),
        ({"qid": "good", "query": "again"}, "twice"),
    ],
    ids=str,
)
def test_wrong_rows_of_queries_are_named(
    rnx: Rnx, tmp_path: Path, index: Path, row: Any, word: str
) -> None:
    queries = write_rows(tmp_path / "q.jsonl", {"qid": "good", "query": "x"}, row)
    result = rnx("search", "--queries", queries, "--run", tmp_path / "r", "--from", index)
    refused(result, word, *([] if word == "twice" else ["line 2"]))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != "") == ["q.jsonl"]
    assert not (tmp_path / "r").exists()


def test_a_number_as_a_query_is_a_text(rnx: Rnx, tmp_path: Path, index: Path) -> None:
    queries = write_rows(tmp_path / "q.jsonl", {"qid": 7, "query": 1984})
    result = rnx("search", "--queries", queries, "--run", tmp_path / "r", "--from", index)
    assert result.code == 0, result.err
    assert {row[0] for row in trec(tmp_path / "r")} == {"7"}


def test_half_a_surrogate_pair_is_no_traceback(rnx: Rnx, tmp_path: Path, index: Path) -> None:
    queries = write_rows(tmp_path / "q.jsonl", '{"qid": "q", "query": "bees \\ud83d"}')
    assert rnx("search", "--queries", queries, "--run", tmp_path / "r", "--from", index).code == 0
    lists = write_rows(
        tmp_path / "l.jsonl",
        '{"qid": "q", "query": "\\ud83d bees", '
        '"candidates": [{"docid": "d\\ud83d", "text": "\\ud83d"}]}',
    )
    assert rnx("rerank", lists, "--run", tmp_path / "r2").code in (0, 2)


def test_batches_and_their_options(rnx: Rnx, tmp_path: Path, index: Path) -> None:
    queries = write_rows(tmp_path / "q.jsonl", {"qid": "q", "query": "x"})
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    run = tmp_path / "r"
    refused(rnx("search", "--queries", queries, "--from", index), "--run")
    refused(rnx("search", "x", "--run", run, "--from", index), "--queries")
    refused(
        rnx("search", "x", "--queries", queries, "--run", run, "--from", index), "one or the other"
    )
    refused(
        rnx("search", "--queries", tmp_path / "no.jsonl", "--run", run, "--from", index),
        "does not exist",
    )
    refused(
        rnx("search", "--queries", tmp_path / "empty.jsonl", "--run", run, "--from", index),
        "no rows",
    )
    refused(
        rnx("search", "--queries", queries, "--run", tmp_path / "no" / "r", "--from", index),
        "cannot be written",
    )
    refused(
        rnx("search", "--queries", queries, "--run", tmp_path / "folder", "--from", index), "folder"
    )
    assert {path.name for path in tmp_path.iterdir() if path.name != "user-cache"} == {
        "q.jsonl",
        "empty.jsonl",
        "folder",
    }


def test_a_query_whose_picture_is_gone_is_named_and_the_others_go_on(
    rnx: Rnx, tmp_path: Path, index: Path
) -> None:
    rows = [{"qid": "a", "query": "x"}, {"qid": "b", "query": "", "image": "gone.png"}]
    result = rnx(
        "search",
        "--queries",
        write_rows(tmp_path / "q.jsonl", *rows),
        "--run",
        tmp_path / "r",
        "--from",
        index,
    )
    assert result.code == 0
    assert "query b" in result.err
    assert "gone.png" in result.err
    assert {line.split()[0] for line in (tmp_path / "r").read_text().splitlines()} == {"a"}


def test_a_run_that_fails_half_way_leaves_the_old_one(
    rnx: Rnx, tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise RNXError("the server went away")

    monkeypatch.setattr(NodeCollection, "search", die)
    (tmp_path / "r").write_text("the old run\n")
    queries = write_rows(tmp_path / "q.jsonl", {"qid": "a", "query": "x"})
    refused(
        rnx("search", "--queries", queries, "--run", tmp_path / "r", "--from", index),
        "the server went away",
    )
    assert (tmp_path / "r").read_text() == "the old run\n"
    assert list(tmp_path.glob("*.part")) == []


# --- rerank


def test_lists_are_reranked_into_a_trec_run(rnx: Rnx, tmp_path: Path) -> None:
    write_image(tmp_path / "red.png", RED)
    candidates = [
        {"docid": "d1", "text": "Rust is iron oxide.", "score": 3.0},
        {"docid": "d 2", "text": "Bees make honey from nectar."},
        {"docid": "d3", "image": "red.png"},
        {"docid": "d4", "image": str(tmp_path / "red.png"), "text": "a red square"},
    ]
    lists = write_rows(
        tmp_path / "lists.jsonl",
        {"qid": "q1", "query": "how do bees make honey?", "candidates": candidates},
        {"qid": "q2", "query": "what is rust?", "image": "red.png", "candidates": candidates[:2]},
        {"qid": "q3", "query": "nothing to order", "candidates": []},
    )
    result = rnx("rerank", lists, "--run", tmp_path / "out.trec")
    assert result.code == 0, result.err
    run = trec(tmp_path / "out.trec")
    first = [row for row in run if row[0] == "q1"]
    assert sorted(row[2] for row in first) == ["d%202", "d1", "d3", "d4"]
    assert [row[3] for row in first] == [1, 2, 3, 4]
    texts = [row[2] for row in first if row[2] in ("d%202", "d1")]
    assert texts == ["d%202", "d1"]
    assert len([row for row in run if row[0] == "q2"]) == 2
    again = rnx(
        "rerank", lists, "--run", tmp_path / "again.trec", "--memory-path", tmp_path / "memories"
    )
    assert again.code == 0
    assert (tmp_path / "again.trec").read_text() == (tmp_path / "out.trec").read_text()
    assert (tmp_path / "memories").is_dir()


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"qid": "q", "query": "x"}, "candidates"),
        ({"qid": "q", "query": "x", "candidates": {"docid": "a"}}, "candidates"),
        ({"qid": "q", "query": "x", "candidates": ["a"]}, "docid"),
        ({"qid": "q", "query": "x", "candidates": [{"text": "a"}]}, "docid"),
        ({"qid": "q", "query": "x", "candidates": [{"docid": "", "text": "a"}]}, "docid"),
        ({"qid": "q", "query": "x", "candidates": [{"docid": "a"}]}, "neither"),
        ({"qid": "q", "query": "x", "candidates": [{"docid": "a", "text": " "}]}, "neither"),
        ({"qid": "q", "query": "x", "candidates": [{"docid": "a", "image": 7}]}, "image"),
        ({"qid": "q", "query": "x", "candidates": [{"docid": "a", "text": "b"}] * 2}, "twice"),
    ],
    ids=str,
)
def test_wrong_rows_of_lists_are_named(rnx: Rnx, tmp_path: Path, row: Any, word: str) -> None:
    good = {"qid": "good", "query": "x", "candidates": [{"docid": "a", "text": "b"}]}
    result = rnx("rerank", write_rows(tmp_path / "l.jsonl", good, row), "--run", tmp_path / "r")
    refused(result, word, "line 2")
    assert not (tmp_path / "r").exists()


def test_what_was_written_by_the_command_line_is_read_by_the_library(
    index: Path, docs: Path
) -> None:
    collection = NodeCollection(index)
    (node,) = collection.get(["sub/law one.md"])
    assert node.metadata == {"source": "sub/law one.md"}
    assert str(docs / "red.png") in collection.paths()
    collection.close()


def test_a_broken_picture_costs_its_own_place_only(rnx: Rnx, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG broken")
    candidates = [
        {"docid": "gone", "image": "bad.png"},
        {"docid": "caption", "text": "Bees make honey.", "image": "bad.png"},
        {"docid": "text", "text": "Rust is iron oxide."},
    ]
    rows = [
        {"qid": "q1", "query": "what do bees make?", "candidates": candidates},
        {"qid": "q2", "query": "", "image": "bad.png", "candidates": candidates},
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result = rnx("rerank", tmp_path / "lists.jsonl", "--run", tmp_path / "out.trec")
    assert result.code == 0, result.err
    run = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert [row[2] for row in run if row[0] == "q1"] == ["caption", "text", "gone"]
    # The order that was given.
    assert [row[2] for row in run if row[0] == "q2"] == [
        "gone",
        "caption",
        "text",
    ]
    assert "bad.png" in result.err


# --- chat


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # LlamaIndex leaves event loops open
def test_chat_reads_lines_and_answers_with_sources(
    rnx: Rnx, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What do bees make?\n"))
    result = rnx("chat", "--from", index, "-n", 2)
    assert result.code == 0
    assert "Bees make honey in hives. [1]" in result.out
    assert "[1] paper.pdf, page 1" in result.out
    assert result.err == ""


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((), "no index was given"),
        (("--from", "nowhere"), "there is no index in nowhere"),
        (("--llm-options", "{"), "which is no JSON"),
        (("--llm-options", "[1]"), "an object is needed"),
        (("--llm", "nobody"), "allowed are extract, smollm2, ranker"),
        (("--llm", "ranker"), "rnx-mini ranks and does not write"),
        (("--llm-options", '{"a": 1}'), "has no options; got a"),
    ],
)
def test_chat_refuses(rnx: Rnx, index: Path, options: tuple[str, ...], part: str) -> None:
    known = () if not options or "--from" in options else ("--from", index)
    refused(rnx("chat", *known, *options), part)


@pytest.mark.parametrize("row", ["[" * 100_000, '{"qid": ' + "9" * 5_000 + "}"])
def test_rows_that_no_parser_takes(rnx: Rnx, tmp_path: Path, row: str) -> None:
    """A hundred thousand brackets, a number of five thousand digits: Python's own parser gives up
    in its own way.
    """
    refused(
        rnx("rerank", write_rows(tmp_path / "l.jsonl", row), "--run", tmp_path / "out"),
        "line 1",
        "is not JSON",
    )


def test_a_device_is_written_and_never_replaced(rnx: Rnx, tmp_path: Path) -> None:
    lists = write_rows(
        tmp_path / "l.jsonl",
        {"qid": "1", "query": "bees", "candidates": [{"docid": "a", "text": "bees"}]},
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert rnx("rerank", lists, "--run", pipe).code == 0
    assert os.read(reader, 100).startswith(b"1 Q0 a 1 ")
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["", "..", "../../outside", "a/b", "a\nb", "x" * 256])
def test_a_collection_name_leads_nowhere(rnx: Rnx, docs: Path, tmp_path: Path, name: str) -> None:
    refused(
        rnx("index", docs, "--to", tmp_path / "deep" / "index", "--collection", name),
        "no name of a collection",
    )
    assert not (tmp_path / "outside").exists()
