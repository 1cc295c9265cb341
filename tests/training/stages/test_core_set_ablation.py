"""The comparison of a core set with chance, on worths and values that can be read off. It trains
nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch

from training.data import GradedList
from training.evaluation import add_row
from training.stages.core_set_ablation import Source, average_seeds, compare_arms


def lists(count: int) -> list[GradedList]:
    one = GradedList(source="s", qid="", query="q", docids=("a",), texts=("t",), grades=(1.0,))
    return [GradedList(**{**vars(one), "qid": str(number)}) for number in range(count)]


def test_both_shares_have_one_size_and_only_chance_depends_on_the_seed() -> None:
    of = Source(
        lists=lists(10), utilities=[0.1 * place for place in range(10)], queries=torch.eye(10)
    )
    kept, chance = (
        [[one.qid for one in of.arm(arm, 0.4, 0.0, seed)] for seed in (0, 1)]
        for arm in ("kept", "random")
    )
    assert kept == [["6", "7", "8", "9"]] * 2
    assert [len(found) for found in chance] == [4, 4]
    assert chance[0] != chance[1]
    assert len(of.arm("all", 0.4, 0.0, 0)) == 10


def test_seeds_are_averaged_before_queries_are_compared(tmp_path: Path) -> None:
    values = {
        ("kept", 0): [1.0, 0.0],
        ("kept", 1): [0.0, 1.0],
        ("random", 0): [0.5, 0.0],
        ("random", 1): [0.5, 0.0],
    }
    for (arm, seed), (one, other) in values.items():
        add_row(
            tmp_path / "r", {"arm": arm, "seed": seed, "values": {"dev": {"1": one, "2": other}}}
        )
    assert average_seeds([{"1": 1.0, "2": 0.0}, {"1": 0.0, "2": 1.0}]) == {"1": 0.5, "2": 0.5}
    line, whole = compare_arms(tmp_path / "r", "kept", "random", [0, 1])
    assert line.startswith("| dev | 0.5000 | 0.2500 | +0.2500 [")
    assert whole == "| mean | 0.5000 | 0.2500 | +0.2500 |"


def test_a_share_is_never_empty() -> None:
    of = Source(lists=lists(2), utilities=[0.0, 0.0], queries=torch.eye(2))
    assert len(of.arm("kept", 0.01, 0.5, 0)) == 1
