"""Why A stands above B: weights that can be computed by hand, a bounded cost, any ranker, nothing
of the data unescaped.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from fakes import BLUE, RED, FakeRanker, image_base64
from fakes.results import Page
from llama_index.core.schema import ImageNode, MediaResource, Node, NodeWithScore, TextNode
from PIL import Image

from llama_index_rnx import RNXError
from llama_index_rnx.candidates import Candidate, Query, bytes_source
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.results import why
from llama_index_rnx.results.explanation import Side, html_explanation
from llama_index_rnx.results.html import html_cell
from llama_index_rnx.results.occlusion import explain, grid
from llama_index_rnx.results.occlusion_scorer import EDGE

LOWEST = math.log(EDGE / (1 - EDGE))


def weights(side: Side) -> dict[str, float]:
    return {side.candidate.text[slice(*piece.span)]: piece.weight for piece in side.words}


def text_hits(*texts: str) -> list[NodeWithScore]:
    """Without metadata, which would be text, too."""
    return [NodeWithScore(node=TextNode(id_=f"n{i}", text=text)) for i, text in enumerate(texts)]


def spot() -> bytes:
    """Return a red image with a blue spot in its middle."""
    image = Image.new("RGB", (60, 60), RED)
    image.paste(BLUE, (20, 20, 40, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_words_weigh_what_the_lead_loses_without_them() -> None:
    explanation = why(FakeRanker(), "red rain", text_hits("a red sea", "blue rain"))
    assert explanation.lead == pytest.approx(0)
    assert weights(explanation.better) == pytest.approx({"a": 0, "red": -LOWEST, "sea": 0})
    assert weights(explanation.worse) == pytest.approx({"blue": 0, "rain": -LOWEST})


def test_the_region_that_shows_it_weighs_most() -> None:
    nodes = [NodeWithScore(node=ImageNode(image=base64(spot()))), *text_hits("blue")]
    explanation = why(FakeRanker(), "blue", nodes, pieces=9)
    assert len(explanation.better.regions) == 9
    middle = max(explanation.better.regions, key=lambda piece: piece.weight)
    assert middle.box == pytest.approx((1 / 3, 1 / 3, 2 / 3, 2 / 3))
    assert sum(piece.weight > 1 for piece in explanation.better.regions) == 1


def base64(data: bytes) -> str:
    import base64 as coding

    return coding.b64encode(data).decode()


def test_places_and_the_list_that_is_read_along() -> None:
    ranker = FakeRanker()
    explanation = why(
        ranker, "rain", text_hits("sun", "rain", "snow", "ice"), better=1, worse=3, others=1
    )
    assert [explanation.better.candidate.id, explanation.worse.candidate.id] == ["n1", "n3"]
    assert set(ranker.reads) == {3}
    assert explanation.reads == len(ranker.reads)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (0, 2), (-1, 1)])
def test_wrong_places(better: int, worse: int) -> None:
    with pytest.raises(RNXError, match="two different positions from 0 to 1"):
        why(FakeRanker(), "rain", text_hits("sun", "rain"), better=better, worse=worse)


def test_the_cost_is_bounded() -> None:
    ranker = FakeRanker()
    long = " ".join(f"Sentence {i} has rain and {'many ' * 20} words." for i in range(200))
    page = Node(text_resource=MediaResource(text=long), image_resource=MediaResource(data=spot()))
    explanation = why(ranker, "rain", [NodeWithScore(node=page), *text_hits("rain")], pieces=12)
    assert explanation.reads <= 1 + 3 * 12 + 1
    spans = [piece.span for piece in explanation.better.words]
    assert spans == sorted(spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


class ApartRanker(FakeRanker):
    """Remembers a text and a picture under names of their own, as the real ones do."""

    def remember(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        found = []
        for candidate in candidates:
            halves = {
                "text": Candidate(id="", text=candidate.text),
                "image": Candidate(id="", image=candidate.image),
            }
            kept = {"text": candidate.text, "image": candidate.image}
            made = {
                name: super(ApartRanker, self).remember([half])[0]["words"]
                for name, half in halves.items()
                if kept[name]
            }
            found.append(made)
        return found

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        return super().score(query, [{"words": joined(memory)} for memory in memories])


def joined(memory: dict[str, Any]) -> Any:
    import torch

    return torch.cat(
        [
            part
            for tensor in memory.values()
            for part in (tensor, torch.tensor([32], dtype=torch.uint8))
        ]
    )


def test_what_did_not_change_is_remembered_once() -> None:
    page = Node(
        text_resource=MediaResource(text="rain or snow"), image_resource=MediaResource(data=spot())
    )
    nodes = [NodeWithScore(node=page), *text_hits("sun")]
    apart, together = ApartRanker(), FakeRanker()
    one, other = (why(ranker, "blue rain", nodes, pieces=9) for ranker in (apart, together))
    assert weights(one.better) == pytest.approx(weights(other.better))
    assert [p.weight for p in one.better.regions] == pytest.approx(
        [p.weight for p in other.better.regions]
    )
    assert len(apart.remembered) == 3 + 2 + 3 + 9  # both and the other; the halves; words; fields


def test_with_the_embedded_model(mini: MiniRanker) -> None:
    texts = ["In spring bees make honey.", "Rust is iron oxide."]
    page = Node(
        text_resource=MediaResource(text=texts[0]), image_resource=MediaResource(data=spot())
    )
    nodes = [NodeWithScore(node=page), *text_hits(texts[1])]
    explanation = why(mini, "what do bees make?", nodes, pieces=4)
    by_words = weights(explanation.better)
    assert max(by_words, key=by_words.__getitem__) in ("In spring", "bees make")
    assert len(explanation.better.regions) == 4
    assert explanation == why(mini, "what do bees make?", nodes, pieces=4)


def test_it_is_drawn_and_escaped() -> None:
    nasty = "<script>alert(1)</script> red \x1b[31m \u202e \ud800\nrain"
    page = Node(
        id_='"><b>',
        text_resource=MediaResource(text=nasty),
        image_resource=MediaResource(data=spot()),
    )
    explanation = why(
        FakeRanker(), "red blue", [NodeWithScore(node=page), *text_hits("rain")], pieces=9
    )
    page_html = Page(html_explanation(explanation))
    assert "<script>alert(1)</script>" in page_html.words
    assert page_html.all("script") == page_html.all("b") == []
    assert len(page_html.all("rect")) == 9
    assert {str(attrs["class"]) for attrs in page_html.all("rect")} == {"none", "for5"}
    assert "\x1b" not in page_html.words
    assert explanation._repr_html_() == html_cell(html_explanation(explanation))


def test_an_image_that_cannot_be_read_gives_one_line() -> None:
    broken = Candidate(id="p", image=bytes_source(b"no picture", "p.png"))
    with pytest.raises(RNXError, match=r"p\.png"):
        explain(FakeRanker(), Query(text="red"), [broken, Candidate(id="q", text="red")])


@pytest.mark.parametrize(
    ("size", "limit", "fields"),
    [((200, 300), 24, (4, 6)), ((300, 200), 24, (6, 4)), ((1, 9000), 5, (1, 5))],
)
def test_fields_are_as_square_as_may_be(
    size: tuple[int, int], limit: int, fields: tuple[int, int]
) -> None:
    boxes = list(grid(*size, limit))
    assert len(boxes) == fields[0] * fields[1]
    assert boxes[0][:2] == (0, 0)
    assert boxes[-1][2:] == (1, 1)
    assert sum(
        (right - left) * (bottom - top) for left, top, right, bottom in boxes
    ) == pytest.approx(1)


def test_in_words_it_is_one_line() -> None:
    texts = ["red rain", "sea"]
    explanation = why(
        FakeRanker(),
        "red rain",
        [NodeWithScore(node=TextNode(id_=text, text=text)) for text in texts],
    )
    assert str(explanation).startswith("red rain above sea: a lead of +")
    assert "\n" not in str(explanation)


def test_a_single_candidate_has_no_rival() -> None:
    with pytest.raises(RNXError, match="2 candidates"):
        explain(FakeRanker(), Query(text="red"), [Candidate(id="a", text="red")])


def test_image_only_lists() -> None:
    nodes = [NodeWithScore(node=ImageNode(image=image_base64(colour))) for colour in (RED, BLUE)]
    explanation = why(FakeRanker(), "red", nodes, pieces=4)
    assert explanation.lead == pytest.approx(-2 * LOWEST)
    assert explanation.better.words == []
