"""Small images for a page, as JPEGs and as HTML. They know no hits."""

from __future__ import annotations

import base64
import io
from html import escape

from llama_index_rnx.candidates import ImageSource
from llama_index_rnx.errors import RNXError


def thumbnail(image: ImageSource, side: int) -> bytes:
    """Return a small JPEG, its longer side at most `side` pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    # Twice the side in both directions: enough for a sharp reduction, little to decode.
    small = image.load(max_pixels=4 * side * side)
    small.thumbnail((side, side))

    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def thumbnail_uri(image: ImageSource, side: int) -> str | None:
    """Return a thumbnail as a `data:` URI, None where the image cannot be read."""
    try:
        data = thumbnail(image, side)
    except RNXError:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def image_tag(uri: str | None, alt: str, css_class: str) -> str:
    """Return the HTML of an image, or of a placeholder where there is none to show."""
    if uri is None:
        return f'<div class="{css_class} broken">no image</div>'
    return f'<div class="{css_class}"><img src="{uri}" alt="{escape(alt)}"></div>'
