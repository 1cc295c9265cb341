"""Colours that stand-ins know by name, and the words of a text."""

from __future__ import annotations

import re

from PIL import Image

RED, GREEN, BLUE = (220, 20, 20), (20, 160, 20), (20, 20, 220)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def colour_of(image: Image.Image) -> str:
    """The name of the colour that an image is nearest to at its centre."""
    rgb = image.convert("RGB")
    seen = rgb.getpixel((rgb.width // 2, rgb.height // 2))
    return min(
        COLOURS,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], seen, strict=True)),
    )
