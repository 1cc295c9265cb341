"""Foreign text on its way out: whatever it holds, a terminal shows it and acts on nothing, and a
row stays a row.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import Rnx
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from llama_index_rnx.batch import docid_of, judgment_row, run_row
from llama_index_rnx.batch.trec import field_of
from llama_index_rnx.console import SafeConsole, note_if_slow, progress_bar, streams
from llama_index_rnx.text import UNSAFE, clean, encodable, json_text, lines, one_line

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
MARKS = [
    *"\u00ad\u061c\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069",
    *"\ufeff\u2028\u2029\ufff9\U000e0041",
]  # fmt: skip
# Halves of surrogate pairs; the second is how Python reads a byte that it cannot decode.
HALVES = ["\ud800", "\udcff"]
BLANKS = [chr(code) for code in range(0x10000) if chr(code).isspace()]
SEQUENCES = [
    "\x1b[31m", "\x1b[2J", "\x1b]0;OWNED\x07", "\x1b]8;;http://x\x1b\\", "\x9b31m",
    "\x9d0;OWNED\x9c", "\x1bc", "\x1b[?1049h", "\x1bP1$r\x1b\\", "\x1b", "\r", "\b\b\b",
]  # fmt: skip
HOSTILE = [*CONTROLS, *MARKS, *HALVES, *SEQUENCES]
NAMES = st.text(
    st.one_of(st.characters(), st.sampled_from([*CONTROLS, *MARKS, *HALVES, *BLANKS, "%"])),
    min_size=1,
)


def is_safe(text: str) -> bool:
    """Nothing in it but lines of what can be seen."""
    return not any(sign in text for sign in (*set(CONTROLS) - {"\n"}, *MARKS, *HALVES))


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> io.TextIOWrapper:
    """A terminal's stream, which refuses what its encoding lacks."""
    return io.TextIOWrapper(io.BytesIO(), encoding=getattr(request, "param", "utf-8"), newline="")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)  # type: ignore[attr-defined]


# --- the functions


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_what_a_terminal_acts_on_goes_and_the_words_stay(hostile: str) -> None:
    text = f"before {hostile} after"
    for plain in (lines(text), clean(text), one_line(text)):
        assert is_safe(plain)
        assert not re.search(f"[{UNSAFE}]", plain.replace("\n", ""))
        assert plain.startswith("before")
        assert plain.endswith("after")
    assert "\n" not in clean(text) + one_line(text)


def test_lines_and_blanks_stay_where_they_are_wanted() -> None:
    text = "a  b\r\n\x0b  c\td"
    assert lines(text) == "a  b\n  c d"
    assert one_line("a  b\nc") == "a  b c"
    assert clean(text) == "a b c d"


def test_a_title_that_never_ends_takes_no_more_than_its_line() -> None:
    assert lines("a\x1b]0;never ended\nand the rest of the page") == "a\nand the rest of the page"


@pytest.mark.parametrize(
    "text",
    [
        "Käse → 日本",
        "नमस्ते",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d👩\u200d👧",
        "e\u0301",
        "שלום",
        "\ue0b0",
    ],
)
def test_writing_of_every_script_stays_as_it_is(text: str) -> None:
    assert lines(text) == clean(text) == one_line(text) == text
    assert json.loads(json_text(text)) == text
    assert text in json_text(text)


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_json_is_the_same_json_and_safe_to_show(hostile: str) -> None:
    value = {f"key{hostile}": [f"text{hostile}", 1.5, None]}
    text = json_text(value)
    assert is_safe(text)
    assert json.loads(text) == value


def test_what_an_encoding_lacks_is_a_question_mark() -> None:
    assert encodable("Käse → \ud800", "latin-1") == "Käse ? ?"
    assert encodable("→ <b>", "ascii", "xmlcharrefreplace") == "&#8594; <b>"


# --- the exits


