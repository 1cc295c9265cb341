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

# All lengths are in points, all heights are measured from the top edge of the page.
POINTS_PER_INCH = 72
PAGE_WIDTH = 595.0  # A4
PAGE_HEIGHT = 842.0
LEFT = 72.0
TOP = 78.0
TEXT_WIDTH = 451.0
FOOT = 48.0
BULLET = "- "
INDENT = 14.0  # of a bullet's text
SIZES = {"# ": 25.0, "## ": 16.0, BULLET: 11.5, "": 11.5}
BLOCK_GAP = 7.0
CHART_HEIGHT = 262.0  # of the axes alone
CHART_TOP = 40.0  # above the axes
CHART_BLOCK = CHART_HEIGHT + 86.0  # with all that stands around the axes
CHART_ORDER = 5  # Texts have 3.


def save_booklet(text: str, charts: Mapping[str, Spec], path: Path) -> None:
    """Write a PDF with a text layer from a simple markup: `# `, `## `, `- `, paragraphs, `{chart}`,
    and `---` between pages.
    """
    title = text.split("\n", 1)[0].lstrip("# ")
    metadata = {"Title": title, "CreationDate": None, "Creator": None, "Producer": None}
    pages = text.split("\n---\n")
    with mpl.rc_context(STYLE), PdfPages(path, metadata=metadata) as pdf:
        for number, page in enumerate(pages, start=1):
            size = (PAGE_WIDTH / POINTS_PER_INCH, PAGE_HEIGHT / POINTS_PER_INCH)
            figure = Figure(figsize=size, facecolor="white")
            _draw_page(figure, page, charts, footer=f"{title}  ·  {number} of {len(pages)}")
            pdf.savefig(figure)


def _draw_page(figure: Figure, page: str, charts: Mapping[str, Spec], footer: str) -> None:
    y = TOP
    for block in page.strip().split("\n\n"):
        if block.startswith("{"):
            _draw_chart(figure, block.strip("{}\n"), charts, y)
            y += CHART_BLOCK
            continue
        for line in block.split("\n"):
            y = _write_line(figure, line, y)
        y += BLOCK_GAP
    _put_text(figure, LEFT, PAGE_HEIGHT - FOOT, footer, size=8.5, color=SOFT)


def _draw_chart(figure: Figure, name: str, charts: Mapping[str, Spec], y: float) -> None:
    left_margin = 70 if charts.get(name, {}).get("kind") == "barh" else 36
    right_margin = 24
    width = TEXT_WIDTH - left_margin - right_margin
    bottom = PAGE_HEIGHT - y - CHART_TOP - CHART_HEIGHT
    axes = figure.add_axes(
        (
            (LEFT + left_margin) / PAGE_WIDTH,
            bottom / PAGE_HEIGHT,
            width / PAGE_WIDTH,
            CHART_HEIGHT / PAGE_HEIGHT,
        )
    )

    # Draw charts after texts: the order of drawing is the reading order of the text layer.
    axes.set_zorder(CHART_ORDER)
    if name == "bicycle_parts":
        bicycle_parts(prepare_canvas(axes))
    else:
        draw_chart(axes, charts[name])


def _write_line(figure: Figure, line: str, y: float) -> float:
    """Write one paragraph, heading or bullet; return where the next one begins."""
    mark = next(mark for mark in SIZES if line.startswith(mark))
    size = SIZES[mark]
    text = line[len(mark) :]
    is_heading = mark.startswith("#")
    is_bullet = mark == BULLET
    indent = INDENT if is_bullet else 0.0

    for number, row in enumerate(_wrap(text, size, TEXT_WIDTH - indent)):
        y += size * (1.25 if is_heading else 1.5)
        is_first = number == 0
        _put_text(
            figure,
            LEFT if is_first else LEFT + indent,
            y,
            f"•  {row}" if is_bullet and is_first else row,
            size,
            weight="bold" if is_heading else "normal",
        )
    return y + (4 if is_heading else 0)


def _put_text(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    color: str = INK,
    weight: str = "normal",
) -> None:
    figure.text(
        x / PAGE_WIDTH,
        1 - y / PAGE_HEIGHT,
        text,
        fontsize=size,
        color=color,
        weight=weight,
        parse_math=False,
    )


def _wrap(text: str, size: float, width: float) -> Iterator[str]:
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and sum(_letter_width(letter) for letter in longer) * size > width:
            yield line
            longer = word
        line = longer
    yield line


@cache
def _letter_width(letter: str) -> float:
    """Return the width of a letter at a size of 1 point. It is measured between two bars, as a
    blank draws nothing.
    """
    font = font_manager.FontProperties(family="DejaVu Sans")
    path = TextPath((0, 0), f"|{letter}|", size=100, prop=font)
    return float(path.get_extents().width - _width_of_bars(font)) / 100


@cache
def _width_of_bars(font: Any) -> float:
    return float(TextPath((0, 0), "||", size=100, prop=font).get_extents().width)
