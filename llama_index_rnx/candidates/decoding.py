"""Image files are decoded within limits of size, memory and format. It knows no nodes."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from llama_index_rnx.candidates.pixels import DEFAULT_MAX_PIXELS, LARGE_PIXELS, to_rgb
from llama_index_rnx.errors import ImageError, one_line, short

# A larger image is refused before it is decoded (30,000 x 30,000 needs 2.7 GB). Pillow warns from
# this size on.
MAX_SOURCE_PIXELS = 89_000_000

# Pillow knows forty formats more, among them EPS, which it hands to Ghostscript.
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "AVIF",
    "JPEG2000",
)

# The errors that Pillow raises for a file that is damaged, or no image.
PILLOW_ERRORS = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    OSError,
    ValueError,
    SyntaxError,
)


class PixelBudget:
    """Limits how many pixels all threads together decode at once. Threads are served in order."""

    def __init__(self, pixels: int) -> None:
        self._total = pixels
        self._free = pixels
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and reserve them for the block.

        More than the whole budget counts as the whole budget.
        """
        pixels = min(pixels, self._total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify()


# A pixel that is decoded takes 4 to 8 bytes.
_budget = PixelBudget(MAX_SOURCE_PIXELS)


def count_pixels(data: bytes, label: str) -> int:
    """Return how many pixels the file of an image has, by its header: nothing is decoded.

    Raises:
        ImageError: it is no image, or has more than 89 megapixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_large(image.width, image.height)
            return image.width * image.height
    except (*PILLOW_ERRORS, Image.DecompressionBombWarning) as error:
        raise unreadable_image(label, error) from error


def decode(data: bytes | Path, max_pixels: int | None) -> Image.Image:
    """Decode a file, or its bytes, as `ImageSource.load` returns it.

    Raises:
        one of PILLOW_ERRORS: it is no image, truncated, or has more than 89 megapixels.
    """
    if not data:
        raise ValueError("0 bytes")

    with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as stream:
        # Pillow decodes an icon while it opens it.
        for width, height in _icon_sizes(stream):
            _refuse_large(width, height)
        stream.seek(0)
        return _decode_stream(stream, max_pixels)


def unreadable_image(label: str, error: Exception) -> ImageError:
    """Return the error of an image that cannot be read."""
    reason = image_error_reason(error)
    return ImageError(
        f"{short(label)}: cannot be read as an image ({reason}); replace or remove it."
    )


def image_error_reason(error: Exception) -> str:
    """Return in a few words why an image cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"

    # The text of an OSError repeats the path.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)


def _decode_stream(stream: BinaryIO, max_pixels: int | None) -> Image.Image:
    with Image.open(stream, formats=FORMATS) as image:
        width, height = image.size
        _refuse_large(width, height)

        # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough.
        if max_pixels:
            side = int((max_pixels * max(image.size) / min(image.size)) ** 0.5) + 1
            image.draft("RGB", (min(side, width), min(side, height)))

        # A progressive JPEG is held whole meanwhile.
        is_progressive = bool(image.info.get("progressive"))
        pixels = width * height if is_progressive else image.width * image.height

        with _budget.reserve(pixels):
            if pixels <= LARGE_PIXELS:
                return _decode_image(image, max_pixels)

            # Each thread keeps what it allocated and freed, 350 MB of a large image. A new thread
            # takes over the memory of the one before it.
            with ThreadPoolExecutor(max_workers=1) as new_thread:
                return new_thread.submit(_decode_image, image, max_pixels).result()


def _decode_image(image: ImageFile, max_pixels: int | None) -> Image.Image:
    try:
        _load(image)
        return to_rgb(image, max_pixels or DEFAULT_MAX_PIXELS)
    finally:
        # Free the pixels before the next image is decoded.
        image.close()


def _load(image: ImageFile) -> None:
    """Decode the pixels.

    Pillow reduces shades of 16 bits to 8; the colour that counts as transparent is reduced here.
    """
    has_16_bits = any(";16" in str(tile.args) for tile in image.tile)
    image.load()

    key = image.info.get("transparency")
    if has_16_bits and isinstance(key, tuple):
        image.info["transparency"] = tuple(shade >> 8 for shade in key)


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_SOURCE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MAX_SOURCE_PIXELS:,} are read")


def _icon_sizes(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the true width and height of each image in an icon, whose own list may say anything;
    nothing for other formats.
    """
    magic, count = struct.unpack("<4sH", stream.read(6).ljust(6, b"\xff"))
    entries = stream.read(16 * count) if magic == b"\0\0\1\0" else b""

    for start in range(0, len(entries) - 15, 16):
        (offset,) = struct.unpack_from("<I", entries, start + 12)
        stream.seek(offset)
        head = stream.read(24).ljust(24, b"\0")
        if head.startswith(b"\x89PNG"):
            width, height = struct.unpack_from(">II", head, 16)
        else:
            width, height = struct.unpack_from("<ii", head, 4)
        yield abs(width), abs(height)
