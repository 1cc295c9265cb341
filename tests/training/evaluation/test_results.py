"""Rows of results, chains of stages, and the lines and the plot that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llama_index_rnx.errors import SettingsError
from training.evaluation import (
    ablations,
    add_row,
    chain_of,
    draw,
    longest_chain,
    read_history,
    rows_of,
    table,
    write_history,
)


def stage_row(*chain: str, value: float = 0.5, seed: int = 0) -> dict[str, Any]:
    return {
        "kind": "stage",
        "seed": seed,
        "stage": chain[-1],
        "chain": list(chain),
        "metrics": {"texts": {"nDCG@10": value}},
        "before": {"texts": 0.25},
        "gain": {"texts": {"mean": 0.1, "low": 0.05, "high": 0.2}},
        "loss": {"first": 2.0, "last": 1.0},
        "seconds": 12.4,
    }


def test_rows_are_added_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "work" / "results.jsonl"
    assert rows_of(path) == []
    add_row(path, {"kind": "run", "name": "ä"})
    add_row(path, {"kind": "stage"})
    with path.open("a") as file:
        file.write('{"kind": "st')
    assert rows_of(path) == [{"kind": "run", "name": "ä"}, {"kind": "stage"}]


def test_a_history_comes_back_and_is_empty_where_nobody_wrote_one(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    write_history(tmp_path, [stage_row("a")])
    assert read_history(tmp_path) == [stage_row("a")]


def test_a_chain_has_the_stages_that_led_to_its_last_one() -> None:
    rows = [
        stage_row("a", "b"),
        stage_row("a"),
        stage_row("b"),
        stage_row("a", seed=1),
        {"kind": "own"},
    ]
    assert [row["chain"] for row in longest_chain(rows)] == [["a"], ["a", "b"]]
    assert chain_of(rows, rows[3]) == [rows[3]]
    with pytest.raises(SettingsError, match=r"run training\.curriculum first"):
        longest_chain([{"kind": "own"}])


def test_a_stage_is_one_line_of_the_table() -> None:
    assert table([stage_row("a", "b"), {"kind": "own"}]) == [
        "a / b: texts 0.5000 (+0.1000 [+0.0500, +0.2000])  loss 2.000 -> 1.000, 12 s"
    ]


def test_an_ablation_is_compared_with_all_stages() -> None:
    rows = [stage_row("a"), stage_row("a", "b", value=0.8), stage_row("b", value=0.6)]
    assert ablations(rows) == [
        "without a: texts 0.6000 (-0.2000)",
        "without b: texts 0.5000 (-0.3000)",
    ]
    assert ablations([]) == []


def test_the_plot_is_a_picture_of_the_longest_chain(tmp_path: Path) -> None:
    draw([stage_row("a"), stage_row("a", "b", value=0.8)], tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes()[:4] == b"\x89PNG"
