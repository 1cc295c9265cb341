"""Why A stands above B: what a ranker's scores lose when a piece of a candidate is taken away. It
knows no ranker's insides.

Leave one out: a word, a sentence, or a region of the image is removed, the candidate is remembered
and read again in its list, and the piece weighs as much as the lead of A over B (difference of
logits) falls. Any ranker will do, because only `remember` and `score` are called; the number of
pieces is bounded, so the cost is, too. What remains of a candidate is a different text or image
than any that the ranker was trained on, and two pieces that say the same cover for each other: read
the weights as a hint, not as a proof.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from llama_index.core.schema import NodeWithScore, QueryBundle
from PIL import Image

from llama_index_rnx.candidates import (
    Candidate,
    ImageSource,
    Query,
    pil_source,
    query_of,
    usable_candidates,
    without_unreadable_images,
)
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.results.explanation import Attribution, Box, Explanation, Side
from llama_index_rnx.results.occlusion_scorer import OcclusionScorer
from llama_index_rnx.text import Span, grouped, sentences

# Pieces of a text and of an image, at most. A long text has twice as many: its sentences, then the
# words of the best one.
MAX_PIECES = 20
LIST = 8  # candidates that are read with A and B: a listwise score depends on its list
PIXELS = 640 * 640  # of an image whose regions are covered

_WORD = re.compile(r"\S+")


def why(
    ranker: Ranker,
    query: str | QueryBundle,
    nodes: Sequence[NodeWithScore],
    better: int = 0,
    worse: int = 1,
    *,
    pieces: int = MAX_PIECES,
    others: int = LIST,
) -> Explanation:
    """Explain why the node at position `better` of a list stands above the one at `worse`.

    Args:
        ranker: any; `load_ranker()` for the embedded one.
        nodes: a list as a retriever or a reranker gave it.
        better, worse: positions in `nodes`, from 0.
        pieces: of a text and of an image, at most; each costs one more read of the list, see
            `Explanation.reads`.
        others: further nodes of the list that are read along. A model that reads each candidate
            alone needs none: give 0.

    Raises:
        SettingsError: a position is not in the list, both are the same, or nothing of a node there
            can be read.
        RNXError: the query is empty, or the ranker fails.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from llama_index_rnx import load_ranker
        >>> texts = ["In spring bees make honey.", "Rust is iron oxide."]
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        >>> explanation = why(load_ranker(), "what do bees make?", nodes)
        >>> best = max(explanation.better.words, key=lambda piece: piece.weight)
        >>> texts[0][slice(*best.span)]
        'bees'
        >>> explanation.lead > 0  # in logits
        True
    """
    count = len(nodes)
    if not (0 <= better < count and 0 <= worse < count and better != worse):
        raise SettingsError(
            f"better={better}, worse={worse} of {count} nodes; "
            f"two different positions from 0 to {count - 1} are allowed."
        )

    rest = [index for index in range(count) if index not in (better, worse)]
    indices = [better, worse, *rest[: max(0, others)]]
    readings = usable_candidates([nodes[index].node for index in indices])
    candidates = without_unreadable_images([candidate for candidate, _ in readings])

    for index, candidate in zip((better, worse), candidates[:2], strict=True):
        if candidate.is_empty:
            raise SettingsError(
                f"nothing of the node at position {index} ({candidate.id!r}) can be read; "
                "choose another place."
            )
    usable = [candidate for candidate in candidates if not candidate.is_empty]
    return explain(ranker, query_of(query), usable, pieces)


def explain(
    ranker: Ranker, query: Query, candidates: Sequence[Candidate], pieces: int = MAX_PIECES
) -> Explanation:
    """Explain why the first of these candidates stands above the second; the others are read along.

    Raises:
        SettingsError: there are fewer than two candidates, or `pieces` is below 1.
    """
    if len(candidates) < 2 or pieces < 1:
        raise SettingsError(
            f"got {len(candidates)} candidates and pieces={pieces}; "
            "2 candidates and 1 piece at least are needed."
        )
    start = time.perf_counter()
    scorer = OcclusionScorer(ranker, query, list(candidates)[: ranker.window])
    better = _side(scorer, 0, pieces)
    worse = _side(scorer, 1, pieces)
    seconds = time.perf_counter() - start
    return Explanation(
        query=query,
        better=better,
        worse=worse,
        lead=scorer.lead,
        reads=scorer.reads,
        seconds=seconds,
    )


def _side(scorer: OcclusionScorer, index: int, limit: int) -> Side:
    candidate = scorer.candidates[index]
    words = _attribute_words(scorer, index, limit) if candidate.text else []
    regions = _attribute_regions(scorer, index, limit) if candidate.image else []
    return Side(candidate=candidate, score=scorer.scores[index], words=words, regions=regions)


def _attribute_words(scorer: OcclusionScorer, index: int, limit: int) -> list[Attribution]:
    """Weigh the words of a short text. Of a long one weigh the sentences, and then the words of the
    sentence that speaks most for the candidate.
    """
    text = scorer.candidates[index].text
    words = [match.span() for match in _WORD.finditer(text)]
    passages = grouped(sentences(text), limit)
    if len(words) <= limit or len(passages) == 1:
        return _attribute_spans(scorer, index, grouped(words, limit))

    coarse = _attribute_spans(scorer, index, passages)
    heaviest = max(coarse, key=lambda piece: piece.weight)
    start, end = heaviest.span
    words_inside = [span for span in words if start <= span[0] and span[1] <= end]
    if len(words_inside) < 2:
        return coarse

    fine = _attribute_spans(scorer, index, grouped(words_inside, limit))
    rest = [piece for piece in coarse if piece is not heaviest]
    return sorted([*rest, *fine], key=lambda piece: piece.span)


def _attribute_spans(
    scorer: OcclusionScorer, index: int, spans: Sequence[Span]
) -> list[Attribution]:
    """Weigh each span by the score without it. A span without which no text remains is left out:
    what remains would be another kind of candidate.
    """
    candidate = scorer.candidates[index]
    remaining = {span: _without_span(candidate.text, span) for span in spans}
    remaining = {span: text for span, text in remaining.items() if text}
    drops = scorer.score_drops(
        index, [replace(candidate, text=text) for text in remaining.values()]
    )
    return [
        Attribution(weight=drop, span=span) for span, drop in zip(remaining, drops, strict=True)
    ]


def _attribute_regions(scorer: OcclusionScorer, index: int, limit: int) -> list[Attribution]:
    """Weigh the fields of a grid, each covered with the image's mean color."""
    candidate = scorer.candidates[index]
    assert candidate.image is not None
    image = candidate.image.load(PIXELS)
    mean_color = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))

    boxes = list(grid(image.width, image.height, limit))
    variants = [replace(candidate, image=_cover(image, box, mean_color)) for box in boxes]
    drops = scorer.score_drops(index, variants)
    return [Attribution(weight=drop, box=box) for box, drop in zip(boxes, drops, strict=True)]


def _cover(image: Image.Image, box: Box, color: object) -> ImageSource:
    x0, y0, x1, y1 = box
    pixels = (
        round(x0 * image.width),
        round(y0 * image.height),
        round(x1 * image.width),
        round(y1 * image.height),
    )
    covered = image.copy()
    covered.paste(color, pixels)  # type: ignore[arg-type]
    return pil_source(covered)


def grid(width: int, height: int, limit: int) -> Iterator[Box]:
    """Yield fields that are as square as possible, row by row, `limit` at most: a page of 2:3 in 24
    gives 4 columns and 6 rows.

    Example:
        >>> [len(list(grid(*size, 24))) for size in ((200, 300), (300, 200), (9000, 1))]
        [24, 24, 24]
    """
    columns = min(limit, max(1, round((limit * width / height) ** 0.5)))
    rows = max(1, min(limit // columns, round(columns * height / width) or 1))
    for row in range(rows):
        for column in range(columns):
            yield column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def _without_span(text: str, span: Span) -> str:
    start, end = span
    return f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()
