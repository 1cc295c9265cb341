"""An opened image becomes RGB pixels: upright, on white paper, of limited size. It opens no files.

Modes and shades are those of Pillow; a band is a horizontal strip of an image.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms, ImageOps

# The most that a vision tower is shown; Qwen2-VL's own recommendation.
DEFAULT_MAX_PIXELS = 1_280 * 28 * 28

# A larger image is averaged down before its colours are looked at.
LARGE_PIXELS = 16_000_000

# Colours are converted in bands of this size: a copy of a large image takes 350 MB.
BAND_PIXELS = 1_000_000

# The tag of EXIF.
ORIENTATION = 0x0112

# White, where a shade has 16 bits.
WHITE_16_BITS = 65_535.0

# The shades of black and of white in an image whose shades have more than 8 bits.
ShadeRange = tuple[float, float]


def to_rgb(image: Image.Image, max_pixels: int) -> Image.Image:
    """Return the image as RGB on white paper, upright, shrunk to `max_pixels` at most."""
    orientation = image.getexif().get(ORIENTATION, 1)
    image = _turn_upright(_draw_on_paper(image, max_pixels), orientation)

    ratio = (max_pixels / (image.width * image.height)) ** 0.5
    if ratio >= 1:
        return image

    # One side of a very long and thin image cannot shrink, so the other one must give way.
    width = max(1, int(image.width * ratio))
    height = max(1, min(int(image.height * ratio), max_pixels // width))
    return image.resize((min(width, max_pixels // height), height), Image.Resampling.BICUBIC)


def pad_to_aspect(image: Image.Image, max_pixels: int, max_aspect: int) -> Image.Image:
    """Put an image that is more than `max_aspect` times as long as it is wide on a sheet of white
    paper of half that shape; return any other image as it is.

    Vision towers refuse a ruler line of 600 x 2 pixels.
    """
    width, height = image.size
    if max(width, height) <= max_aspect * min(width, height):
        return image

    # Without this limit the sheet of a line of a million pixels would have billions.
    aspect = max_aspect // 2
    max_side = max(aspect, int((max_pixels * aspect) ** 0.5))
    line = image.resize((min(width, max_side), min(height, max_side)))

    min_side = max(line.size) // aspect
    sheet = Image.new("RGB", (max(line.width, min_side), max(line.height, min_side)), "white")
    sheet.paste(line, ((sheet.width - line.width) // 2, (sheet.height - line.height) // 2))
    return sheet


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _draw_on_paper(image: Image.Image, max_pixels: int) -> Image.Image:
    """Return the image as RGB on white, converted in bands, so that no second copy of a large image
    is made. A very large one is averaged down.
    """
    width, height = image.size
    columns, rows = _averaged_block(width, height, max_pixels)
    paper = Image.new("RGB", (-(-width // columns), -(-height // rows)))
    shades = _shade_range(image)

    band_height = max(1, BAND_PIXELS // (width * rows)) * rows
    for top in range(0, height, band_height):
        bottom = min(height, top + band_height)
        band = _convert_band(image.crop((0, top, width, bottom)), shades)
        paper.paste(band.reduce((columns, rows)), (0, top // rows))
    return paper


def _averaged_block(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Return how many columns and rows become one pixel of the paper.

    The paper stays at least twice as wide and high as the image will be in the end.
    """
    factor = 1
    if width * height > LARGE_PIXELS:
        factor = max(1, int((width * height / max_pixels) ** 0.5 / 2))
    return min(factor, width), min(factor, height)


def _convert_band(band: Image.Image, shades: ShadeRange | None) -> Image.Image:
    if shades is not None:
        return _to_8_bits(band, shades)

    # Pillow leaves this mode to its colour profiles.
    if band.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        rgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(band, lab, rgb, outputMode="RGB") or band

    if not band.has_transparency_data:
        return band.convert("RGB")

    # A drawing without ground is drawn on paper, not on black.
    drawing = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
    opaque = Image.new("RGB", drawing.size, "white")
    opaque.paste(drawing, mask=drawing.getchannel("A"))
    return opaque


def _shade_range(image: Image.Image) -> ShadeRange | None:
    """Return what is black and what is white, where a shade has more than 8 bits; None for any
    other image.
    """
    is_16_bits = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith("I;16") or is_16_bits:
        return 0.0, WHITE_16_BITS
    if image.mode not in ("I", "F"):
        return None

    low, high = _measure_shades(image)
    if low >= 0 and image.mode == "I" and high <= WHITE_16_BITS:
        return 0.0, 255.0 if high <= 255 else WHITE_16_BITS
    if low >= 0 and image.mode == "F" and (high <= 1 or 16 < high <= 255):
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


def _measure_shades(image: Image.Image) -> ShadeRange:
    """Return the least and the largest shade that is a finite number; (0, 0) if none is."""
    low = np.inf
    high = -np.inf
    band_height = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, band_height):
        bottom = min(image.height, top + band_height)
        band = np.asarray(image.crop((0, top, image.width, bottom)))
        numbers = band[np.isfinite(band)]
        if numbers.size:
            low = min(low, float(numbers.min()))
            high = max(high, float(numbers.max()))

    return (low, high) if low <= high else (0.0, 0.0)


def _to_8_bits(band: Image.Image, shades: ShadeRange) -> Image.Image:
    low, high = shades
    values = np.asarray(band).astype(np.float64)
    numbers = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (numbers - low) / ((high - low) or 1.0) * 255.0
    grey = np.clip(scaled + 0.5, 0, 255).astype(np.uint8)

    # The shade that counts as transparent shows the paper.
    key = band.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255

    return Image.fromarray(grey).convert("RGB")
