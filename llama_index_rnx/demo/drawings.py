"""The demo's own pictures: charts, drawings and booklet pages, by matplotlib. It knows neither
nodes nor where files go.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager, patches, ticker, transforms
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

Spec = Mapping[str, Any]  # one entry of demo/data/charts.json
Draw = Callable[[Axes], None]

INK, SOFT, GRID = "#24292f", "#6a7078", "#e4e2dc"
COLOURS = ["#2f5f8a", "#e0a33c", "#7fa650", "#b4574a", "#7b6a9b"]
STACKED = {"Solar": "#e9b44c", "Wind": "#6aa6c9", "Hydro": "#2f5f8a"}  # as everybody draws them
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
    "pdf.fonttype": 42,  # text stays text: a PDF reader can find and copy it
}
PAGE = (595.0, 842.0)  # A4 in points
LEFT, TOP, WIDTH, FOOT = 72.0, 78.0, 451.0, 48.0
SIZES = {"# ": 25.0, "## ": 16.0, "- ": 11.5, "": 11.5}
CHART_HEIGHT = 262.0  # of the axes, in points


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


def save_drawing(draw: Draw, path: Path) -> None:
    """A drawing as a PNG of 900 x 675 pixels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.625), dpi=120, facecolor="white")
        draw(_canvas(figure.add_axes((0.02, 0.02, 0.96, 0.96))))
        figure.savefig(path, format="png", metadata={"Software": None})


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


def floor_plan(axes: Axes) -> None:
    """A flat with two bedrooms."""
    rooms = {
        "Living room\n28.4 m²": (5, 5, 42, 38), "Kitchen\n12.1 m²": (47, 5, 24, 25), "Bath\n6.3 m²": (71, 5, 24, 25),
        "Hall": (47, 30, 48, 13), "Bedroom\n17.0 m²": (5, 43, 42, 27), "Child's room\n14.2 m²": (47, 43, 30, 27),
        "Store": (77, 43, 18, 27),
    }  # fmt: skip
    for name, (x, y, width, height) in rooms.items():
        axes.add_patch(
            patches.Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=3)
        )
        axes.text(x + width / 2, y + height / 2, name, ha="center", va="center", fontsize=11)
    for x, y, start in (
        (47, 36, 90),
        (60, 43, 0),
        (58, 30, 270),
        (82, 30, 270),
        (84, 43, 0),
        (36, 43, 0),
    ):
        axes.add_patch(
            patches.Wedge(
                (x, y), 7, start, start + 90, facecolor="white", edgecolor=SOFT, linewidth=1
            )
        )
    for x in (14, 54, 80):
        axes.plot([x, x + 10], [5, 5], color="#8fc1e3", linewidth=6, solid_capstyle="butt")
    axes.text(5, 1, "Flat 4, second floor, 1 : 100", fontsize=9, color=SOFT)


def water_cycle(axes: Axes) -> None:
    """Sea, sun, clouds, rain, mountain, river."""
    axes.add_patch(patches.Rectangle((0, 0), 100, 75, color="#dcebf5"))
    axes.add_patch(patches.Circle((14, 64), 6, color="#f3c14b"))
    axes.add_patch(
        patches.Polygon([(45, 14), (72, 56), (80, 46), (100, 66), (100, 14)], color="#8c8f7a")
    )
    axes.add_patch(patches.Polygon([(66.5, 47.5), (72, 56), (76.6, 50.2), (72, 47)], color="white"))
    axes.add_patch(patches.Rectangle((0, 0), 100, 14, color="#7fa650"))
    axes.add_patch(patches.Polygon([(0, 0), (0, 16), (38, 16), (48, 0)], color="#3f7fb0"))
    for x, y, size in (
        (56, 65, 6),
        (62, 67, 7),
        (69, 65, 6),
        (34, 60, 5),
        (39, 62, 6),
        (45, 60, 5),
    ):
        axes.add_patch(patches.Ellipse((x, y), size * 2.2, size * 1.3, color="white"))
    for i in range(6):
        axes.plot([56 + 2.6 * i, 55 + 2.6 * i], [59, 54], color="#3f7fb0", linewidth=2)
    _arrow(axes, (16, 18), (28, 55), "evaporation", (9, 38))
    _arrow(axes, (44, 68), (54, 70), "wind", (47, 71.5))
    _arrow(axes, (66, 36), (40, 12), "river", (58, 22))
    axes.text(77, 67, "rain and snow", fontsize=11)
    axes.text(13, 7, "sea", fontsize=12, color="white")


