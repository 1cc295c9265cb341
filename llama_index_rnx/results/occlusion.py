"""Why A stands above B: what a ranker's scores lose when a piece of a candidate is taken away. It
knows no ranker's insides.

Leave one out: a word, a sentence, or a part of the picture is removed, the candidate is remembered
and read again in its list, and the piece weighs as much as the lead of A over B (difference of
logits) falls. Any ranker will do, since only `remember` and `score` are asked; the number of pieces
is bounded, so the cost is, too. What is left out is a different text or picture than any that the
ranker was trained on, and two pieces that say the same cover for each other: read the weights as a
hint, not as a proof.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from llama_index.core.schema import NodeWithScore, QueryBundle
from PIL import Image
from torch import Tensor

from llama_index_rnx.candidates import (
    Candidate,
    ImageSource,
    Query,
    pil_source,
    query_of,
    usable_candidate,
    without_unreadable_images,
)
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.ranking import Ranker, score_batch
from llama_index_rnx.results.explanation import Attribution, Box, Explanation, Side
from llama_index_rnx.text import Span, grouped, sentences

# Of a text and of a picture, at most; twice as many of a long text: its sentences, then the best
# one's words.
MAX_PARTS = 20
LIST = 8  # candidates that are read with A and B: a listwise score depends on its list
PIXELS = 640 * 640  # of a picture whose parts are covered
AT_ONCE = 32  # variants remembered together
EDGE = 1e-6  # scores nearer to 0 or 1 count as this far from it

_WORD = re.compile(r"\S+")


def why(
    ranker: Ranker,
    query: str | QueryBundle,
    nodes: Sequence[NodeWithScore],
    better: int = 0,
    worse: int = 1,
    *,
    pieces: int = MAX_PARTS,
    others: int = LIST,
) -> Explanation:
    """Why the node at place `better` of a list stands above the one at place `worse`.

    Args:
        ranker: any; `load_ranker()` for the embedded one.
        nodes: a list as a retriever or a reranker gave it.
        pieces: of a text and of a picture, at most; each costs one more read of the list, see
            `Explanation.reads`.
        others: further nodes of the list that are read along. A model that reads each candidate
            alone needs none: give 0.

    Raises:
        RNXError: a place is not in the list, both are the same, nothing of a node there can be
            read, or the query is empty.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from llama_index_rnx import load_ranker
        >>> texts = ["In spring bees make honey.", "Rust is iron oxide."]
        >>> found = why(load_ranker(), "what do bees make?", [NodeWithScore(node=TextNode(text=text)) for text in texts])
        >>> best = max(found.better.words, key=lambda piece: piece.weight)
        >>> texts[0][slice(*best.span)]
        'bees'
        >>> found.lead > 0  # in logits
        True
    """
    count = len(nodes)
    if not (0 <= better < count and 0 <= worse < count and better != worse):
        raise RNXError(
            f"better={better}, worse={worse} of {count} nodes; two different places from 0 to {count - 1} are allowed."
        )
    rest = [place for place in range(count) if place not in (better, worse)][: max(0, others)]
    usable = without_unreadable_images(
        [usable_candidate(nodes[place].node)[0] for place in (better, worse, *rest)]
    )
    for place, candidate in zip((better, worse), usable[:2], strict=True):
        if candidate.is_empty:
            raise RNXError(
                f"nothing of the node at place {place} ({candidate.id!r}) can be read; choose another place."
            )
    return explain(ranker, query_of(query), [one for one in usable if not one.is_empty], pieces)


def explain(
    ranker: Ranker, query: Query, candidates: Sequence[Candidate], pieces: int = MAX_PARTS
) -> Explanation:
    """Why the first of these candidates stands above the second; the others are read along.

    Raises:
        RNXError: there are fewer than two, or `pieces` is below 1.
    """
    if len(candidates) < 2 or pieces < 1:
        raise RNXError(
            f"got {len(candidates)} candidates and pieces={pieces}; 2 candidates and 1 piece at least are needed."
        )
    start = time.perf_counter()
    listed = list(candidates)[: ranker.window]
    reader = _Reader(ranker, query, listed)
    scores, lead = reader.scores, reader.lead(reader.scores)
    better = _side(reader, 0, scores[0], pieces)
    worse = _side(reader, 1, scores[1], pieces)
    seconds = time.perf_counter() - start
    return Explanation(
        query=query, better=better, worse=worse, lead=lead, reads=reader.reads, seconds=seconds
    )


class _Reader:
    """Scores a list again and again, one of its two first candidates changed each time."""

    def __init__(self, ranker: Ranker, query: Query, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self._ranker, self._query = ranker, query
        self._memories: list[Memory] = ranker.remember(candidates)
        self._parts: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]] | None] = {}
        self.reads = 1
        self.scores: list[float] = score_batch(ranker, [(query, self._memories)])[0]

    def lead(self, scores: Sequence[float]) -> float:
        """Of the first over the second, in logits."""
        return _logit(scores[0]) - _logit(scores[1])

    def losses(self, place: int, variants: Sequence[Candidate]) -> list[float]:
        """By how much the candidate at `place` (0 or 1) does worse against the other as each of
        these.
        """
        found: list[float] = []
        for start in range(0, len(variants), AT_ONCE):
            made = self._remember(place, variants[start : start + AT_ONCE])
            lists = [
                [*self._memories[:place], memory, *self._memories[place + 1 :]] for memory in made
            ]
            self.reads += len(lists)
            read = score_batch(self._ranker, [(self._query, memories) for memories in lists])
            fallen = [self.lead(self.scores) - self.lead(scores) for scores in read]
            found += fallen if place == 0 else [-loss for loss in fallen]
        return found

    def _remember(self, place: int, variants: Sequence[Candidate]) -> list[Memory]:
        """The variants' memories; where text and picture are remembered apart, what did not change
        is not remembered again.
        """
        whole = self.candidates[place]
        if not (whole.text and whole.image):
            return self._ranker.remember(variants)
        halves = self._halves(place)
        if halves is None:
            return self._ranker.remember(variants)
        of_text, of_image = halves
        if all(variant.image is whole.image for variant in variants):
            return [
                memory | of_image
                for memory in self._made([replace(variant, image=None) for variant in variants])
            ]
        return [
            memory | of_text
            for memory in self._made([replace(variant, text="") for variant in variants])
        ]

    def _halves(self, place: int) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """The memories of the text alone and of the picture alone, if they make up that of both;
        most rankers' do.
        """
        if place not in self._parts:
            whole = self.candidates[place]
            text, image = self._made([replace(whole, image=None), replace(whole, text="")])
            both = self._memories[place]
            apart = not text.keys() & image.keys() and _same(both, text | image)
            self._parts[place] = (text, image) if apart else None
        return self._parts[place]

    def _made(self, variants: Sequence[Candidate]) -> list[dict[str, Tensor]]:
        return [dict(memory) for memory in self._ranker.remember(variants)]


def _side(reader: _Reader, place: int, score: float, pieces: int) -> Side:
    candidate = reader.candidates[place]
    words = _words(reader, place, pieces) if candidate.text else []
    regions = _regions(reader, place, pieces) if candidate.image else []
    return Side(candidate=candidate, score=score, words=words, regions=regions)


def _words(reader: _Reader, place: int, limit: int) -> list[Attribution]:
    """Words of a short text; of a long one its sentences, and the words of the one that speaks most
    for it.
    """
    text = reader.candidates[place].text
    words = [found.span() for found in _WORD.finditer(text)]
    parts = grouped(sentences(text), limit)
    if len(words) <= limit or len(parts) == 1:
        return _without(reader, place, grouped(words, limit))
    coarse = _without(reader, place, parts)
    heavy = max(coarse, key=lambda piece: piece.weight)
    inside = [span for span in words if heavy.span[0] <= span[0] and span[1] <= heavy.span[1]]
    if len(inside) < 2:
        return coarse
    fine = _without(reader, place, grouped(inside, limit))
    return sorted(
        [piece for piece in coarse if piece is not heavy] + fine, key=lambda piece: piece.span
    )


def _without(reader: _Reader, place: int, spans: Sequence[Span]) -> list[Attribution]:
    candidate = reader.candidates[place]
    kept = [(span, _cut(candidate.text, span)) for span in spans]
    kept = [
        (span, text) for span, text in kept if text
    ]  # nothing left is another kind of candidate
    losses = reader.losses(place, [replace(candidate, text=text) for _, text in kept])
    return [
        Attribution(weight=loss, span=span) for (span, _), loss in zip(kept, losses, strict=True)
    ]


def _regions(reader: _Reader, place: int, limit: int) -> list[Attribution]:
    """Fields of a grid, each covered with the picture's mean colour."""
    candidate = reader.candidates[place]
    assert candidate.image is not None
    picture = candidate.image.load(PIXELS)
    boxes = list(grid(picture.width, picture.height, limit))
    mean = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    variants = [replace(candidate, image=_covered(picture, box, mean)) for box in boxes]
    losses = reader.losses(place, variants)
    return [Attribution(weight=loss, box=box) for box, loss in zip(boxes, losses, strict=True)]


