"""The hybrid's benchmark: kept reads are made once and survive a kill; its corrections are those of
the ranker itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.hybrid import Corrected, KeptReads
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.rankers.vlm import VLMRanker, diagnose, load_vlm, save_tiny
from llama_index_rnx.ranking import Calibration, Ranker
from llama_index_rnx.ranking.ranker import BatchRanker

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning"),
]
QUERY = Query(text="what is red")
CANDIDATES = [
    Candidate(id=str(i), text=text)
    for i, text in enumerate(("a red apple", "the sea", "no", "yes"))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def loaded(folder: Path, **options: Any) -> VLMRanker:
    return load_vlm(str(folder), readout="labels", dtype="float32", **options)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    "calibration", [Calibration(), Calibration(temperature=2.0, slot_bias=[[0.4, -0.3, -0.1]])]
)
def test_corrections_are_those_of_the_ranker(
    folder: Path, tmp_path: Path, both: bool, calibration: Calibration
) -> None:
    ranker = loaded(folder, both_orders=both).with_calibration(calibration)
    corrected = Corrected(KeptReads(ranker, tmp_path / "reads.jsonl"), both, calibration)
    memories = ranker.remember(CANDIDATES)
    assert corrected.score(QUERY, memories) == pytest.approx(
        ranker.score(QUERY, memories), abs=1e-6
    )
    assert isinstance(corrected, Ranker)


def test_a_read_is_made_once_and_a_torn_line_costs_only_itself(
    folder: Path, tmp_path: Path
) -> None:
    path, ranker = tmp_path / "reads.jsonl", loaded(folder)
    memories, reads = ranker.remember(CANDIDATES), KeptReads(ranker, tmp_path / "reads.jsonl")
    first = reads.score(QUERY, memories)
    other = reads.score(QUERY, memories[::-1])
    assert first != other
    with path.open("a") as stream:
        stream.write('\n{"key": "half a li')
    again = KeptReads(ranker, path)
    again._ranker = None  # type: ignore[assignment]  # a read that is made again would fail
    assert again.score_many([(QUERY, memories), (QUERY, memories[::-1])]) == [first, other]
    assert again.spent().startswith("2 reads, ")
    assert again.spent().startswith("0 reads, ")
    fresh = KeptReads(ranker, path)
    third = fresh.score(Query(text="the sea"), memories)
    assert KeptReads(ranker, path).score(Query(text="the sea"), memories) == third
    assert isinstance(fresh, BatchRanker)


def test_the_doctor_may_read_them(folder: Path, tmp_path: Path) -> None:
    ranker = loaded(folder)
    asks = [(QUERY, ranker.remember(CANDIDATES[:count])) for count in (2, 4)]
    found, expected = (
        diagnose(KeptReads(ranker, tmp_path / "reads.jsonl"), asks),
        diagnose(ranker, asks),
    )  # type: ignore[arg-type]
    assert found.label_mass == pytest.approx(expected.label_mass)
    assert found.agreement == expected.agreement
    assert found.position_bias == pytest.approx(expected.position_bias, abs=1e-6)
