"""Image files become RGB pixels: upright, on white paper, within limits. It knows no nodes and no
places.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from llama_index_rnx.errors import ImageError, short

# A larger file is refused before it is decoded (30,000 x 30,000 needs 2.7 GB); Pillow warns from
# here.
MAX_SOURCE_PIXELS = 89_000_000


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


# Pillow knows forty more, among them EPS, which it hands to Ghostscript.
DEFAULT_MAX_PIXELS = (
    1_280 * 28 * 28
)  # what a vision tower is shown at most; Qwen2-VL's own recommendation


LARGE_PIXELS = (
    16_000_000  # from here on a picture is first averaged down, before its colours are looked at
)


BAND_PIXELS = (
    1_000_000  # whose colours are converted at once: a copy of a large picture takes 350 MB
)


ORIENTATION = 0x0112  # of EXIF


SHADES_16 = 65_535.0


PILLOW_ERRORS = (  # of Pillow, for a file that is damaged or no picture
    UnidentifiedImageError,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    OSError,
    ValueError,
    SyntaxError,
)


def on_sheet(picture: Image.Image, max_pixels: int, max_aspect: int) -> Image.Image:
    """A picture that is more than `max_aspect` times as long as it is wide, on a sheet of white
    paper of half that shape.

    Vision towers refuse a ruler line of 600 x 2 pixels. Any other picture is given back as it is.
    """
    width, height = picture.size
    if max(width, height) <= max_aspect * min(width, height):
        return picture

    shape = max_aspect // 2
    side = max(
        shape, int((max_pixels * shape) ** 0.5)
    )  # or the sheet of a thread of a million pixels would have billions
    line = picture.resize((min(width, side), min(height, side)))

    least = max(line.size) // shape
    sheet = Image.new("RGB", (max(line.width, least), max(line.height, least)), "white")
    sheet.paste(line, ((sheet.width - line.width) // 2, (sheet.height - line.height) // 2))
    return sheet


def image_pixels(data: bytes, label: str) -> int:
    """How many pixels the file of an image has, by its header alone: nothing is decoded.

    Raises:
        ImageError: it is no image, or has more than 89 megapixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            pixels = picture.width * picture.height
        if pixels > MAX_SOURCE_PIXELS:
            size = f"{picture.width} x {picture.height} pixels"
            raise ValueError(f"{size}, at most {MAX_SOURCE_PIXELS:,} are read")
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        OSError,
        ValueError,
        SyntaxError,
    ) as error:
        reason = f"cannot be read as an image ({image_error_reason(error)}); replace or remove it."
        raise ImageError(f"{short(label)}: {reason}") from error
    return pixels