def _covered(picture: Image.Image, box: Box, colour: object) -> ImageSource:
    covered = picture.copy()
    left, top, right, bottom = box
    pixels = (
        round(left * picture.width),
        round(top * picture.height),
        round(right * picture.width),
        round(bottom * picture.height),
    )
    covered.paste(colour, pixels)  # type: ignore[arg-type]
    return pil_source(covered)


def grid(width: int, height: int, limit: int) -> Iterator[Box]:
    """Fields as square as may be, row by row, `limit` at most: a page of 2:3 in 24 gives 4 columns
    and 6 rows.

    Example:
        >>> len(list(grid(200, 300, 24))), len(list(grid(300, 200, 24))), len(list(grid(9000, 1, 24)))
        (24, 24, 24)
    """
    columns = min(limit, max(1, round((limit * width / height) ** 0.5)))
    rows = max(1, min(limit // columns, round(columns * height / width) or 1))
    for row in range(rows):
        for column in range(columns):
            yield column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def _same(one: Memory, other: Memory) -> bool:
    """Equal but for what the size of a batch does to the last digits."""
    return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    most = 0.02 * float(other.float().abs().max()) if other.numel() else 0.0  # int8 rows: 2 of 127
    return bool(torch.allclose(one.float(), other.float(), rtol=0.0, atol=most))


def _cut(text: str, span: Span) -> str:
    return f"{text[: span[0]].rstrip()} {text[span[1] :].lstrip()}".strip()


def _logit(score: float) -> float:
    """Of a probability; any other score is taken as it is."""
    if not 0 <= score <= 1:
        return score
    inside = min(max(score, EDGE), 1 - EDGE)
    return math.log(inside / (1 - inside))