@pytest.mark.parametrize("stream", ["utf-8", "ascii", "latin-1", "cp1252"], indirect=True)
def test_every_exit_is_clean_in_every_encoding(
    stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    text = "→".join(HOSTILE)
    streams.print_note(text)
    streams.print_text(text)
    streams.print_json({"text": text})
    streams.print_json_line({"text": text})
    SafeConsole(file=stream).print(Text(text), text, markup=False)
    assert is_safe(written(stream).replace("\r\n", "\n"))


@pytest.mark.parametrize("stream", ["utf-8", "ascii"], indirect=True)
def test_json_says_the_same_in_every_encoding(
    stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    value = {"text": "→".join(HOSTILE)}
    streams.print_json(value)
    assert json.loads(written(stream)) == value


def test_a_note_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    streams.print_note("one\ntwo\u2028three\x0bfour")
    assert capsys.readouterr().err == "one two three four\n"


def test_colours_and_cursor_of_our_own_stay(stream: io.TextIOWrapper) -> None:
    console = SafeConsole(file=stream, force_terminal=True, color_system="standard", width=80)
    console.print(Text("a \x1b[31mname", "bold"))
    assert written(stream).startswith("\x1b[1ma name\x1b[0m")


def test_a_bar_with_a_foreign_title(
    monkeypatch: pytest.MonkeyPatch, stream: io.TextIOWrapper
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("reading \x9b31m\u202ex.pdf", 2, "pages", show=True) as advance:
        advance(2)
    shown = written(stream)
    assert "reading" in shown
    assert not any(sign in shown for sign in ("\x9b", "\u202e"))


def test_log_records_warnings_and_tracebacks_are_clean(
    stream: io.TextIOWrapper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    factory = logging.getLogRecordFactory()
    handler, log = logging.StreamHandler(stream), logging.getLogger("foreign")
    log.addHandler(handler)
    try:
        streams.clean_what_python_prints()
        log.warning("%s is left out", "\x1b]0;OWNED\x07\u202ename.pdf")
        try:
            raise ValueError("\x9bname\x1b[31m")
        except ValueError as error:
            log.exception("failed")
            sys.excepthook(ValueError, error, error.__traceback__)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning("\x1b[31mred", UserWarning, "file", 1)
    finally:
        logging.setLogRecordFactory(factory)
        log.removeHandler(handler)

    shown = written(stream)
    assert is_safe(shown)
    assert shown.startswith("name.pdf is left out\n")
    assert shown.count("ValueError: ") == 2
    assert shown.endswith("warning: red\n")


# --- the command line

NAME = "\x1b[31mBROKEN\x1b]0;OWNED\x07\u202e\x9b2J\u2028x"


@pytest.fixture
def hostile_index(rnx: Rnx, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"good{NAME}.txt").write_text(
        f"# Bees {NAME}\n\nBees make honey {NAME}.", encoding="utf-8"
    )
    (tmp_path / "in" / f"bad{NAME}.pdf").write_text("no PDF")
    (tmp_path / "in" / "undecodable\udcff.pdf").write_text("no PDF")
    result = rnx("index", tmp_path / "in", "--to", tmp_path / "idx")
    assert result.code == 0
    assert is_safe(result.err + result.out)
    assert result.err.count("left out: ") == 2
    assert len(result.err.splitlines()) == 3
    return tmp_path / "idx"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows any byte in a name")
def test_file_names_and_texts_in_reports_tables_json_html_and_runs(
    rnx: Rnx, hostile_index: Path, tmp_path: Path
) -> None:
    for form in ("table", "json", "html"):
        result = rnx("search", f"honey {NAME}", "--from", hostile_index, "--format", form)
        assert result.code == 0
        assert is_safe(result.out + result.err)
        assert "honey" in result.out

    (hit,) = json.loads(rnx("search", "honey", "--from", hostile_index, "--format", "json").out)
    assert hit["source"] == f"good{NAME}.txt"

    queries, run = tmp_path / "q.jsonl", tmp_path / "out.trec"
    queries.write_text(json.dumps({"qid": "1", "query": "honey"}))
    assert rnx("search", "--queries", queries, "--run", run, "--from", hostile_index).code == 0
    assert docid_of(only_row(run.read_text(encoding="utf-8"))[2]) == f"good{NAME}.txt"


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "x", "--from", f"/nowhere/{NAME}"],
        ["search", "x", "--from", "y", f"--{NAME}"],
        ["search", "x", "--from", "y", "-n", NAME],
        [f"dance{NAME}"],
        ["index", f"/nowhere/{NAME}", "--to", "z"],
        ["rerank", f"/nowhere/{NAME}", "--run", "z"],
        ["chat", "--from", "y", "--llm-options", NAME],
    ],
    ids=lambda arguments: arguments[0][:6],
)
def test_mistakes_are_told_on_one_clean_line(rnx: Rnx, arguments: list[str]) -> None:
    result = rnx(*arguments)
    assert result.code == 2
    assert is_safe(result.err)
    assert len(result.err.splitlines()) == 1


# --- TREC


def only_row(text: str) -> list[str]:
    """The fields of a text's only row, as the readers split it."""
    (row,) = text.splitlines()
    assert text == row + "\n"
    return row.split()


@pytest.mark.parametrize(
    "sign", [*BLANKS, *CONTROLS, *MARKS, *HALVES, "%", "%41", "é", "日"], ids=ascii
)
def test_a_docid_is_one_field_of_one_row(sign: str) -> None:
    docid = f"a{sign}b"
    fields = only_row(run_row("1", docid, 1, 0.5, "rnx"))
    assert fields == ["1", "Q0", field_of(docid), "1", "0.500000000", "rnx"]
    assert docid_of(fields[2]) == docid
    assert only_row(judgment_row("1", docid, 2)) == ["1", "0", field_of(docid), "2"]
    assert is_safe(fields[2])


@pytest.mark.parametrize("sign", [*BLANKS, *CONTROLS, *MARKS, *HALVES], ids=ascii)
def test_a_qid_is_one_field_of_one_row(sign: str) -> None:
    assert len(only_row(run_row(f"q{sign}1", "d", 1, 0.5, "rnx"))) == 6
    assert len(only_row(judgment_row(f"q{sign}1", "d", 2))) == 4


def test_plain_names_stay_as_they_are() -> None:
    assert (
        run_row("50%", "notes/käse.md#2", 1, 1.0, "rnx")
        == "50% Q0 notes/käse.md#2 1 1.000000000 rnx\n"
    )
    # Another program wrote it: it is no UTF-8, so nothing that we encoded.
    assert docid_of("caf%E9") == "caf%E9"


@given(NAMES)
def test_any_docid_comes_back(docid: str) -> None:
    fields = only_row(run_row("1", docid, 1, 0.5, "rnx"))
    assert len(fields) == 6
    assert docid_of(fields[2]) == docid


def test_the_training_reads_what_both_write(tmp_path: Path) -> None:
    evaluate: Any = pytest.importorskip("training.evaluation")
    run = {
        "1": {
            f"a{sign}b{index}": float(-index)
            for index, sign in enumerate([*BLANKS, "%", "\u2028", "\x85"])
        }
    }
    evaluate.write_run(tmp_path / "run.trec", run, "rnx")
    assert evaluate.read_run(tmp_path / "run.trec") == run
    qrels = {"1": dict.fromkeys(run["1"], 1)}
    evaluate.write_qrels(tmp_path / "qrels", qrels)
    assert evaluate.read_qrels(tmp_path / "qrels") == qrels


def test_a_qid_with_white_space_of_any_kind_is_refused(rnx: Rnx, tmp_path: Path) -> None:
    rows = tmp_path / "lists.jsonl"
    for sign in ("\u2028", "\u2003", "\x85", "\x1c", "\v", " "):
        rows.write_text(
            json.dumps(
                {"qid": f"a{sign}b", "query": "x", "candidates": [{"docid": "d", "text": "t"}]}
            )
        )
        result = rnx("rerank", rows, "--run", tmp_path / "out.trec")
        assert result.code == 2
        assert "white space" in result.err
        assert is_safe(result.err)
        assert not os.path.exists(tmp_path / "out.trec")


def test_a_note_comes_while_slow_work_is_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    with note_if_slow("still at work", after=0.01):
        end = time.monotonic() + 20
        lines = ""
        while not lines and time.monotonic() < end:
            time.sleep(0.01)
            lines += capsys.readouterr().err
        assert lines == "still at work\n"
    with note_if_slow("never said", after=600):
        pass
    assert capsys.readouterr().err == ""
