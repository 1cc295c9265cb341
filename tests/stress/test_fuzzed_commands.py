"""What is fuzzed into the command line (arguments and JSONL files) ends in 0, 1 or 2 and, where it
fails, in one line.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deadline import deadline
from fakes import RED, FakeRanker, write_image, write_pdf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutate import mutated
from sizes import sizes

import llama_index_rnx
from llama_index_rnx.cli import entry_point as cli
from llama_index_rnx.memory import RAM

SECONDS = 30.0
FUZZ = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)
TEXT = st.text(max_size=20)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.just("\ud800"))
JSON = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
IMAGE = (
    st.sampled_from(
        ["red.png", "gone.png", "notes", "/dev/zero", "a\0b", "../red.png", "broken.jpg"]
    )
    | LEAF
)
CANDIDATE = (
    st.fixed_dictionaries(
        {}, optional={"docid": LEAF, "text": LEAF, "image": IMAGE, "score": LEAF, "grade": LEAF}
    )
    | LEAF
)
ROW = st.fixed_dictionaries(
    {"qid": TEXT | LEAF, "query": TEXT | LEAF},
    optional={"image": IMAGE, "candidates": st.lists(CANDIDATE, max_size=4) | LEAF},
)
GOOD = st.fixed_dictionaries(
    {
        "qid": st.integers(0, 10**6).map(str),
        "query": TEXT.filter(str.strip),
        "candidates": st.lists(
            st.fixed_dictionaries(
                {"docid": TEXT.filter(bool), "text": TEXT.filter(str.strip)},
                optional={"image": IMAGE},
            ),
            max_size=4,
        ),
    }
)
LONG = {"brackets": b"[" * 100_000, "number": b'{"qid": ' + b"9" * 5_000 + b"}"}
FILES = st.one_of(
    st.lists(ROW | JSON, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    st.lists(GOOD, min_size=1, max_size=3).map(
        lambda rows: "\n".join(map(json.dumps, rows)).encode()
    ),
    st.binary(max_size=60),
    st.sampled_from(["brackets", "number"]).map(lambda name: LONG[name]),
)
# Names below the test's own folder only: whatever is named after --run or --to is written.
NAMES = st.sampled_from(
    [
        "docs",
        "index",
        "red.png",
        "lists.jsonl",
        "queries.jsonl",
        "gone",
        "docs/a.md",
        "new",
        "a b",
        "-",
        "ä",
        "",
    ]
)
NUMBERS = st.sampled_from(["0", "1", "5", "-1", "1e9", "99999999999999999999", "x", ""])
WORDS = st.one_of(
    NAMES, NUMBERS, TEXT.map(lambda text: text.replace("/", "").replace(".", "").replace("~", ""))
)
FLAGS = {
    "index": ["--to", "--collection"],
    "search": [
        "--from",
        "--image",
        "-k",
        "-n",
        "--no-rerank",
        "--model",
        "--format",
        "--queries",
        "--run",
        "--collection",
    ],
    "rerank": ["--run", "--model", "--windows", "--memory-path"],
    "calibrate": ["--model", "--to"],
    "doctor": ["--lists"],
}


READERS = {
    "rerank": ["rerank"],
    "search": ["search", "--no-rerank", "--from", "index", "--queries"],
}
WHOLE = {
    "index": ["docs", "--to", "new"],
    "search": ["--from", "index"],
    "rerank": ["lists.jsonl", "--run", "out"],
}


@st.composite
def arguments(draw: Any) -> list[str]:
    """A command with flags that it has, values for them, and sometimes a flag that it has not."""
    command = draw(st.sampled_from(sorted(FLAGS)))
    found = [command, *draw(st.lists(WORDS, max_size=3))]
    for flag in draw(st.lists(st.sampled_from(FLAGS[command]), max_size=5)):
        found += [flag] if flag == "--no-rerank" else [flag, draw(WORDS)]
    return found + (WHOLE.get(command, []) if draw(st.booleans()) else [])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with what commands work on, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("Bees make honey.")
    write_pdf(tmp_path / "docs" / "b.pdf", ["Rust is iron oxide."])
    write_image(tmp_path / "red.png", RED)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (tmp_path / "lists.jsonl").write_text(
        '{"qid": 1, "query": "bees", "candidates": [{"docid": "a", "text": "honey"}]}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"qid": 1, "query": "bees"}\n')
    assert run("index", "docs", "--to", "index")[0] == 0
    yield tmp_path
    RAM.clear()


def run(*words: str) -> tuple[int, str]:
    """The exit code and stderr of `rnx WORDS`; any other exception than an exit goes through."""
    before, show, code = sys.argv, warnings.showwarning, 0
    sys.argv = ["rnx", *words]
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace")
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
            deadline(SECONDS),
        ):
            cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv, warnings.showwarning = before, show
        err.flush()
        said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    return code, said


def check(code: int, said: str) -> None:
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    if code == 2:
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert len(lines[0]) < 2_000, said


@pytest.mark.parametrize("count", sizes(40, 2_000))
def test_arguments(count: int, place: Path) -> None:
    codes: Counter[int] = Counter()

    @settings(FUZZ, max_examples=count)
    @given(words=arguments())
    def fuzz(words: list[str]) -> None:
        code, said = run(*words)
        codes[code] += 1
        check(code, said)

    fuzz()
    print(f"{count} command lines: exit codes {dict(codes)}")


@pytest.mark.parametrize("count", sizes(80, 8_000))
def test_files_of_lists(count: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ranker that takes no time: what is tested is the reading of files."""
    codes: Counter[int] = Counter()
    monkeypatch.setattr(
        llama_index_rnx, "load_ranker", lambda *_, **__: FakeRanker(fingerprint="fixed")
    )

    @settings(FUZZ, max_examples=count)
    @given(
        data=FILES,
        seed=st.integers(0, 10**9),
        command=st.sampled_from(["rerank", "rerank", "rerank", "search"]),
    )
    def fuzz(data: bytes, seed: int, command: str) -> None:
        rng = random.Random(seed)
        (place / "fuzzed.jsonl").write_bytes(
            mutated(data, rng, [data, b"{}"]) if rng.random() < 0.3 else data
        )
        code, said = run(*READERS[command], "fuzzed.jsonl", "--run", "out.trec")
        codes[code] += 1
        check(code, said)
        assert (place / "out.trec").exists() == (code == 0)
        (place / "out.trec").unlink(missing_ok=True)

    fuzz()
    print(f"{count} JSONL files: exit codes {dict(codes)}")