class _Budget:
    """So much is at work in all threads together; whoever waits first is served first."""

    def __init__(self, whole: int) -> None:
        self._whole = self._free = whole
        self._next = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Waits until the amount is free; what is more than the whole counts as the whole."""
        amount = min(amount, self._whole)
        with self._next, self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify()


_PIXELS = _Budget(MAX_SOURCE_PIXELS)  # 4 to 8 bytes each


def decode(found: bytes | Path, max_pixels: int | None) -> Image.Image:
    """The picture in a file or its bytes, as `ImageSource.load` gives it."""
    if not found:
        raise ValueError("0 bytes")
    with found.open("rb") if isinstance(found, Path) else io.BytesIO(found) as stream:
        for width, height in _sizes_in_icon(stream):  # Pillow decodes an icon while it opens it
            _refuse_large(width, height)
        stream.seek(0)
        return _opened(stream, max_pixels)


def _opened(stream: BinaryIO, max_pixels: int | None) -> Image.Image:
    with Image.open(stream, formats=FORMATS) as picture:
        width, height = picture.size
        _refuse_large(width, height)

        if max_pixels:  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough
            side = int((max_pixels * max(picture.size) / min(picture.size)) ** 0.5) + 1
            picture.draft("RGB", (min(side, width), min(side, height)))
        work = picture.width * picture.height
        if picture.info.get("progressive"):  # it is held whole meanwhile
            work = width * height

        with _PIXELS.take(work):
            if work <= LARGE_PIXELS:
                return _loaded(picture, max_pixels)
            # Each thread keeps what it allocated and freed, 350 MB of a large picture. A thread
            # that is new takes over the memory of the one before it.
            with ThreadPoolExecutor(max_workers=1) as alone:
                return alone.submit(_loaded, picture, max_pixels).result()


def _loaded(picture: ImageFile, max_pixels: int | None) -> Image.Image:
    try:
        _load(picture)
        return to_rgb(picture, max_pixels or DEFAULT_MAX_PIXELS)
    finally:
        picture.close()  # lets go of its pixels before the next one is decoded


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_SOURCE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MAX_SOURCE_PIXELS:,} are read")


def _sizes_in_icon(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """The true sizes of the pictures in an icon: its own list may say anything. None of other
    formats.
    """
    mark, count = struct.unpack("<4sH", stream.read(6).ljust(6, b"\xff"))
    entries = stream.read(16 * count) if mark == b"\0\0\1\0" else b""
    for start in range(0, len(entries) - 15, 16):
        stream.seek(struct.unpack_from("<I", entries, start + 12)[0])
        head = stream.read(24).ljust(24, b"\0")
        is_png = head.startswith(b"\x89PNG")
        width, height = (
            struct.unpack_from(">II", head, 16) if is_png else struct.unpack_from("<ii", head, 4)
        )
        yield abs(width), abs(height)


def _load(picture: ImageFile) -> None:
    """Decodes. The colour that counts as transparent is brought to the 8 bits that Pillow leaves of
    16.
    """
    deep = any(";16" in str(part.args) for part in picture.tile)
    picture.load()
    key = picture.info.get("transparency")
    if deep and isinstance(key, tuple):
        picture.info["transparency"] = tuple(shade >> 8 for shade in key)


def to_rgb(picture: Image.Image, max_pixels: int) -> Image.Image:
    """As RGB on white paper, upright, of at most so many pixels."""
    picture = _upright(_on_paper(picture, max_pixels), picture.getexif().get(ORIENTATION, 1))
    ratio = (max_pixels / (picture.width * picture.height)) ** 0.5
    if ratio >= 1:
        return picture
    width = max(1, int(picture.width * ratio))
    height = max(
        1, min(int(picture.height * ratio), max_pixels // width)
    )  # of a thread, one side cannot shrink
    return picture.resize((min(width, max_pixels // height), height), Image.Resampling.BICUBIC)


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    picture.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(picture)


def _on_paper(picture: Image.Image, max_pixels: int) -> Image.Image:
    """As RGB, band by band: no second copy of a large picture is made. A very large one is averaged
    down.
    """
    width, height = picture.size
    factor = 1
    if width * height > LARGE_PIXELS:  # to twice the final width and height, or more
        factor = max(1, int((width * height / max_pixels) ** 0.5 / 2))
    across, down = min(factor, width), min(factor, height)
    paper = Image.new("RGB", (-(-width // across), -(-height // down)))
    shades = _shades(picture)
    rows = max(1, BAND_PIXELS // (width * down)) * down
    for top in range(0, height, rows):
        band = _as_rgb(picture.crop((0, top, width, min(height, top + rows))), shades)
        paper.paste(band.reduce((across, down)), (0, top // down))
    return paper


def _as_rgb(part: Image.Image, shades: tuple[float, float] | None) -> Image.Image:
    if shades is not None:
        return _in_8_bits(part, shades)
    if part.mode == "LAB":  # Pillow leaves this one to its colour profiles
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(part, lab, rgb, outputMode="RGB") or part
    if not part.has_transparency_data:
        return part.convert("RGB")
    seen = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    opaque = Image.new(
        "RGB", seen.size, "white"
    )  # a drawing without ground is drawn on paper, not on black
    opaque.paste(seen, mask=seen.getchannel("A"))
    return opaque


def _shades(picture: Image.Image) -> tuple[float, float] | None:
    """What is black and what is white, where a shade has more than 8 bits; None of all other
    pictures.
    """
    if picture.mode.startswith("I;16") or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    ):
        return 0.0, SHADES_16
    if picture.mode not in ("I", "F"):
        return None

    low, high = _extent(picture)
    if low >= 0 and picture.mode == "I" and high <= SHADES_16:
        return 0.0, 255.0 if high <= 255 else SHADES_16
    if low >= 0 and picture.mode == "F" and (high <= 1 or 16 < high <= 255):
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


def _extent(picture: Image.Image) -> tuple[float, float]:
    """The least and the largest shade that is a number; (0, 0) if none is."""
    low, high = np.inf, -np.inf
    rows = max(1, BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        band = np.asarray(picture.crop((0, top, picture.width, min(picture.height, top + rows))))
        numbers = band[np.isfinite(band)]
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _in_8_bits(part: Image.Image, shades: tuple[float, float]) -> Image.Image:
    low, high = shades
    values = np.asarray(part).astype(np.float64)
    numbers = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (numbers - low) / ((high - low) or 1.0) * 255.0
    grey = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
    key = part.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255  # paper
    return Image.fromarray(grey).convert("RGB")


def image_error_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, OSError) and error.strerror:  # its own text repeats the path
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