def moon_phases(axes: Axes) -> None:
    """Eight phases in two rows."""
    axes.add_patch(patches.Rectangle((0, 0), 100, 75, color="#14181f"))
    names = [
        "new moon",
        "crescent",
        "first quarter",
        "gibbous",
        "full moon",
        "waning gibbous",
        "last quarter",
        "waning crescent",
    ]
    for i, name in enumerate(names):
        x, y, radius = 14 + 24 * (i % 4), 54 - 34 * (i // 4), 8.5
        axes.add_patch(patches.Circle((x, y), radius, color="#3a4150"))
        light, width = "#f1ecd8", radius * 2 * abs(1 - (i % 4) / 2)
        lit_right = i < 4
        if i:
            side = (-90, 90) if lit_right else (90, 270)
            axes.add_patch(
                patches.Wedge((x, y), radius, *((0, 360) if i == 4 else side), color=light)
            )
        if i % 4 in (1, 3):
            covered = i in (1, 7)
            axes.add_patch(
                patches.Ellipse((x, y), width, radius * 2, color="#3a4150" if covered else light)
            )
        axes.text(x, y - 13, name, color="white", ha="center", fontsize=9.5)


def metro_map(axes: Axes) -> None:
    """Three lines, bent at 45 degrees as such maps are."""
    lines = {
        "#b4574a": [(6, 40), (30, 40), (45, 40), (60, 40), (94, 40)],
        "#2f5f8a": [(12, 68), (30, 58), (45, 40), (60, 22), (76, 8)],
        "#7fa650": [(45, 70), (60, 58), (60, 40), (60, 22), (88, 22)],
    }
    for colour, stops in lines.items():
        axes.plot(*zip(*stops, strict=True), color=colour, linewidth=7, solid_joinstyle="round")
    stations = {stop for stops in lines.values() for stop in stops}
    for x, y in sorted(stations):
        axes.plot(x, y, "o", color="white", markeredgecolor=INK, markersize=11, markeredgewidth=2)
    names = {
        (6, 40): "Airport", (30, 40): "Market", (45, 40): "Central", (60, 40): "Museum", (94, 40): "Lake",
        (12, 68): "Zoo", (76, 8): "Stadium", (45, 70): "North Gate", (88, 22): "Harbour", (60, 22): "Mill Street",
        (60, 58): "Park",
    }  # fmt: skip
    for (x, y), name in names.items():
        axes.text(x + 2, y + 2.5, name, fontsize=10.5)


def orbits(axes: Axes) -> None:
    """The sun and the four inner planets, not to scale."""
    axes.add_patch(patches.Rectangle((0, 0), 100, 75, color="#10141b"))
    axes.add_patch(patches.Circle((50, 37), 5, color="#f6c544"))
    planets = (
        ("Mercury", 10, "#a9a29a", 40),
        ("Venus", 17, "#e3c48f", 150),
        ("Earth", 25, "#5b9bd5", 250),
        ("Mars", 33, "#c65d3b", 330),
    )
    chance = random.Random(5)
    axes.scatter(
        [chance.uniform(0, 100) for _ in range(120)],
        [chance.uniform(0, 75) for _ in range(120)],
        s=1.5,
        color="white",
    )
    for name, radius, colour, angle in planets:
        axes.add_patch(
            patches.Circle((50, 37), radius, fill=False, edgecolor="#56606e", linewidth=1)
        )
        turn = transforms.Affine2D().rotate_deg(angle).transform((radius, 0))
        x, y = 50 + turn[0], 37 + turn[1]
        axes.add_patch(patches.Circle((x, y), 1.6, color=colour))
        axes.text(x + 2.4, y - 0.8, name, color="white", fontsize=10)


def geometric_shapes(axes: Axes) -> None:
    """A child's wall chart."""
    shapes = [
        ("circle", patches.Circle((17, 54), 10, color="#b4574a")),
        ("square", patches.Rectangle((40, 44), 20, 20, color="#e0a33c")),
        ("triangle", patches.RegularPolygon((83, 52), 3, radius=12, color="#7fa650")),
        ("pentagon", patches.RegularPolygon((17, 20), 5, radius=11, color="#2f5f8a")),
        ("hexagon", patches.RegularPolygon((50, 20), 6, radius=11, color="#7b6a9b")),
        ("ellipse", patches.Ellipse((83, 20), 26, 15, color="#4b9a94")),
    ]
    for i, (name, shape) in enumerate(shapes):
        axes.add_patch(shape)
        axes.text(17 + 33 * (i % 3), 38 - 34 * (i // 3), name, ha="center", fontsize=13)


def bicycle_parts(axes: Axes) -> None:
    """The bicycle of the manual, with names."""
    for x in (25, 75):
        axes.add_patch(patches.Circle((x, 26), 17, fill=False, edgecolor=INK, linewidth=5))
        axes.add_patch(patches.Circle((x, 26), 1.6, color=INK))
    frame = [
        (25, 26),
        (47, 26),
        (40, 52),
        (25, 26),
        (40, 52),
        (66, 52),
        (47, 26),
        (66, 52),
        (75, 26),
    ]
    axes.plot(*zip(*frame, strict=True), color=COLOURS[0], linewidth=6, solid_joinstyle="round")
    axes.plot([40, 38], [52, 61], color=COLOURS[0], linewidth=5)
    axes.plot([32, 45], [61, 61], color=INK, linewidth=7, solid_capstyle="round")
    axes.plot([66, 64, 58], [52, 63, 64], color=INK, linewidth=5, solid_capstyle="round")
    axes.plot([12, 34], [47, 47], color=SOFT, linewidth=5)
    axes.add_patch(patches.Circle((47, 26), 4, fill=False, edgecolor=INK, linewidth=3))
    axes.plot([25, 47], [28, 30], color=SOFT, linewidth=1.5)
    axes.plot([25, 47], [24, 22], color=SOFT, linewidth=1.5)
    names = {
        "hub gear": (25, 26, 3, 4), "chain": (36, 23, 36, 3), "saddle": (40, 61, 30, 70), "handlebar": (60, 64, 66, 71),
        "carrier": (14, 47, 2, 55), "hub dynamo": (75, 26, 84, 3), "disc brake": (73, 28, 84, 54), "crank": (49, 24, 54, 3),
    }  # fmt: skip
    for name, (x, y, text_x, text_y) in names.items():
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.9}
        axes.annotate(name, (x, y), (text_x, text_y), fontsize=10, arrowprops=line)


DRAWINGS: dict[str, Draw] = {
    "floor-plan": floor_plan,
    "water-cycle": water_cycle,
    "moon-phases": moon_phases,
    "metro-map": metro_map,
    "inner-planets": orbits,
    "geometric-shapes": geometric_shapes,
}


def _canvas(axes: Axes) -> Axes:
    """Axes of 100 x 75 units without ticks or frame."""
    axes.set(xlim=(0, 100), ylim=(0, 75), aspect="equal")
    axes.axis("off")
    return axes


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    name: str,
    place: tuple[float, float],
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.8})
    axes.text(*place, name, fontsize=11)


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
        bicycle_parts(_canvas(axes))
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
