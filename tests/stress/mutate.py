"""Small real files of every kind, and the damage that fuzzing does to them."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from functools import cache

from fakes import image_bytes, pdf_bytes, png_bomb
from PIL import Image

STEPS = ("flip", "drop", "double", "zero", "number", "splice")


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One to eight changes of the kinds that a decoder meets: flipped bits, missing and doubled
    parts, huge numbers.
    """
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        start = rng.randrange(max(1, len(out)))
        length = rng.choice([1, 2, 4, 16, 256])
        part = bytes(out[start : start + length])
        step = rng.choice(STEPS)
        if step == "flip" and out:
            out[start] ^= 1 << rng.randrange(8)
        elif step == "drop":
            del out[start : start + length]
        elif step == "double":
            out[start:start] = part * rng.choice([1, 2, 50])
        elif step == "zero":
            out[start : start + length] = bytes(len(part))
        elif step == "number":
            out[start : start + 4] = rng.choice(
                [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\0", b"9999", b"-1 0"]
            )
        else:
            other = rng.choice(others)
            cut = rng.randrange(max(1, len(other)))
            out[start:start] = other[cut : cut + length]
    return bytes(out)


@cache
def pictures() -> list[bytes]:
    """Small real files of every kind that Pillow opens and writes, plain and special."""
    found = [
        image_bytes(format=kind)
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX")
    ]
    modes = {
        "L": "PNG",
        "P": "PNG",
        "1": "PNG",
        "RGBA": "PNG",
        "LA": "PNG",
        "I;16": "PNG",
        "CMYK": "JPEG",
        "F": "TIFF",
    }
    for mode, kind in modes.items():
        buffer = io.BytesIO()
        Image.new(mode, (17, 9)).save(buffer, kind)
        found.append(buffer.getvalue())
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        found.append(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    frames[0].save(buffer, "JPEG", exif=exif, progressive=True)
    return [*found, buffer.getvalue(), png_bomb(), b""]


@cache
def documents() -> list[bytes]:
    return [
        pdf_bytes(["one"]),
        pdf_bytes(["a (b) c", "two"], colour=(9, 9, 9)),
        pdf_bytes(["x"], encrypted=True),
        pdf_bytes(["x", "y"], broken_page=0),
    ]
