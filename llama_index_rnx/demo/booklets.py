"""Booklets of the demo's corpus: pages of text and charts as a PDF, by matplotlib. It knows no
nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from llama_index_rnx.demo.charts import Spec, draw_chart
from llama_index_rnx.demo.drawings import bicycle_parts
from llama_index_rnx.demo.style import INK, SOFT, STYLE, prepare_canvas

PAGE = (595.0, 842.0)  # A4 in points
LEFT, TOP, WIDTH, FOOT = 72.0, 78.0, 451.0, 48.0
SIZES = {"# ": 25.0, "## ": 16.0, "- ": 11.5, "": 11.5}
CHART_HEIGHT = 262.0  # of the axes, in points


def save_booklet(text: str, charts: Mapping[str, Spec], path: Path) -> None:
    """A PDF with a text layer from a simple markup: `# `, `## `, `- `, paragraphs, `{chart}`, and
    `---` between pages.
    """
    metadata = {
        "Title": text.split("\n", 1)[0].lstrip("# "),
        "CreationDate": None,
        "Creator": None,
        "Producer": None,
    }
    with mpl.rc_context(STYLE), PdfPages(path, metadata=metadata) as pdf:
        pages = text.split("\n---\n")
        for number, page in enumerate(pages, start=1):
            figure = Figure(figsize=(PAGE[0] / 72, PAGE[1] / 72), facecolor="white")
            _draw_page(
                figure, page, charts, footer=f"{metadata['Title']}  ·  {number} of {len(pages)}"
            )
            pdf.savefig(figure)


def _draw_page(figure: Figure, page: str, charts: Mapping[str, Spec], footer: str) -> None:
    y = TOP  # points from the top edge
    for block in page.strip().split("\n\n"):
        if block.startswith("{"):
            _place_chart(figure, block.strip("{}\n"), charts, y)
            y += CHART_HEIGHT + 86
            continue
        for line in block.split("\n"):
            y = _write(figure, line, y)
        y += 7
    _put(figure, LEFT, PAGE[1] - FOOT, footer, size=8.5, color=SOFT)


def _place_chart(figure: Figure, name: str, charts: Mapping[str, Spec], y: float) -> None:
    left, right = (70, 24) if charts.get(name, {}).get("kind") == "barh" else (36, 24)
    box = (LEFT + left, PAGE[1] - y - 40 - CHART_HEIGHT, WIDTH - left - right, CHART_HEIGHT)
    axes = figure.add_axes((box[0] / PAGE[0], box[1] / PAGE[1], box[2] / PAGE[0], box[3] / PAGE[1]))
    axes.set_zorder(
        5
    )  # after the text (3): the order of drawing is the order of reading in the text layer
    if name == "bicycle_parts":
        bicycle_parts(prepare_canvas(axes))
    else:
        draw_chart(axes, charts[name])


def _write(figure: Figure, line: str, y: float) -> float:
    """One paragraph, heading or bullet; returns where the next begins."""
    mark = next(mark for mark in SIZES if line.startswith(mark))
    size, words = SIZES[mark], line[len(mark) :]
    heading = mark.startswith("#")
    indent = 14.0 if mark == "- " else 0.0
    for number, part in enumerate(_wrapped(words, size, WIDTH - indent)):
        y += size * (1.25 if heading else 1.5)
        text = f"•  {part}" if mark == "- " and number == 0 else part
        _put(
            figure,
            LEFT + (indent if mark == "- " and number else 0.0),
            y,
            text,
            size,
            weight="bold" if heading else "normal",
        )
    return y + (4 if heading else 0)


def _put(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    color: str = INK,
    weight: str = "normal",
) -> None:
    figure.text(
        x / PAGE[0],
        1 - y / PAGE[1],
        text,
        fontsize=size,
        color=color,
        weight=weight,
        parse_math=False,
    )


def _wrapped(text: str, size: float, width: float) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and sum(_letter(letter) for letter in longer) * size > width:
            yield line
            longer = word
        line = longer
    yield line


@cache
def _letter(letter: str) -> float:
    """The width of a letter at a size of 1 point; a blank draws nothing, so it is taken between two
    letters.
    """
    font = font_manager.FontProperties(family="DejaVu Sans")
    return (
        float(
            TextPath((0, 0), f"|{letter}|", size=100, prop=font).get_extents().width
            - _bars_alone(font)
        )
        / 100
    )


@cache
def _bars_alone(font: Any) -> float:
    return float(TextPath((0, 0), "||", size=100, prop=font).get_extents().width)
