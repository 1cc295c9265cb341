"""Sources of images, which are not opened yet: a file, bytes, base64, a URL. It knows no nodes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlparse

from PIL import Image

from llama_index_rnx.candidates.decoding import (
    PILLOW_ERRORS,
    decode,
    unreadable_image,
)
from llama_index_rnx.candidates.pixels import DEFAULT_MAX_PIXELS, to_rgb
from llama_index_rnx.errors import ImageError, short
from llama_index_rnx.network import FetchError, fetch

# 89 megapixels without compression take 267 MB, twice that with 16 bits a colour.
MAX_FILE_BYTES = 512 * 2**20

# The format's limit.
MAX_JPEG_SIDE = 65_500

# Base64 is written with other letters in URLs and by some APIs.
_FROM_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")

_DATA_URI = re.compile(rb"\s*data:([^,]*),", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileState:
    """The state of a file at some time: its size in bytes, and when it was changed."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """An image that is not opened yet. `digest` names its content; `read` returns its bytes, its
    file, or its pixels.

    The digest of a file is made from its path, size and time of change: a list of a hundred files
    that are remembered is recognised in a millisecond, and no file is read. A file that was touched
    is merely remembered again.
    """

    label: str
    digest: str
    read: Callable[[], bytes | Path | Image.Image] = field(repr=False, compare=False)

    def load(self, max_pixels: int | None = None) -> Image.Image:
        """Return the image as RGB, upright, shrunk to `max_pixels` at most.

        Raises:
            ImageError: it cannot be opened, is truncated, or has more than 89 megapixels.
        """
        try:
            data = self.read()
            if isinstance(data, Image.Image):
                return to_rgb(data, max_pixels or DEFAULT_MAX_PIXELS)
            return decode(data, max_pixels)
        except ImageError:
            raise
        except PILLOW_ERRORS as error:
            raise unreadable_image(self.label, error) from error

    def jpeg(self, max_pixels: int | None = None) -> bytes:
        """Return the image as the bytes of a JPEG, to be sent or shown elsewhere. Colours keep
        their full resolution, for small print.

        Raises:
            ImageError: as `load`.
        """
        image = self.load(max_pixels)
        image.thumbnail((MAX_JPEG_SIDE, MAX_JPEG_SIDE))

        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, subsampling=0)
        return buffer.getvalue()


def source_at(location: str | Path, label: str, indexed: FileState | None = None) -> ImageSource:
    """Return the image that a string names where a path is expected: a file, or a `data:` URI.

    Args:
        indexed: as in `file_source`.
    """
    if is_data_uri(location):
        return base64_source(str(location), label)
    return file_source(location, indexed)


def is_data_uri(location: object) -> bool:
    """Return whether this is an image itself, not the address of one.

    Example:
        >>> locations = ("DATA:image/png;base64,iVBORw0K", "data/red.png", "http://host/data:,")
        >>> [is_data_uri(location) for location in locations]
        [True, False, False]
    """
    head = str(location)[:1_000].encode("utf-8", "replace")
    return _DATA_URI.match(head) is not None


def file_source(path: str | Path, indexed: FileState | None = None) -> ImageSource:
    """Return an image file. It may be missing: that shows when it is loaded.

    Args:
        indexed: what the file was like when it was indexed; it identifies a file that is gone.
    """
    path = Path(_local_path(str(path)))
    digest = file_digest(path, indexed)
    return ImageSource(label=str(path), digest=digest, read=lambda: _checked_file(path))


def bytes_source(data: bytes, label: str) -> ImageSource:
    """Return an image from the bytes of its file."""
    return ImageSource(label=label, digest=hashlib.sha256(data).hexdigest(), read=lambda: data)


def pil_source(image: Image.Image, label: str = "image") -> ImageSource:
    """Return an image that is open already. It is not changed."""
    content = repr((image.mode, image.size)).encode() + image.tobytes()
    digest = hashlib.sha256(content).hexdigest()
    return ImageSource(label=label, digest=digest, read=lambda: image)


def base64_source(data: str | bytes, label: str) -> ImageSource:
    """Return an image from base64, or from a `data:` URI (base64 or percent-encoded)."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    body, is_base64 = _split_data_uri(raw)
    return ImageSource(
        label=label,
        digest=hashlib.sha256(body).hexdigest(),
        read=lambda: _decode_inline(body, is_base64, label),
    )


def url_source(url: str) -> ImageSource:
    """Return an image at an address of the open internet; it is fetched when it is loaded."""

    def read() -> bytes:
        try:
            return fetch(url)
        except FetchError as error:
            raise ImageError(
                f"{short(url)}: the image did not arrive ({error}); load it first and hand it over."
            ) from error

    return ImageSource(label=url, digest=hashlib.sha256(url.encode()).hexdigest(), read=read)


def _local_path(path: str) -> str:
    """Return the path of a `file://` URL; any other string as it is."""
    if not path.startswith("file://"):
        return path
    try:
        return unquote(urlparse(path).path)
    except ValueError as error:
        raise ImageError(
            f"{short(path)}: is no URL of a file ({error}); give file:///folder/name or a path."
        ) from error


def _checked_file(path: Path) -> Path:
    """Return the path of a regular file of allowed size: a device or a pipe (/dev/zero) would never
    end. Its bytes are read while it is decoded.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{status.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    if not status.st_size:
        raise ValueError("0 bytes")
    return path


def file_digest(path: Path, indexed: FileState | None = None) -> str:
    """Return the digest of a file as it is now; of a file that is gone, as it was when indexed."""
    try:
        status = os.stat(path)
    # ValueError: a path with a zero byte, or one that the file system cannot write.
    except (OSError, ValueError):
        if indexed is None:
            return f"{path}|missing"
        return f"{path}|{indexed.size}|{indexed.mtime_ns}"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def _split_data_uri(raw: bytes) -> tuple[bytes, bool]:
    """Return the data of a `data:` URI and whether it is base64; anything else is base64 whole."""
    head = _DATA_URI.match(raw)
    if head is None:
        return raw, True

    parameters = [parameter.strip().lower() for parameter in head[1].split(b";")]
    return unquote_to_bytes(raw[head.end() :]), b"base64" in parameters


def _decode_inline(body: bytes, is_base64: bool, label: str) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: they are too many, or no base64.
    """
    size = len(body) * 3 // 4 if is_base64 else len(body)
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{short(label)}: has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read."
        )
    if not is_base64:
        return body

    decoded = _from_base64(body, label)
    if _DATA_URI.match(decoded) is None:
        return decoded

    # LlamaIndex's MediaResource puts a data: URI into base64 once more.
    inner, inner_is_base64 = _split_data_uri(decoded)
    return _from_base64(inner, label) if inner_is_base64 else inner


def _from_base64(data: bytes, label: str) -> bytes:
    # MIME breaks its lines.
    letters = b"".join(data.split()).translate(_FROM_URL_ALPHABET)

    # URIs are often written without padding.
    letters += b"=" * (-len(letters) % 4)
    try:
        return base64.b64decode(letters, validate=True)
    except binascii.Error as error:
        raise ImageError(f"{short(label)}: is not base64 ({error}).") from error
