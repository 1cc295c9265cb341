"""Images made by code."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from fakes.colours import RED


def image_bytes(
    colour: tuple[int, ...] = RED,
    size: tuple[int, int] = (24, 16),
    format: str = "PNG",
    mode: str = "RGB",
) -> bytes:
    """A plain image as the bytes of a file."""
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, format)
    return buffer.getvalue()


def image_base64(colour: tuple[int, ...] = RED, **options: Any) -> str:
    return base64.b64encode(image_bytes(colour, **options)).decode()


def png_bomb(side: int = 30_000) -> bytes:
    """A PNG of a few bytes that says it is `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def write_image(
    path: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (24, 16)
) -> Path:
    """An image in the format of its name."""
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    path.write_bytes(image_bytes(colour, size, kinds[path.suffix.lower()]))
    return path
