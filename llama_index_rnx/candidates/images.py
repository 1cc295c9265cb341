"""Where an image is, without opening it: a file, bytes, base64, a URL. It knows no nodes."""

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
    DEFAULT_MAX_PIXELS,
    PILLOW_ERRORS,
    decode,
    image_error_reason,
    to_rgb,
)
from llama_index_rnx.errors import ImageError, short
from llama_index_rnx.network import FetchError, fetch

MAX_FILE_BYTES = (
    512 * 2**20
)  # 89 megapixels without compression take 267 MB, twice that with 16 bits a colour


JPEG_SIDE = 65_500  # the format's limit


_FROM_URL_LETTERS = bytes.maketrans(
    b"-_", b"+/"
)  # base64 as it is written in URLs and by some APIs


_DATA_URI = re.compile(rb"\s*data:([^,]*),", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What a file was like at some time: its size in bytes, and when it was changed."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where an image is, without opening it. `digest` names its content, `read` brings its bytes or
    its pixels.

    The digest of a file is made from its path, size and time of change: a remembered list of a
    hundred files is recognised in a millisecond, without reading one of them. A file that was
    touched is merely remembered again.
    """

    label: str
    digest: str
    read: Callable[[], bytes | Path | Image.Image] = field(repr=False, compare=False)

    def load(self, max_pixels: int | None = None) -> Image.Image:
        """The picture as RGB, upright, shrunk to `max_pixels` at most.

        Raises:
            ImageError: it cannot be opened, is truncated, or has more than 89 megapixels.
        """
        try:
            found = self.read()
            if isinstance(found, Image.Image):
                return to_rgb(found, max_pixels or DEFAULT_MAX_PIXELS)
            return decode(found, max_pixels)
        except ImageError:
            raise
        except PILLOW_ERRORS as error:
            raise ImageError(
                f"{short(self.label)}: cannot be read as an image ({image_error_reason(error)}); replace or remove it."
            ) from error

    def jpeg(self, max_pixels: int | None = None) -> bytes:
        """The same as the bytes of a JPEG, to be sent or shown elsewhere; colours at full
        resolution, for small print.
        """
        buffer, picture = io.BytesIO(), self.load(max_pixels)
        picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
        picture.save(buffer, "JPEG", quality=90, subsampling=0)
        return buffer.getvalue()


def source_at(location: str | Path, label: str, indexed: FileState | None = None) -> ImageSource:
    """What a string names where a path is expected: a file, or the picture itself as a `data:` URI.

    Args:
        indexed: as in `file_source`.
    """
    if is_data_uri(location):
        return base64_source(str(location), label)
    return file_source(location, indexed)


def is_data_uri(location: object) -> bool:
    """Whether this is a picture itself, not the place of one.

    Example:
        >>> is_data_uri("DATA:image/png;base64,iVBORw0K"), is_data_uri("data/red.png"), is_data_uri("http://host/data:,")
        (True, False, False)
    """
    head = str(location)[:1_000].encode("utf-8", "replace")
    return _DATA_URI.match(head) is not None


def file_source(path: str | Path, indexed: FileState | None = None) -> ImageSource:
    """An image file. It may be missing: that shows when it is loaded.

    Args:
        indexed: what the file was like when it was indexed; it identifies a file that is gone.
    """
    path = Path(_local_path(str(path)))
    digest = file_digest(path, indexed)
    return ImageSource(label=str(path), digest=digest, read=lambda: _checked_file(path))


def bytes_source(data: bytes, label: str) -> ImageSource:
    """The bytes of an image file, as they are."""
    return ImageSource(label=label, digest=hashlib.sha256(data).hexdigest(), read=lambda: data)


def pil_source(picture: Image.Image, label: str = "picture") -> ImageSource:
    """An open PIL image."""
    digest = hashlib.sha256(
        repr((picture.mode, picture.size)).encode() + picture.tobytes()
    ).hexdigest()
    return ImageSource(label=label, digest=digest, read=lambda: picture)


def base64_source(data: str | bytes, label: str) -> ImageSource:
    """An image as base64, or as a `data:` URI of any spelling (base64 or percent-encoded)."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    body, encoded = _data_of(raw)
    return ImageSource(
        label=label,
        digest=hashlib.sha256(body).hexdigest(),
        read=lambda: _inline_bytes(body, encoded, label),
    )


def url_source(url: str) -> ImageSource:
    def read() -> bytes:
        try:
            return fetch(url)
        except FetchError as error:
            raise ImageError(
                f"{short(url)}: the image did not arrive ({error}); load it first and hand it over."
            ) from error

    return ImageSource(label=url, digest=hashlib.sha256(url.encode()).hexdigest(), read=read)


def _local_path(path: str) -> str:
    if not path.startswith("file://"):
        return path
    try:
        return unquote(urlparse(path).path)
    except ValueError as error:
        raise ImageError(
            f"{short(path)}: is no URL of a file ({error}); give file:///folder/name or a path."
        ) from error


def _checked_file(path: Path) -> Path:
    """A file only: a device or a pipe (/dev/zero) would never end. Its bytes are read while it is
    decoded.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{found.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    if not found.st_size:
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


def _data_of(raw: bytes) -> tuple[bytes, bool]:
    """The data of a `data:` URI, or of anything else all of it; and whether that is base64."""
    head = _DATA_URI.match(raw)
    if head is None:
        return raw, True
    parameters = [part.strip().lower() for part in head[1].split(b";")]
    return unquote_to_bytes(raw[head.end() :]), b"base64" in parameters


def _inline_bytes(body: bytes, encoded: bool, label: str) -> bytes:
    size = len(body) * 3 // 4 if encoded else len(body)
    if size > MAX_FILE_BYTES:
        raise ImageError(
            f"{short(label)}: has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read."
        )
    if not encoded:
        return body
    decoded = _from_base64(body, label)
    if _DATA_URI.match(decoded) is None:
        return decoded
    inner, inner_encoded = _data_of(
        decoded
    )  # LlamaIndex's MediaResource puts a data: URI into base64 once more
    return _from_base64(inner, label) if inner_encoded else inner


def _from_base64(data: bytes, label: str) -> bytes:
    letters = b"".join(data.split()).translate(_FROM_URL_LETTERS)  # MIME breaks its lines
    letters += b"=" * (-len(letters) % 4)  # URIs are often written without them
    try:
        return base64.b64decode(letters, validate=True)
    except binascii.Error as error:
        raise ImageError(f"{short(label)}: is not base64 ({error}).") from error
