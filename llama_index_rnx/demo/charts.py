"""Charts of the demo's corpus, by matplotlib, from numbers in demo/data/charts.json. It knows no
page.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_index_rnx.demo.style import COLOURS, INK, SOFT, STACKED, STYLE

Spec = Mapping[str, Any]  # one entry of demo/data/charts.json


def save_chart(spec: Spec, path: Path) -> None:
    """Write a chart as a PNG of 960 x 600 pixels."""
    left_edge = 0.15 if spec["kind"] == "barh" else 0.11
    right_edge = 0.9 if spec["kind"] == "climate" else 0.96
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), dpi=120, facecolor="white")
        axes = figure.add_axes((left_edge, 0.13, right_edge - left_edge, 0.74))
        draw_chart(axes, spec)
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_chart(axes: Axes, spec: Spec) -> None:
    """Draw one of the kinds below from the numbers of the spec."""
    kind = spec["kind"]
    axes.set_title(spec["title"])
    _KINDS[kind](axes, spec)

    if "y" in spec and kind == "barh":
        axes.set_xlabel(spec["y"])
    elif "y" in spec:
        axes.set_ylabel(spec["y"])
    if "xlabel" in spec:
        axes.set_xlabel(spec["xlabel"])
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=9, integer=True))
    if kind not in ("barh", "pie"):
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    if len(spec.get("series", {})) > 1 and kind != "climate":
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0.2)
        axes.margins(y=0.16)


def _only_series(spec: Spec) -> Sequence[float]:
    values: Sequence[float] = next(iter(spec["series"].values()))
    return values


def _thousands(values: Sequence[float]) -> list[str]:
    return [f"{value:,}" for value in values]


def _bars(axes: Axes, spec: Spec) -> None:
    series = spec["series"]
    width = 0.72 / len(series)
    middle = (len(series) - 1) / 2
    for i, (name, values) in enumerate(series.items()):
        positions = [x + (i - middle) * width for x in range(len(values))]
        bars = axes.bar(positions, values, width * 0.94, label=name, color=COLOURS[i])
        if spec.get("labels"):
            axes.bar_label(bars, labels=_thousands(values), padding=3, color=INK, fontsize=9)
    axes.set_xticks(range(len(spec["x"])), spec["x"])


def _horizontal_bars(axes: Axes, spec: Spec) -> None:
    values = _only_series(spec)
    bars = axes.barh(range(len(values)), values, 0.62, color=COLOURS[0])
    axes.bar_label(bars, labels=_thousands(values), padding=4, color=INK, fontsize=9)
    axes.set_yticks(range(len(values)), spec["x"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")


def _stacked_bars(axes: Axes, spec: Spec) -> None:
    bottom = [0.0] * len(spec["x"])
    for i, (name, values) in enumerate(spec["series"].items()):
        axes.bar(
            range(len(values)),
            values,
            0.72,
            bottom=bottom,
            label=name,
            color=STACKED.get(name, COLOURS[i]),
        )
        bottom = [low + value for low, value in zip(bottom, values, strict=True)]
    axes.set_xticks(range(len(spec["x"])), spec["x"])


def _lines(axes: Axes, spec: Spec) -> None:
    has_names = isinstance(spec["x"][0], str)
    positions = range(len(spec["x"])) if has_names else spec["x"]
    for i, (name, values) in enumerate(spec["series"].items()):
        axes.plot(
            positions,
            values,
            label=name,
            color=COLOURS[i],
            linewidth=2.4,
            marker="o",
            markersize=4,
        )
    if has_names:
        axes.set_xticks(positions, spec["x"])

    # An axis begins at 0 unless all values are far above it.
    lowest = min(map(min, spec["series"].values()))
    axes.set_ylim(bottom=0 if lowest < 20 else None)


def _steps(axes: Axes, spec: Spec) -> None:
    values = _only_series(spec)
    hours = [*spec["x"], 24]
    closed = [*values, values[-1]]
    is_negative = [value < 0 for value in closed]

    axes.step(hours, closed, where="post", color=COLOURS[0], linewidth=2)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.fill_between(hours, closed, step="post", where=is_negative, color=COLOURS[3], alpha=0.35)
    axes.set_xticks(range(0, 25, 3))


def _pie(axes: Axes, spec: Spec) -> None:
    values = _only_series(spec)
    labels = [f"{name}\n{value} %" for name, value in zip(spec["x"], values, strict=True)]
    ring = {"width": 0.42, "edgecolor": "white", "linewidth": 2}
    axes.pie(
        values,
        labels=labels,
        colors=COLOURS,
        startangle=90,
        counterclock=False,
        wedgeprops=ring,
        labeldistance=1.15,
    )


def _points(axes: Axes, spec: Spec) -> None:
    rng = random.Random(spec["title"])
    low, high = spec["from"]
    intercept = spec["intercept"]
    slope = spec["slope"]
    x = [rng.uniform(low, high) for _ in range(spec["points"])]
    y = [intercept + slope * value + rng.gauss(0, spec["noise"]) for value in x]

    axes.scatter(x, y, s=22, color=COLOURS[0], alpha=0.55, linewidths=0)
    line = [intercept + slope * low, intercept + slope * high]
    axes.plot([low, high], line, color=COLOURS[3], linewidth=2)


def _climate(axes: Axes, spec: Spec) -> None:
    (rain_name, rain), (warmth_name, warmth) = spec["series"].items()
    axes.bar(range(12), rain, 0.7, color="#9dbfd6")
    axes.set_ylabel(rain_name)
    axes.set_ylim(0, 160)
    axes.set_xticks(range(12), spec["x"])

    warmth_axes = axes.twinx()
    warmth_axes.plot(range(12), warmth, color=COLOURS[3], linewidth=2.4, marker="o", markersize=4)
    warmth_axes.set_ylabel(warmth_name)
    warmth_axes.set_ylim(-10, 30)
    warmth_axes.grid(visible=False)


_KINDS: dict[str, Callable[[Axes, Spec], None]] = {
    "bar": _bars,
    "barh": _horizontal_bars,
    "stack": _stacked_bars,
    "line": _lines,
    "step": _steps,
    "pie": _pie,
    "scatter": _points,
    "climate": _climate,
}
