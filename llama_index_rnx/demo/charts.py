"""Charts of the demo's corpus, by matplotlib, from numbers in demo/data/charts.json. It knows no
page.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_index_rnx.demo.style import COLOURS, INK, SOFT, STACKED, STYLE

Spec = Mapping[str, Any]  # one entry of demo/data/charts.json


def save_chart(spec: Spec, path: Path) -> None:
    """A chart as a PNG of 960 x 600 pixels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), dpi=120, facecolor="white")
        left = 0.15 if spec["kind"] == "barh" else 0.11
        draw_chart(
            figure.add_axes(
                (left, 0.13, 0.9 - left if spec["kind"] == "climate" else 0.96 - left, 0.74)
            ),
            spec,
        )
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_chart(axes: Axes, spec: Spec) -> None:
    """One of the kinds below, by the numbers of the spec."""
    axes.set_title(spec["title"])
    _KINDS[spec["kind"]](axes, spec)
    if "y" in spec:
        (axes.set_xlabel if spec["kind"] == "barh" else axes.set_ylabel)(spec["y"])
    if "xlabel" in spec:
        axes.set_xlabel(spec["xlabel"])
        axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=9, integer=True))
    if spec["kind"] not in ("barh", "pie"):
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    if len(spec.get("series", {})) > 1 and spec["kind"] != "climate":
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0.2)
        axes.margins(y=0.16)


def _bars(axes: Axes, spec: Spec) -> None:
    series = spec["series"]
    width = 0.72 / len(series)
    for i, (name, values) in enumerate(series.items()):
        places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(values))]
        drawn = axes.bar(places, values, width * 0.94, label=name, color=COLOURS[i])
        if spec.get("labels"):
            axes.bar_label(
                drawn, labels=[f"{value:,}" for value in values], padding=3, color=INK, fontsize=9
            )
    axes.set_xticks(range(len(spec["x"])), spec["x"])


def _lying_bars(axes: Axes, spec: Spec) -> None:
    values = next(iter(spec["series"].values()))
    drawn = axes.barh(range(len(values)), values, 0.62, color=COLOURS[0])
    axes.bar_label(
        drawn, labels=[f"{value:,}" for value in values], padding=4, color=INK, fontsize=9
    )
    axes.set_yticks(range(len(values)), spec["x"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")


def _stacked(axes: Axes, spec: Spec) -> None:
    floor = [0.0] * len(spec["x"])
    for i, (name, values) in enumerate(spec["series"].items()):
        axes.bar(
            range(len(values)),
            values,
            0.72,
            bottom=floor,
            label=name,
            color=STACKED.get(name, COLOURS[i]),
        )
        floor = [low + value for low, value in zip(floor, values, strict=True)]
    axes.set_xticks(range(len(spec["x"])), spec["x"])


def _lines(axes: Axes, spec: Spec) -> None:
    named = isinstance(spec["x"][0], str)
    places = range(len(spec["x"])) if named else spec["x"]
    for i, (name, values) in enumerate(spec["series"].items()):
        axes.plot(
            places, values, label=name, color=COLOURS[i], linewidth=2.4, marker="o", markersize=4
        )
    if named:
        axes.set_xticks(places, spec["x"])
    axes.set_ylim(bottom=0 if min(map(min, spec["series"].values())) < 20 else None)


def _steps(axes: Axes, spec: Spec) -> None:
    values = next(iter(spec["series"].values()))
    axes.step([*spec["x"], 24], [*values, values[-1]], where="post", color=COLOURS[0], linewidth=2)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    below = [value < 0 for value in [*values, values[-1]]]
    axes.fill_between(
        [*spec["x"], 24],
        [*values, values[-1]],
        step="post",
        where=below,
        color=COLOURS[3],
        alpha=0.35,
    )
    axes.set_xticks(range(0, 25, 3))


def _pie(axes: Axes, spec: Spec) -> None:
    values = next(iter(spec["series"].values()))
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
    chance = random.Random(spec["title"])
    low, high = spec["from"]
    x = [chance.uniform(low, high) for _ in range(spec["points"])]
    line = [spec["intercept"] + spec["slope"] * value for value in x]
    axes.scatter(
        x,
        [value + chance.gauss(0, spec["noise"]) for value in line],
        s=22,
        color=COLOURS[0],
        alpha=0.55,
        linewidths=0,
    )
    axes.plot(
        [low, high],
        [spec["intercept"] + spec["slope"] * end for end in (low, high)],
        color=COLOURS[3],
        linewidth=2,
    )


def _climate(axes: Axes, spec: Spec) -> None:
    (rain_name, rain), (warmth_name, warmth) = spec["series"].items()
    axes.bar(range(12), rain, 0.7, color="#9dbfd6")
    axes.set_ylabel(rain_name)
    axes.set_ylim(0, 160)
    axes.set_xticks(range(12), spec["x"])
    other = axes.twinx()
    other.plot(range(12), warmth, color=COLOURS[3], linewidth=2.4, marker="o", markersize=4)
    other.set_ylabel(warmth_name)
    other.set_ylim(-10, 30)
    other.grid(visible=False)


_KINDS: dict[str, Callable[[Axes, Spec], None]] = {
    "bar": _bars,
    "barh": _lying_bars,
    "stack": _stacked,
    "line": _lines,
    "step": _steps,
    "pie": _pie,
    "scatter": _points,
    "climate": _climate,
}
