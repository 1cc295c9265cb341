"""Core-set selection in closed form, and greedy against the best set of a small case."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.coreset import main
from training.teachers import core_set, utility
from training.teachers.core_set import (
    agreement,
    difficulty,
    facility_location,
    kendall_tau_b,
)


def test_tau_of_known_orders() -> None:
    one = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert kendall_tau_b(one, one * 10) == pytest.approx(1.0)
    assert kendall_tau_b(one, -one) == pytest.approx(-1.0)
    assert kendall_tau_b(one, torch.tensor([3.0, 4.0, 2.0, 1.0])) == pytest.approx(4 / 6), (
        "one pair of six is swapped"
    )
    assert kendall_tau_b(one, torch.zeros(4)) == 0.0


def test_tau_b_counts_ties() -> None:
    one, tied = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])
    assert kendall_tau_b(one, tied) == pytest.approx(2 / math.sqrt(3 * 2))


def test_agreement_is_the_mean_of_all_pairs_and_never_negative() -> None:
    one, swapped = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([3.0, 4.0, 2.0, 1.0])
    assert agreement(torch.stack([one, one, swapped])) == pytest.approx((1 + 4 / 6 + 4 / 6) / 3)
    assert agreement(torch.stack([one, -one])) == 0.0
    assert agreement(one.unsqueeze(0)) == 1.0


def test_difficulty_is_what_ndcg_lacks() -> None:
    grades = torch.tensor([1.0, 0.0])
    assert difficulty(grades, torch.tensor([2.0, 1.0])) == pytest.approx(0.0)
    assert difficulty(grades, torch.tensor([1.0, 2.0])) == pytest.approx(1 - 1 / math.log2(3))
    assert difficulty(grades, torch.tensor([1.0, 2.0]), cutoff=1) == pytest.approx(1.0)
    assert difficulty(torch.zeros(2), torch.tensor([1.0, 2.0])) == 0.0


def test_worth_asks_for_agreement_and_for_something_to_learn() -> None:
    order = torch.tensor([3.0, 2.0, 1.0])
    agreed, torn = torch.stack([order, order]), torch.stack([order, -order])
    assert utility(agreed, order) == pytest.approx(0.0), "known already"
    assert utility(torn, -order) == 0.0, "noise"
    assert utility(agreed, -order) > 0.2
    assert utility(agreed, -order, grades=-order + 3.0) < utility(agreed, -order), (
        "the judge is of another mind"
    )


def test_worth_alone_takes_the_worthiest() -> None:
    assert facility_location(
        torch.eye(4), torch.tensor([0.1, 0.9, 0.3, 0.8]), 2, diversity=0.0
    ) == [1, 3]


def test_variety_takes_one_of_each_cluster() -> None:
    points = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1])
    likeness = (1.0 - (points.unsqueeze(0) - points.unsqueeze(1)).abs()).clamp_min(0.0)
    chosen = facility_location(likeness, torch.zeros(5), 2, diversity=1.0)
    assert chosen[0] == 1, "the middle of the larger cluster stands for most"
    assert chosen[1] in (3, 4)


def test_greedy_keeps_its_promise_against_every_set() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.rand(9, 3, generator=draw)
    likeness = 1.0 - torch.cdist(vectors, vectors) / 2
    worths = torch.rand(9, generator=draw)
    value = _value(likeness, worths, facility_location(likeness, worths, 3))
    best = max(
        _value(likeness, worths, list(chosen)) for chosen in itertools.combinations(range(9), 3)
    )
    assert best >= value >= (1 - 1 / math.e) * best
    assert value == pytest.approx(_value(likeness, worths, _plain_greedy(likeness, worths, 3))), (
        "lazy is no shortcut"
    )


def test_a_core_set_keeps_its_share_in_the_old_order() -> None:
    kept = core_set([0.9, 0.0, 0.8, 0.1], torch.eye(4), share=0.5, diversity=0.0)
    assert kept == [0, 2]
    assert len(core_set([0.5] * 10, torch.rand(10, 4), share=0.3)) == 3
    assert len(core_set([0.5], torch.rand(1, 4), share=0.1)) == 1


def test_the_command_keeps_rows_as_they_were(tmp_path: Path) -> None:
    rows = [
        {
            "qid": str(n),
            "query": query,
            "candidates": [{"docid": i, "text": text, "grade": g} for i, text, g in candidates],
        }
        for n, (query, candidates) in enumerate(
            [
                (
                    "who makes honey",
                    [("a", "Bees make honey.", 0), ("b", "The moon orbits the earth.", 3)],
                ),
                (
                    "what orbits the earth",
                    [("a", "Bees make honey.", 0), ("b", "The moon orbits the earth.", 3)],
                ),
            ]
        )
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = ["--lists", str(tmp_path / "in.jsonl"), "--to", str(tmp_path / "out.jsonl")]
    main([*paths, "--teacher", "rnx-mini", "--share", "0.5", "--diversity", "0"])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    main([*paths, "--teacher", "rnx-mini", "--share", "0.5", "--random", "1"])
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    with pytest.raises(SystemExit):
        main([*paths, "--teacher", "rnx-mini", "--share", "1.5"])


def _value(likeness: Tensor, worths: Tensor, chosen: list[int], diversity: float = 0.5) -> float:
    share = float(worths[chosen].sum() / worths.sort(descending=True).values[: len(chosen)].sum())
    return (1 - diversity) * share + diversity * float(
        likeness[chosen].amax(0).clamp_min(0.0).mean()
    )


def _plain_greedy(likeness: Tensor, worths: Tensor, count: int) -> list[int]:
    total, chosen = float(worths.sort(descending=True).values[:count].sum()), list[int]()

    def value(places: list[int]) -> float:
        return 0.5 * float(worths[places].sum()) / total + 0.5 * float(
            likeness[places].amax(0).mean()
        )

    while len(chosen) < count:
        chosen.append(
            max(
                (p for p in range(len(worths)) if p not in chosen),
                key=lambda place: value([*chosen, place]),
            )
        )
    return chosen
