"""The diagnosis of label rankers whose position bias is known by construction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm import diagnose, fit, kendall_tau, load_vlm
from llama_index_rnx.ranking import Calibration

QUERY = Query(text="q")


class Reader:
    """Logit = value of the content + bias for a position in a list of that length; stands in for a
    VLMRanker by labels.
    """

    readout, name, window, labels = "labels", "reader", 16, list("ABCDEFGHIJKLMNOP")

    def __init__(
        self,
        bias: Callable[[int, int], float] = lambda position, count: 0.0,
        judgement: float = 1.0,
    ) -> None:
        self.bias, self.judgement = bias, judgement
        self.calibration = Calibration()
        self.label_mass = 0.9

    def with_single_order(self) -> Any:
        return self

    def uncalibrated(self) -> Any:
        return Reader(self.bias, self.judgement)

    def score_many(self, requests: Sequence[Any]) -> list[list[float]]:
        scores = []
        for _, memories in requests:
            worth = torch.stack([memory["worth"] for memory in memories]).double() * self.judgement
            bias = [self.bias(position, len(memories)) for position in range(len(memories))]
            scores.append(self.calibration.logits(worth + torch.tensor(bias)).sigmoid().tolist())
        return scores


def lists(count: int = 40, length: int = 8, seed: int = 0) -> list[Any]:
    torch.manual_seed(seed)
    return [(QUERY, [{"worth": torch.randn(())} for _ in range(length)]) for _ in range(count)]


def falling(position: int, count: int) -> float:
    return -0.5 * position


def by_label(position: int, count: int) -> float:
    """Every label has a value of its own, wherever the list ends."""
    return 3 * math.sin(5.0 * position)


def test_a_fair_reader_is_usable() -> None:
    diagnosis = diagnose(Reader(), lists())
    assert diagnosis.usable
    assert diagnosis.agreement == 1.0
    assert diagnosis.position_bias_share < 0.02
    assert "may be read by labels" in str(diagnosis)


def test_a_reader_of_positions_is_refused_plainly() -> None:
    diagnosis = diagnose(Reader(falling, judgement=0.1), lists())
    assert not diagnosis.usable
    assert diagnosis.agreement < -0.8
    assert diagnosis.position_bias_share > 0.9
    assert "should NOT be read by labels" in str(diagnosis)


def test_the_share_of_positions_counts_no_chance() -> None:
    for count in (1, 2, 5):  # few lists: position means differ by chance
        shares = [
            diagnose(Reader(), lists(count, seed=seed)).position_bias_share for seed in range(20)
        ]
        assert sum(shares) / len(shares) < 0.1


def test_the_position_bias_is_found_and_removed() -> None:
    reader = Reader(falling)
    calibration = fit(reader, lists())
    assert [len(row) for row in calibration.slot_bias] == [8, 5, 3]
    assert calibration.slot_bias[0] == pytest.approx(
        [1.75 - 0.5 * position for position in range(8)], abs=0.25
    )
    (ask,) = lists(1)
    reader.calibration = calibration
    there, back = reader.score_many([ask, (QUERY, ask[1][::-1])])
    assert there == pytest.approx(back[::-1], abs=0.05)
    # The doctor sees the checkpoint with its calibration.
    assert diagnose(reader, lists(seed=1)).position_bias_share < 0.05


@pytest.mark.parametrize("length", [16, 14, 11, 8, 6, 5, 4, 3, 2])
def test_the_bias_of_lists_of_other_lengths_is_removed_too(length: int) -> None:
    reader = Reader(by_label, judgement=0.3)
    before = diagnose(reader, lists(length=length)).position_bias_share
    reader.calibration = fit(reader, lists(length=16))
    after = diagnose(reader, lists(length=length)).position_bias_share
    assert before > 0.8
    assert after < 0.35


def test_temperature_and_offset_make_scores_probabilities() -> None:
    reader, requests = Reader(judgement=8.0), lists(200)
    torch.manual_seed(1)
    grades = [
        [float(torch.rand(()) < (memory["worth"] - 2).sigmoid()) for memory in memories]
        for _, memories in requests
    ]
    fitted = fit(reader, requests, grades)
    assert 4 < fitted.temperature < 16
    assert -2.6 < fitted.offset < -1.4
    reader.calibration = fitted
    scores = torch.tensor(reader.score_many(requests))
    assert float(scores.mean()) == pytest.approx(float(torch.tensor(grades).mean()), abs=0.01)
    high = scores > 0.5
    # At min_score=.5 a candidate is more likely relevant than not.
    assert float(torch.tensor(grades)[high].mean()) > 0.5


def test_lists_without_grades_serve_the_position_bias_only() -> None:
    requests, some = lists(20), [[1.0, *[0.0] * 7] if i % 2 else [] for i in range(20)]
    fitted = fit(Reader(), requests, some)
    alone = fit(Reader(), requests)
    assert fitted.offset < -1
    assert (alone.temperature, alone.offset) == (1.0, 0.0)
    assert fit(Reader(), requests, [[]] * 20) == alone
    with pytest.raises(RNXError, match="one grade for each candidate"):
        fit(Reader(), requests, some[:-1])
    with pytest.raises(RNXError, match="one grade for each candidate"):
        fit(Reader(), requests, [[1.0, 0.0]] * 20)
    with pytest.raises(RNXError, match="needs grades of 0 and above 0"):
        fit(Reader(), requests, [[0.0] * 8] * 20)


def test_a_calibration_by_hand() -> None:
    raw = torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64)
    assert Calibration(temperature=2.0, offset=-1.0, slot_bias=[[0.5, -0.5, 0.0]]).logits(
        raw
    ).tolist() == [-0.5, -1.5, -1.0]
    for mistake in ({"temperature": 0.0}, {"offset": math.nan}):
        with pytest.raises(ValueError, match="above 0"):
            Calibration(**mistake)
    for rows in ([0.1, -0.1], [[]], [[0.0, math.inf]]):
        with pytest.raises(ValueError, match="a row of numbers for each length"):
            Calibration(slot_bias=rows)  # type: ignore[arg-type]


def test_kendall_tau_by_hand() -> None:
    assert kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])) == -1.0
    assert kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([9.0, 8.0, 7.0])) == 1.0
    assert kendall_tau(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])) == 0.0


@pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning")
def test_on_a_true_class(folders: dict[str, Path]) -> None:
    folder = str(folders["qwen2_vl"])
    ranker = load_vlm(folder, readout="labels", device="cpu", window=9, both_orders=True)
    words = ["red", "apple", "green", "pear", "blue", "plum", "sea", "stone"]
    texts = [[f"{words[i % 8]} {words[(i + k) % 8]}" for i in range(9)] for k in range(1, 8)]
    requests = [
        (
            Query(text=words[k]),
            ranker.remember([Candidate(id=str(i), text=text) for i, text in enumerate(row)]),
        )
        for k, row in enumerate(texts)
    ]
    ranker.score(*requests[0])
    diagnosis = diagnose(ranker, requests)
    assert not diagnosis.usable
    # A single order is examined, though the ranker reads both.
    assert diagnosis.position_bias_share > 0.8
    assert len(diagnosis.position_bias) == 9
    masses = []
    for ask in requests[:2]:
        alone = load_vlm(folder, readout="labels", device="cpu", window=9)
        alone.score(*ask)
        masses.append(alone.label_mass or 0.0)
    once = ranker.with_single_order()
    once.score_many(requests[:2])
    assert once.label_mass == pytest.approx(sum(masses) / 2)
    ranker = ranker.with_calibration(fit(ranker, requests))
    assert diagnose(ranker, requests).position_bias_share < diagnosis.position_bias_share / 2
    for length in (8, 6, 4, 3):  # another length than the lists that were given
        shorter = [(query, memories[:length]) for query, memories in requests]
        assert diagnose(ranker, shorter).position_bias_share < 0.7
    with pytest.raises(RNXError, match="2 to 9 each"):
        diagnose(ranker, [(QUERY, requests[0][1][:1])])
    with pytest.raises(RNXError, match="readout='labels'"):
        diagnose(load_vlm(folder, device="cpu"), requests)
