"""The look of the demo's own images: colours, fonts, an empty canvas. It knows no file."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

INK = "#24292f"
SOFT = "#6a7078"
GRID = "#e4e2dc"
COLOURS = ["#2f5f8a", "#e0a33c", "#7fa650", "#b4574a", "#7b6a9b"]
# Sources of energy in the colours that everybody expects.
STACKED = {"Solar": "#e9b44c", "Wind": "#6aa6c9", "Hydro": "#2f5f8a"}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 14,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    # Text stays text, which a PDF reader can find and copy.
    "pdf.fonttype": 42,
}


def prepare_canvas(axes: Axes) -> Axes:
    """Make the axes a canvas of 100 x 75 units without ticks or frame, and return them."""
    axes.set(xlim=(0, 100), ylim=(0, 75), aspect="equal")
    axes.axis("off")
    return axes
