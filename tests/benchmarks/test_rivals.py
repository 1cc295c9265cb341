"""The rival of the benchmark that is to do the same work as our pointwise read-out does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import BLUE, RED
from PIL import Image

from benchmarks.rivals import cross_encoder, predicted
from llama_index_rnx.candidates import Candidate, Query, pil_source
from llama_index_rnx.rankers.vlm import load_vlm

CANDIDATES = [
    Candidate(id="text", text="a red apple"),
    Candidate(id="picture", image=pil_source(Image.new("RGB", (90, 60), RED))),
    Candidate(id="both", text="the sea", image=pil_source(Image.new("RGB", (64, 130), BLUE))),
]


@pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning")
@pytest.mark.parametrize("kind", ["text", "picture", "both"])
def test_sentence_transformers_scores_what_our_pointwise_readout_scores(
    folders: dict[str, Path], kind: str
) -> None:
    ours = load_vlm(str(folders["qwen2_vl"]), device="cpu", memory_dtype="float32")
    query = Query(text="what is\nred?")
    candidates = [one for one in CANDIDATES if one.id in ("text", kind)]
    theirs = [
        score
        for one in candidates
        for score in predicted(cross_encoder(ours.backbone), query, [one])
    ]
    assert theirs == pytest.approx(ours.score(query, ours.remember(candidates)), abs=2e-5)
