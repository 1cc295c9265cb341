"""Drawings of the demo's corpus, by matplotlib, on a canvas of 100 x 75 units. It knows no page."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib import patches, transforms
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llama_index_rnx.demo.style import COLOURS, INK, SOFT, STYLE, prepare_canvas

Draw = Callable[[Axes], None]


def save_drawing(draw: Draw, path: Path) -> None:
    """Write a drawing as a PNG of 900 x 675 pixels."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.625), dpi=120, facecolor="white")
        draw(prepare_canvas(figure.add_axes((0.02, 0.02, 0.96, 0.96))))
        figure.savefig(path, format="png", metadata={"Software": None})


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    name: str,
    name_at: tuple[float, float],
) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.8})
    axes.text(*name_at, name, fontsize=11)


def floor_plan(axes: Axes) -> None:
    """Draw a flat with two bedrooms."""
    rooms = {
        "Living room\n28.4 m²": (5, 5, 42, 38),
        "Kitchen\n12.1 m²": (47, 5, 24, 25),
        "Bath\n6.3 m²": (71, 5, 24, 25),
        "Hall": (47, 30, 48, 13),
        "Bedroom\n17.0 m²": (5, 43, 42, 27),
        "Child's room\n14.2 m²": (47, 43, 30, 27),
        "Store": (77, 43, 18, 27),
    }
    for name, (x, y, width, height) in rooms.items():
        axes.add_patch(
            patches.Rectangle((x, y), width, height, fill=False, edgecolor=INK, linewidth=3)
        )
        axes.text(x + width / 2, y + height / 2, name, ha="center", va="center", fontsize=11)

    doors = ((47, 36, 90), (60, 43, 0), (58, 30, 270), (82, 30, 270), (84, 43, 0), (36, 43, 0))
    for x, y, start in doors:
        door = patches.Wedge(
            (x, y), 7, start, start + 90, facecolor="white", edgecolor=SOFT, linewidth=1
        )
        axes.add_patch(door)

    windows = (14, 54, 80)
    for x in windows:
        axes.plot([x, x + 10], [5, 5], color="#8fc1e3", linewidth=6, solid_capstyle="butt")
    axes.text(5, 1, "Flat 4, second floor, 1 : 100", fontsize=9, color=SOFT)


def water_cycle(axes: Axes) -> None:
    """Draw sea, sun, clouds, rain, a mountain and a river."""
    axes.add_patch(patches.Rectangle((0, 0), 100, 75, color="#dcebf5"))
    axes.add_patch(patches.Circle((14, 64), 6, color="#f3c14b"))
    axes.add_patch(
        patches.Polygon([(45, 14), (72, 56), (80, 46), (100, 66), (100, 14)], color="#8c8f7a")
    )
    axes.add_patch(patches.Polygon([(66.5, 47.5), (72, 56), (76.6, 50.2), (72, 47)], color="white"))
    axes.add_patch(patches.Rectangle((0, 0), 100, 14, color="#7fa650"))
    axes.add_patch(patches.Polygon([(0, 0), (0, 16), (38, 16), (48, 0)], color="#3f7fb0"))

    clouds = ((56, 65, 6), (62, 67, 7), (69, 65, 6), (34, 60, 5), (39, 62, 6), (45, 60, 5))
    for x, y, size in clouds:
        axes.add_patch(patches.Ellipse((x, y), size * 2.2, size * 1.3, color="white"))

    rain_drops = 6
    for i in range(rain_drops):
        axes.plot([56 + 2.6 * i, 55 + 2.6 * i], [59, 54], color="#3f7fb0", linewidth=2)
    _arrow(axes, (16, 18), (28, 55), "evaporation", (9, 38))
    _arrow(axes, (44, 68), (54, 70), "wind", (47, 71.5))
    _arrow(axes, (66, 36), (40, 12), "river", (58, 22))
    axes.text(77, 67, "rain and snow", fontsize=11)
    axes.text(13, 7, "sea", fontsize=12, color="white")


