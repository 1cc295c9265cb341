"""The doctor on label readers whose prejudice is known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vlm import save_tiny

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.doctor import diagnose, fit, kendall_tau
from llama_index_rnx.rankers.loading import load_vlm
from llama_index_rnx.rankers.vlm import Calibration

QUERY = Query(text="q")


class Reader:
    """Logit = worth of the content + prejudice for the slot; stands in for a VLMRanker that is read by labels."""

    readout, name, window, labels, label_mass = "labels", "reader", 8, list("ABCDEFGH"), 0.9

    def __init__(self, prejudice: float, judgement: float) -> None:
        self.prejudice, self.judgement = prejudice, judgement
        self.calibration = Calibration()

    def uncalibrated(self) -> Any:
        return Reader(self.prejudice, self.judgement)

    def score_many(self, asks: Sequence[Any]) -> list[list[float]]:
        found = []
        for _, memories in asks:
            worth = torch.stack([memory["worth"] for memory in memories]).double() * self.judgement
            raw = worth - self.prejudice * torch.arange(len(memories))
            found.append(self.calibration.logits(raw).sigmoid().tolist())
        return found


def lists(count: int = 40, length: int = 8) -> list[Any]:
    torch.manual_seed(0)
    return [(QUERY, [{"worth": torch.randn(())} for _ in range(length)]) for _ in range(count)]


def test_a_fair_reader_is_usable() -> None:
    found = diagnose(Reader(0.0, 1.0), lists())
    assert found.usable
    assert found.agreement == 1.0
    assert found.slot_share < 0.05
    assert "may be read by labels" in str(found)


def test_a_reader_of_slots_is_refused_plainly() -> None:
    found = diagnose(Reader(1.0, 0.1), lists())
    assert not found.usable
    assert found.agreement < -0.8
    assert found.slot_share > 0.9
    assert "should NOT be read by labels" in str(found)


def test_the_slot_bias_is_found_and_removed() -> None:
    reader = Reader(0.5, 1.0)
    calibration = fit(reader, lists())
    assert calibration.slot_bias == pytest.approx([1.75 - 0.5 * slot for slot in range(8)], abs=0.25)
    (ask,) = lists(1)
    reader.calibration = calibration
    there, back = reader.score_many([ask, (QUERY, ask[1][::-1])])
    assert there == pytest.approx(back[::-1], abs=0.05)


def test_the_temperature_makes_scores_probabilities() -> None:
    reader, asks = Reader(0.0, 8.0), lists(200)
    torch.manual_seed(1)
    grades = [[float(torch.rand(()) < memory["worth"].sigmoid()) for memory in memories] for _, memories in asks]
    assert 4 < fit(reader, asks, grades).temperature < 16
    with pytest.raises(RNXError, match="one grade for each candidate"):
        fit(reader, asks, grades[:-1])


def test_kendall_tau_by_hand() -> None:
    assert kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])) == -1.0
    assert kendall_tau(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([9.0, 8.0, 7.0])) == 1.0
    assert kendall_tau(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])) == 0.0


@pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning")
def test_on_a_true_class(tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path / "m"))
    ranker = load_vlm(folder, readout="labels", device="cpu", window=4)
    memories = ranker.remember([Candidate(id=str(i), text=f"passage {i}") for i in range(4)])
    found = diagnose(ranker, [(QUERY, memories)] * 2)
    assert not found.usable
    assert len(found.slot_bias) == 4
    ranker.calibration = fit(ranker, [(QUERY, memories)])
    assert len(ranker.score(QUERY, memories)) == 4
    with pytest.raises(RNXError, match="2 to 4 each"):
        diagnose(ranker, [(QUERY, memories[:1])])
    with pytest.raises(RNXError, match="readout='labels'"):
        diagnose(load_vlm(folder, device="cpu"), [(QUERY, memories)])
