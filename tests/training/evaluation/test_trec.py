"""TREC files: what is written comes back, and something else is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_index_rnx.errors import SettingsError
from training.evaluation import read_qrels, read_run, write_qrels, write_run


def test_a_run_is_written_best_first_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    run = {"1": {"a": 0.5, "my notes.md#2": 0.75}, "2": {"100 %": 1.0}}
    write_run(path, run, "tag")
    assert path.read_text().splitlines() == [
        "1 Q0 my%20notes.md#2 1 0.750000000 tag",
        "1 Q0 a 2 0.500000000 tag",
        "2 Q0 100%20%25 1 1.000000000 tag",
    ]
    assert read_run(path) == run


def test_judgments_come_back_with_names_that_hold_blanks(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    qrels = {"1": {"my notes.md": 2, "b": 0}, "2": {"c": 1}}
    write_qrels(path, qrels)
    assert path.read_text() == "1 0 my%20notes.md 2\n1 0 b 0\n2 0 c 1\n"
    assert read_qrels(path) == qrels


def test_a_negative_grade_is_not_relevant(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    path.write_text("1 0 a -2\n")
    assert read_qrels(path) == {"1": {"a": 0}}


@pytest.mark.parametrize(("read", "allowed"), [(read_run, "qid Q0 docid"), (read_qrels, "four")])
def test_what_is_no_trec_file_is_refused(
    read: Callable[[Path], Any], allowed: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        read(tmp_path / "gone")
    path = tmp_path / "file"
    path.write_text("one two\n")
    with pytest.raises(SettingsError, match=f"is not a TREC file .*{allowed}"):
        read(path)