def moon_phases(axes: Axes) -> None:
    """Draw eight phases in two rows."""
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
    radius = 8.5
    light = "#f1ecd8"
    shadow = "#3a4150"
    for i, name in enumerate(names):
        x = 14 + 24 * (i % 4)
        y = 54 - 34 * (i // 4)
        axes.add_patch(patches.Circle((x, y), radius, color=shadow))

        # The side that is lit, the right one in the first half of the month.
        if i:
            side = (-90, 90) if i < 4 else (90, 270)
            angles = (0, 360) if i == 4 else side
            axes.add_patch(patches.Wedge((x, y), radius, *angles, color=light))

        # The bulge of a crescent or a gibbous moon.
        if i % 4 in (1, 3):
            width = radius * 2 * abs(1 - (i % 4) / 2)
            is_crescent = i in (1, 7)
            bulge_colour = shadow if is_crescent else light
            axes.add_patch(patches.Ellipse((x, y), width, radius * 2, color=bulge_colour))
        axes.text(x, y - 13, name, color="white", ha="center", fontsize=9.5)


def metro_map(axes: Axes) -> None:
    """Draw three lines, bent at 45 degrees as such maps are."""
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
        (6, 40): "Airport",
        (30, 40): "Market",
        (45, 40): "Central",
        (60, 40): "Museum",
        (94, 40): "Lake",
        (12, 68): "Zoo",
        (76, 8): "Stadium",
        (45, 70): "North Gate",
        (88, 22): "Harbour",
        (60, 22): "Mill Street",
        (60, 58): "Park",
    }
    for (x, y), name in names.items():
        axes.text(x + 2, y + 2.5, name, fontsize=10.5)


def orbits(axes: Axes) -> None:
    """Draw the sun and the four inner planets, not to scale."""
    axes.add_patch(patches.Rectangle((0, 0), 100, 75, color="#10141b"))
    axes.add_patch(patches.Circle((50, 37), 5, color="#f6c544"))
    planets = (
        ("Mercury", 10, "#a9a29a", 40),
        ("Venus", 17, "#e3c48f", 150),
        ("Earth", 25, "#5b9bd5", 250),
        ("Mars", 33, "#c65d3b", 330),
    )

    rng = random.Random(5)
    stars = 120
    star_x = [rng.uniform(0, 100) for _ in range(stars)]
    star_y = [rng.uniform(0, 75) for _ in range(stars)]
    axes.scatter(star_x, star_y, s=1.5, color="white")

    for name, radius, colour, angle in planets:
        axes.add_patch(
            patches.Circle((50, 37), radius, fill=False, edgecolor="#56606e", linewidth=1)
        )
        offset = transforms.Affine2D().rotate_deg(angle).transform((radius, 0))
        x = 50 + offset[0]
        y = 37 + offset[1]
        axes.add_patch(patches.Circle((x, y), 1.6, color=colour))
        axes.text(x + 2.4, y - 0.8, name, color="white", fontsize=10)


def geometric_shapes(axes: Axes) -> None:
    """Draw a child's wall chart."""
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
    """Draw the bicycle of the manual, with the names of its parts."""
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
        "hub gear": (25, 26, 3, 4),
        "chain": (36, 23, 36, 3),
        "saddle": (40, 61, 30, 70),
        "handlebar": (60, 64, 66, 71),
        "carrier": (14, 47, 2, 55),
        "hub dynamo": (75, 26, 84, 3),
        "disc brake": (73, 28, 84, 54),
        "crank": (49, 24, 54, 3),
    }
    line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.9}
    for name, (x, y, text_x, text_y) in names.items():
        axes.annotate(name, (x, y), (text_x, text_y), fontsize=10, arrowprops=line)


DRAWINGS: dict[str, Draw] = {
    "floor-plan": floor_plan,
    "water-cycle": water_cycle,
    "moon-phases": moon_phases,
    "metro-map": metro_map,
    "inner-planets": orbits,
    "geometric-shapes": geometric_shapes,
}
