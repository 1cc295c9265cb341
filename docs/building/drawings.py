"""`{drawing} NAME`: a drawing as SVG within the page, in the colours of the page, light or dark.
Lines and words only.

The windows are drawn from what `ordering` yields and the biased scores through `Calibration`: a
picture cannot say something else than the code does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llama_index_rnx.ranking import Calibration, WindowPlan, parallel_windows, sliding_windows

WIDTH = 720
LINE = 18  # between two lines of text


class Sheet:
    """A drawing in the making. Coordinates are pixels of a page 720 wide; `kind` is a class of
    site.css.
    """

    def __init__(self, height: int, about: str) -> None:
        self.height, self.about = height, about
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = ""
    ) -> None:
        """A box with lines of text in its middle; the first one is its name."""
        self._parts.append(
            f'<rect class="box {kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * LINE / 2 + 5
        for place, line in enumerate(lines):
            self.text(
                x + width / 2,
                top + place * LINE,
                line,
                kind="name" if place == 0 else "small",
                anchor="middle",
            )

    def text(
        self, x: float, y: float, words: str, kind: str = "small", anchor: str = "start"
    ) -> None:
        self._parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[float, float], kind: str = "") -> None:
        path = " L ".join(f"{x} {y}" for x, y in points)
        self._parts.append(f'<path class="arrow {kind}" d="M {path}" marker-end="url(#rnx-tip)"/>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str = "") -> None:
        self._parts.append(
            f'<rect class="bar {kind}" x="{x}" y="{y}" width="{width:.1f}" height="{height}" '
            'rx="1.5"/>'
        )

    def dashes(self, x: float, top: float, bottom: float) -> None:
        self._parts.append(f'<path class="cut" d="M {x} {top} L {x} {bottom}"/>')

    def svg(self) -> str:
        tip = (
            '<marker id="rnx-tip" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="8" markerHeight="8" orient="auto">'
            '<path class="tip" d="M 0 0.5 L 7 4 L 0 7.5 z"/></marker>'
        )
        return (
            f'<div class="rnx-drawing"><svg viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'aria-label="{escape(self.about)}">'
            f"<defs>{tip}</defs>{''.join(self._parts)}</svg></div>"
        )


def flows() -> Sheet:
    """Both flows, and the line between what is done once and what a query pays for."""
    sheet = Sheet(
        330,
        "Indexing embeds and remembers every node once; "
        "a query retrieves, scores the memories, and orders.",
    )
    sheet.text(12, 22, "once, when a node is indexed", kind="side")
    sheet.text(392, 22, "for every query", kind="side")
    sheet.dashes(376, 8, 322)
    sheet.box(12, 130, 84, 64, "nodes", "text, image")
    sheet.box(128, 130, 96, 64, "candidates", "one shape")
    sheet.arrow((96, 162), (127, 162))
    sheet.box(258, 52, 102, 60, "embeddings", "in Qdrant", kind="stored")
    sheet.box(258, 212, 102, 60, "memories", "on disk", kind="stored")
    sheet.arrow((224, 150), (241, 150), (241, 82), (257, 82))
    sheet.arrow((224, 174), (241, 174), (241, 242), (257, 242))
    sheet.text(196, 120, "embed", anchor="end")
    sheet.text(196, 214, "remember", anchor="end")
    sheet.box(404, 130, 76, 64, "query")
    sheet.box(510, 52, 88, 60, "search", "dense + BM25")
    sheet.box(510, 212, 88, 60, "score", "in windows")
    sheet.box(628, 52, 80, 60, "hits", "the nearest")
    sheet.box(628, 212, 80, 60, "order", "best first", kind="best")
    sheet.arrow((360, 82), (509, 82))
    sheet.arrow((360, 242), (509, 242))
    sheet.arrow((442, 130), (442, 96), (509, 96))
    sheet.arrow((442, 194), (442, 228), (509, 228))
    sheet.arrow((598, 82), (627, 82))
    sheet.arrow((598, 242), (627, 242))
    sheet.arrow((668, 112), (668, 162), (554, 162), (554, 211))
    sheet.text(12, 312, "NodeCollection.add, rnx index")
    sheet.text(392, 312, "RNXRetriever, then RNXRerank")
    return sheet


def windows() -> Sheet:
    """A list of 100 candidates in windows of 20: as `ordering` asks for them."""
    slid, dealt = _steps(sliding_windows(100, 20, 10)), _steps(parallel_windows(100, 20, 10))
    rows, below = len(slid), sum(map(len, dealt))
    sheet = Sheet(
        64 + 15 * rows + 74 + 15 * below,
        "Windows over a list of 100: sliding reads one after the other, parallel in two steps.",
    )
    top = _reads(sheet, 20, f"sliding: {rows} reads, one after the other", slid)
    _reads(sheet, top + 40, f"parallel: {below} reads in {len(dealt)} steps", dealt)
    return sheet


def _reads(
    sheet: Sheet, top: float, title: str, steps: Sequence[Sequence[tuple[int, ...]]]
) -> float:
    """One row a read: a bar for each place of the list, filled where it is read."""
    sheet.text(12, top, title, kind="side")
    sheet.text(118, top + 20, "first of the list")
    sheet.text(708, top + 20, "last", anchor="end")
    y = top + 28
    for number, step in enumerate(steps, start=1):
        sheet.text(12, y + 9, f"step {number}")
        for window in step:
            for place in range(100):
                sheet.bar(118 + place * 5.9, y, 4.4, 10, kind="read" if place in window else "")
            y += 15
    return y


def _steps(reads: WindowPlan) -> list[list[tuple[int, ...]]]:
    """What is read in each step when the order is right already."""
    found, asked = [], next(reads)
    while True:
        found.append(list(asked))
        try:
            asked = reads.send([[-float(candidate) for candidate in window] for window in asked])
        except StopIteration:
            return found


def slots() -> Sheet:
    """One list in two orders, as a model with a liking for the first slots scores it, before and
    after the calibration.
    """
    worth, liking = {"a": 0.5, "b": 1.6, "c": -0.4, "d": -0.6}, [1.8, 0.4, -0.7, -1.5]
    fair = Calibration(slot_bias=[liking])
    sheet = Sheet(
        300,
        "The same four candidates in two orders: "
        "raw scores follow the positions, corrected ones the candidates.",
    )
    for column, order in enumerate(("abcd", "dcba")):
        raw = torch.tensor([worth[name] + bias for name, bias in zip(order, liking, strict=True)])
        left = 12 + column * 366
        sheet.text(left, 22, ("as retrieved", "the same, reversed")[column], kind="side")
        for row, (title, values) in enumerate(
            (("raw", raw), ("less the bias of slots", fair.logits(raw)))
        ):
            _scores(sheet, left, 46 + row * 132, title, order, values.sigmoid().tolist())
    sheet.dashes(360, 8, 292)
    return sheet


def _scores(
    sheet: Sheet, left: float, top: float, title: str, order: str, scores: Sequence[float]
) -> None:
    sheet.text(left, top, title)
    best = max(scores)
    for slot, (name, score) in enumerate(zip(order, scores, strict=True)):
        y = top + 12 + slot * 24
        sheet.text(left, y + 13, f"slot {'ABCD'[slot]}")
        sheet.text(
            left + 52, y + 13, f"candidate {name}", kind="strong" if score == best else "small"
        )
        sheet.bar(left + 134, y + 2, 4 + 190 * score, 14, kind="best" if score == best else "read")


def fusion() -> Sheet:
    """How what nodes say and what they show become one list."""
    sheet = Sheet(
        270,
        "Dense and BM25 ranks of texts are fused; "
        "an image adds how likely its cosine makes it; one list comes out.",
    )
    sheet.box(12, 98, 84, 60, "query", "text, image")
    sheet.box(150, 20, 130, 52, "text vectors", "by cosine")
    sheet.box(150, 102, 130, 52, "BM25", "by words")
    sheet.box(150, 196, 130, 52, "image vectors", "by cosine")
    for y in (46, 128, 222):
        sheet.arrow((96, 128), (123, 128), (123, y), (149, y))
    sheet.box(330, 59, 142, 52, "what nodes say", "reciprocal ranks")
    sheet.box(330, 196, 142, 52, "what they show", "likelihood of the cosine")
    sheet.arrow((280, 46), (305, 46), (305, 78), (329, 78))
    sheet.arrow((280, 128), (305, 128), (305, 92), (329, 92))
    sheet.arrow((280, 222), (329, 222))
    sheet.box(526, 118, 54, 60, "sum")
    sheet.arrow((472, 85), (500, 85), (500, 138), (525, 138))
    sheet.arrow((472, 222), (500, 222), (500, 158), (525, 158))
    sheet.box(618, 118, 90, 60, "one list", "texts, images", kind="best")
    sheet.arrow((580, 148), (617, 148))
    return sheet


DRAWINGS: dict[str, Callable[[], Sheet]] = {
    "flows": flows,
    "windows": windows,
    "slots": slots,
    "fusion": fusion,
}


class Drawing(SphinxDirective):
    """The drawing of that name, as HTML."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in DRAWINGS:
            raise self.error(f"there is no drawing {name!r}; there are {', '.join(DRAWINGS)}.")
        return [nodes.raw("", DRAWINGS[name]().svg(), format="html")]


def setup(sphinx: Sphinx) -> dict[str, bool]:
    sphinx.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
