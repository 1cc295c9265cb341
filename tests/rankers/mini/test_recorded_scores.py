"""The shipped rnx-mini scores a fixed list as it did at commit c18ce0a."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import llama_index_rnx
from llama_index_rnx.candidates import Candidate, Query, pil_source
from llama_index_rnx.rankers.mini import MiniRanker

RECORDED = json.loads(
    (Path(__file__).parent / "recorded" / "scores.json").read_text(encoding="utf-8")
)
NOTES = Path(llama_index_rnx.__file__).parent / "demo" / "data" / "notes"


def drawn(colour: str, shape: str) -> Image.Image:
    """Return a coloured shape on white."""
    image = Image.new("RGB", (320, 240), "white")
    getattr(ImageDraw.Draw(image), shape)((60, 40, 260, 200), fill=colour)
    return image


def candidate(name: str) -> Candidate:
    """Return a note of the demo, a drawing, or a drawing with a text."""
    if name == "both":
        text = "A green circle on a sheet of paper."
        return Candidate(id=name, text=text, image=pil_source(drawn("green", "ellipse")))
    note = NOTES / f"{name}.md"
    if note.is_file():
        return Candidate(id=name, text=note.read_text(encoding="utf-8").strip())
    colour, shape = name.split("-")
    return Candidate(id=name, image=pil_source(drawn(colour, shape)))


def test_scores_are_those_that_were_recorded(mini: MiniRanker) -> None:
    assert mini.fingerprint == RECORDED["fingerprint"]
    memories = mini.remember([candidate(name) for name in RECORDED["ids"]])
    for query, scores in RECORDED["scores"].items():
        # Another processor adds in another order.
        assert mini.score(Query(text=query), memories) == pytest.approx(scores, abs=1e-4)
