"""Node -> candidate: the only file that opens images or trims text. It knows neither models nor Qdrant."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import os
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, unquote_to_bytes, urlparse

import numpy as np
from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.schema import BaseNode, ImageNode, MediaResource, MetadataMode, Node, QueryBundle, TextNode
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from llama_index_rnx.errors import ImageError, RNXError, short, shown
from llama_index_rnx.network import FetchError, fetch
from llama_index_rnx.pdf import draw_page
from llama_index_rnx.text import clean_text

MAX_SOURCE_PIXELS = (
    89_000_000  # a larger file is refused before it is decoded (30,000 x 30,000 needs 2.7 GB); Pillow warns from here
)
MAX_FILE_BYTES = 512 * 2**20  # 89 megapixels without compression take 267 MB, twice that with 16 bits a colour
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "AVIF", "JPEG2000")
# Pillow knows forty more, among them EPS, which it hands to Ghostscript.
DEFAULT_MAX_PIXELS = 1_280 * 28 * 28  # what a vision tower is shown at most; Qwen2-VL's own recommendation
PROBE_PIXELS = 256 * 256  # of a picture that is opened only to see whether it opens
PROBES_AT_ONCE = 8
JPEG_SIDE = 65_500  # the format's limit
EMPTY = "holds neither text nor image; give it one of them or leave it out."
LARGE_PIXELS = 16_000_000  # from here on a picture is first averaged down, before its colours are looked at
BAND_PIXELS = 1_000_000  # whose colours are converted at once: a copy of a large picture takes 350 MB
ORIENTATION = 0x0112  # of EXIF
SHADES_16 = 65_535.0
_FROM_URL_LETTERS = bytes.maketrans(b"-_", b"+/")  # base64 as it is written in URLs and by some APIs
_DATA_URI = re.compile(rb"\s*data:([^,]*),", re.IGNORECASE)

T = TypeVar("T")
NOTED_FILES = 100_000
_noted: dict[str, str] = {}

_FAULTS = (  # of Pillow, for a file that is damaged or no picture
    UnidentifiedImageError,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
    OSError,
    ValueError,
    SyntaxError,
)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Where an image is, without opening it. `digest` names its content, `read` brings its bytes or its pixels.

    The digest of a file is made from its path, size and time of change: a remembered list of a hundred files is
    recognised in a millisecond, without reading one of them. A file that was touched is merely remembered again.
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
                return _shrunk(found, max_pixels or DEFAULT_MAX_PIXELS)
            return _decoded(found, max_pixels)
        except ImageError:
            raise
        except _FAULTS as error:
            raise ImageError(
                f"{short(self.label)}: cannot be read as an image ({_reason(error)}); replace or remove it."
            ) from error

    def jpeg(self, max_pixels: int | None = None) -> bytes:
        """The same as the bytes of a JPEG, to be sent or shown elsewhere; colours at full resolution, for small print."""
        buffer, picture = io.BytesIO(), self.load(max_pixels)
        picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
        picture.save(buffer, "JPEG", quality=90, subsampling=0)
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a ranker sees of a node: a text, an image, or both. An empty text means: no text."""

    id: str
    text: str = ""
    image: ImageSource | None = None

    @property
    def kind(self) -> str:
        """`text`, `image` or `both`."""
        return "both" if self.text and self.image else "image" if self.image else "text"

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to rank it by."""
        return not self.text and self.image is None

    @cached_property
    def digest(self) -> str:
        """Names the content (not the id): equal contents share one memory."""
        image = self.image.digest if self.image else ""
        return hashlib.sha256(f"{image}\n{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked: a text, an image, or both.

    The dense search alone looks at `dense_texts`, which are embedded in place of the text, and at `dense_vector`, which takes
    the place of all that would be embedded. BM25 and rankers go on with text and image.
    """

    text: str = ""
    image: ImageSource | None = None
    dense_texts: tuple[str, ...] = ()
    dense_vector: tuple[float, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look for."""
        return not (self.text or self.image or self.dense_texts or self.dense_vector)


class PageNode(ImageNode):
    """One page of a PDF: its text layer as text, its image rendered when somebody looks at it.

    Nothing is stored beside the PDF: the page stays where it is. `page` counts from 1. `has_fields`: there are fields of a
    form on it, whose values are part of text and picture.
    """

    pdf_path: str
    page: int
    has_fields: bool = False

    @classmethod
    def class_name(cls) -> str:
        return "PageNode"

    def resolve_image(self) -> io.BytesIO:
        """The rendered page as a JPEG in memory."""
        return io.BytesIO(_page_source(self).jpeg())

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[BaseContentBlock]:
        """Text and picture, for a multimodal prompt (`ImageNode` gives the picture only); of a page that is gone the text."""
        blocks: list[BaseContentBlock] = list(self.get_metadata_content_blocks(metadata_mode))
        if self.text:
            blocks.append(TextBlock(text=self.text))
        with suppress(ImageError):
            blocks.append(ImageBlock(image=self.resolve_image().read(), image_mimetype="image/jpeg"))
        return blocks


def candidate_of(node: BaseNode, allow_urls: bool = False) -> Candidate:
    """A node of any shape as a candidate; nothing is opened yet.

    The text is what LlamaIndex would embed: with the metadata, less `excluded_embed_metadata_keys`. The image may be base64,
    bytes, a path, or a page of a PDF; a URL only with `allow_urls`, and then of a public address.

    Raises:
        RNXError: the node holds neither text nor image, or something in it cannot be used.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> found = candidate_of(TextNode(id_="a", text="Bees make honey.", metadata={"title": "Bees"}))
        >>> found.kind, found.text
        ('text', 'title: Bees\\n\\nBees make honey.')
    """
    candidate, fault = usable_candidate(node, allow_urls)
    if fault:
        raise RNXError(fault)
    return candidate


def usable_candidate(node: Any, allow_urls: bool = False) -> tuple[Candidate, str]:
    """What a node of any shape can be ranked by, and in one line why the rest cannot be used ("" where all can).

    It never raises: a node that holds nothing, or is no node, gives an empty candidate. A picture is not opened here.

    Example:
        >>> from llama_index.core.schema import ImageNode
        >>> node = ImageNode(id_="a", text="Rust is red.", image_url="http://10.0.0.1/rust.png")
        >>> candidate, fault = usable_candidate(node)
        >>> candidate.kind, fault
        ('text', "node 'a' has its image at http://10.0.0.1/rust.png: no URL is fetched unless allowed; load it first.")
    """
    if not isinstance(node, BaseNode):
        return Candidate(id=""), f"{type(node).__name__} was got where a node is needed."

    text, text_fault = _attempt(lambda: _text_of(node), node)
    image, image_fault = _attempt(lambda: image_of(node, allow_urls=allow_urls), node)

    candidate = Candidate(id=str(node.node_id), text=text or "", image=image)
    fault = text_fault or image_fault
    if candidate.is_empty and not fault:
        fault = f"node {candidate.id!r} {EMPTY}"
    return candidate, fault


def unreadable_images(candidates: Sequence[Candidate]) -> dict[str, ImageError]:
    """Opens every picture once, several side by side; of those that cannot be opened the reason, by the candidate's digest."""
    pictured = {candidate.digest: candidate.image for candidate in candidates if candidate.image is not None}
    if not pictured:
        return {}
    with ThreadPoolExecutor(min(PROBES_AT_ONCE, len(pictured)), thread_name_prefix="rnx-probe") as workers:
        errors = workers.map(_fault_of, pictured.values())
        return {digest: error for digest, error in zip(pictured, errors, strict=True) if error is not None}


def without_unreadable_images(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, each without its picture where that cannot be opened."""
    broken = unreadable_images(candidates)
    return [replace(one, image=None) if one.digest in broken else one for one in candidates]


def query_of(bundle: QueryBundle | str | None, dense: bool = False) -> Query:
    """A LlamaIndex query as ours.

    Args:
        dense: take over `custom_embedding_strs` and `embedding`, too, as a retriever does; one of them is enough for a query.

    Raises:
        RNXError: there is neither text nor image in it, or an embedding is no list of numbers.
    """
    if bundle is None:
        raise RNXError("no query was given; pass query_bundle=QueryBundle(...) or query_str='...'.")
    if isinstance(bundle, str):
        bundle = QueryBundle(bundle)
    if not isinstance(bundle, QueryBundle) or not isinstance(bundle.query_str, str | None):
        raise RNXError(f"the query is {shown(bundle)}; a string or a QueryBundle(query_str) is needed.")

    query = Query(
        text=clean_text(bundle.query_str or ""),
        image=_picture_of_query(bundle.image_path),
        dense_texts=dense_texts_of(bundle.custom_embedding_strs) if dense else (),
        dense_vector=dense_vector_of(bundle.embedding) if dense else None,
    )
    if query.is_empty:
        raise RNXError("the query is empty; give it a text, an image, or both.")
    return query


def _picture_of_query(location: Any) -> ImageSource | None:
    if location is None or (isinstance(location, str) and not location):
        return None
    if not isinstance(location, str | Path):
        raise RNXError(f"the query's image_path is {shown(location)}; a path or a data: URI is needed.")
    return source_at(location, label="the query's picture")


def dense_texts_of(texts: Any) -> tuple[str, ...]:
    """Those of `custom_embedding_strs` that say something.

    Raises:
        RNXError: one of them is no string, or they are no list.
    """
    if texts is None:
        return ()
    if not isinstance(texts, Iterable):
        raise RNXError(f"custom_embedding_strs={shown(texts)} was given; a list of texts is needed.")

    strings = [texts] if isinstance(texts, str) else list(texts)
    for text in strings:
        if not isinstance(text, str):
            raise RNXError(f"custom_embedding_strs holds {shown(text)}; texts are allowed.")
    return tuple(cleaned for text in strings if (cleaned := clean_text(text)))


def dense_vector_of(embedding: Any) -> tuple[float, ...] | None:
    """The numbers of a query's `embedding`.

    Raises:
        RNXError: it is no list of numbers, or none that a search can use.
    """
    if embedding is None:
        return None
    try:
        vector = tuple(float(number) for number in embedding)
    except (TypeError, ValueError) as error:
        raise RNXError(f"the query's embedding is no list of numbers ({short(str(error))}); leave it out.") from error
    if not all(map(math.isfinite, vector)) or not any(vector):
        raise RNXError("the query's embedding has a number that is none, or is all zeros; leave it out, or embed again.")
    return vector


def on_sheet(picture: Image.Image, max_pixels: int, max_aspect: int) -> Image.Image:
    """A picture that is more than `max_aspect` times as long as it is wide, on a sheet of white paper of half that shape.

    Vision towers refuse a ruler line of 600 x 2 pixels. Any other picture is given back as it is.
    """
    width, height = picture.size
    if max(width, height) <= max_aspect * min(width, height):
        return picture

    shape = max_aspect // 2
    side = max(shape, int((max_pixels * shape) ** 0.5))  # or the sheet of a thread of a million pixels would have billions
    line = picture.resize((min(width, side), min(height, side)))

    least = max(line.size) // shape
    sheet = Image.new("RGB", (max(line.width, least), max(line.height, least)), "white")
    sheet.paste(line, ((sheet.width - line.width) // 2, (sheet.height - line.height) // 2))
    return sheet


def image_of(node: BaseNode, allow_urls: bool = False) -> ImageSource | None:
    """The image of a node, if it has one: base64, bytes, a path, a page of a PDF, or (when allowed) a URL."""
    if isinstance(node, PageNode):
        return _page_source(node)
    if isinstance(node, ImageNode):
        return _first_source(node.image, node.image_path, node.image_url, node.node_id, allow_urls)
    if isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        return _first_source(resource.data, resource.path, resource.url, node.node_id, allow_urls)
    return None


def with_inline_image(node: BaseNode) -> BaseNode:
    """The node as a prompt can show it: with its picture in it, as a JPEG, or as a text where the picture cannot be read.

    LlamaIndex itself would fail over a file that is gone, and ask the network for a URL.
    """
    if isinstance(node, PageNode):
        return node
    candidate, fault = usable_candidate(node)
    (shown,) = without_unreadable_images([candidate])
    if shown.image is None and not (candidate.image or fault):
        return node

    fields = {"id_": node.node_id, "text": _own_text(node), "metadata": node.metadata}
    fields["excluded_llm_metadata_keys"] = node.excluded_llm_metadata_keys
    if shown.image is None:
        return TextNode(**fields)
    picture = base64.b64encode(shown.image.jpeg()).decode()
    return ImageNode(**fields, image=picture, image_mimetype="image/jpeg")


def inline_image(node: BaseNode) -> bytes | None:
    """The base64 that a node carries itself, which no file could bring back; otherwise None."""
    data: Any = node.image if isinstance(node, ImageNode) else None
    if isinstance(node, Node) and node.image_resource is not None:
        data = node.image_resource.data
    return data.encode("utf-8", "replace") if isinstance(data, str) else data


def restore_inline_image(node: BaseNode, data: bytes) -> None:
    """Puts base64 back where `inline_image` found it."""
    if isinstance(node, ImageNode):
        node.image = data.decode()
    elif isinstance(node, Node):
        node.image_resource = (node.image_resource or MediaResource()).model_copy(update={"data": data})


def source_at(location: str | Path, label: str) -> ImageSource:
    """What a string names where a path is expected: a file, or the picture itself as a `data:` URI."""
    return base64_source(str(location), label) if is_data_uri(location) else file_source(location)


def is_data_uri(location: object) -> bool:
    """Whether this is a picture itself, not the place of one.

    Example:
        >>> is_data_uri("DATA:image/png;base64,iVBORw0K"), is_data_uri("data/red.png"), is_data_uri("http://host/data:,")
        (True, False, False)
    """
    head = str(location)[:1_000].encode("utf-8", "replace")
    return _DATA_URI.match(head) is not None


def file_source(path: str | Path) -> ImageSource:
    """An image file. It may be missing: that shows when it is loaded."""
    path = Path(_local_path(str(path)))
    return ImageSource(label=str(path), digest=_file_digest(path), read=lambda: _checked_file(path))


def bytes_source(data: bytes, label: str) -> ImageSource:
    """The bytes of an image file, as they are."""
    return ImageSource(label=label, digest=hashlib.sha256(data).hexdigest(), read=lambda: data)


def pil_source(picture: Image.Image, label: str = "picture") -> ImageSource:
    """An open PIL image."""
    digest = hashlib.sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest()
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
        reason = f"cannot be read as an image ({_reason(error)}); replace or remove it."
        raise ImageError(f"{short(label)}: {reason}") from error
    return pixels


def _page_source(node: PageNode) -> ImageSource:
    path, number = Path(node.pdf_path), node.page
    drawn = "+fields" if node.has_fields else ""  # they were not drawn when older memories were made
    return ImageSource(
        label=f"{path}#{number}",
        digest=f"{_file_digest(path)}#{number}{drawn}",
        read=lambda: draw_page(path, number - 1),
    )


def _first_source(data: Any, path: Any, url: Any, label: str, allow_urls: bool) -> ImageSource | None:
    name = f"image of node {label!r}"
    if data:
        return base64_source(data, name)
    if path:
        return source_at(path, name)
    if not url:
        return None
    if is_data_uri(url):
        return base64_source(str(url), name)
    if str(url).lower().startswith("file:"):
        return file_source(str(url))
    if not allow_urls:
        raise RNXError(f"node {label!r} has its image at {short(str(url))}: no URL is fetched unless allowed; load it first.")
    return url_source(str(url))


def url_source(url: str) -> ImageSource:
    def read() -> bytes:
        try:
            return fetch(url)
        except FetchError as error:
            raise ImageError(f"{short(url)}: the image did not arrive ({error}); load it first and hand it over.") from error

    return ImageSource(label=url, digest=hashlib.sha256(url.encode()).hexdigest(), read=read)


def _own_text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE) or ""


def _text_of(node: BaseNode) -> str:
    """What LlamaIndex would embed; metadata alone is no text."""
    return clean_text(node.get_content(metadata_mode=MetadataMode.EMBED)) if clean_text(_own_text(node)) else ""


def _attempt(work: Callable[[], T], node: BaseNode) -> tuple[T | None, str]:
    """What the work gives, or why it gives nothing. Whoever wrote the node's class chose what it raises."""
    try:
        return work(), ""
    except RNXError as error:
        return None, str(error)
    except Exception as error:
        return None, f"node {node.node_id!r} cannot be read ({type(error).__name__}: {short(str(error))})."


def _fault_of(image: ImageSource) -> ImageError | None:
    try:
        image.load(PROBE_PIXELS)
    except ImageError as error:
        return error
    return None


def _local_path(path: str) -> str:
    if not path.startswith("file://"):
        return path
    try:
        return unquote(urlparse(path).path)
    except ValueError as error:
        raise ImageError(f"{short(path)}: is no URL of a file ({error}); give file:///folder/name or a path.") from error


def note_file(path: str, size: int, mtime_ns: int) -> None:
    """Tells what an indexed file was like, so that it is recognised, and its memory found, after it is gone."""
    _noted[path] = f"{path}|{size}|{mtime_ns}"
    while len(_noted) > NOTED_FILES:
        _noted.pop(next(iter(_noted)), None)


def _checked_file(path: Path) -> Path:
    """A file only: a device or a pipe (/dev/zero) would never end. Its bytes are read while it is decoded."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{found.st_size:,} bytes, at most {MAX_FILE_BYTES:,} are read")
    if not found.st_size:
        raise ValueError("0 bytes")
    return path


def _file_digest(path: Path) -> str:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # the latter: a path with a zero byte, or one that the file system cannot write
        return _noted.get(str(path), f"{path}|missing")
    return f"{path}|{found.st_size}|{found.st_mtime_ns}"


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
        raise ImageError(f"{short(label)}: has {size:,} bytes, at most {MAX_FILE_BYTES:,} are read.")
    if not encoded:
        return body
    decoded = _from_base64(body, label)
    if _DATA_URI.match(decoded) is None:
        return decoded
    inner, inner_encoded = _data_of(decoded)  # LlamaIndex's MediaResource puts a data: URI into base64 once more
    return _from_base64(inner, label) if inner_encoded else inner


def _from_base64(data: bytes, label: str) -> bytes:
    letters = b"".join(data.split()).translate(_FROM_URL_LETTERS)  # MIME breaks its lines
    letters += b"=" * (-len(letters) % 4)  # URIs are often written without them
    try:
        return base64.b64decode(letters, validate=True)
    except binascii.Error as error:
        raise ImageError(f"{short(label)}: is not base64 ({error}).") from error


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


def _decoded(found: bytes | Path, max_pixels: int | None) -> Image.Image:
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
            # Each thread keeps what it allocated and freed, 350 MB of a large picture. A thread that is
            # new takes over the memory of the one before it.
            with ThreadPoolExecutor(max_workers=1) as alone:
                return alone.submit(_loaded, picture, max_pixels).result()


def _loaded(picture: ImageFile, max_pixels: int | None) -> Image.Image:
    try:
        _load(picture)
        return _shrunk(picture, max_pixels or DEFAULT_MAX_PIXELS)
    finally:
        picture.close()  # lets go of its pixels before the next one is decoded


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_SOURCE_PIXELS:
        raise ValueError(f"{width} x {height} pixels, at most {MAX_SOURCE_PIXELS:,} are read")


def _sizes_in_icon(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """The true sizes of the pictures in an icon: its own list may say anything. None of other formats."""
    mark, count = struct.unpack("<4sH", stream.read(6).ljust(6, b"\xff"))
    entries = stream.read(16 * count) if mark == b"\0\0\1\0" else b""
    for start in range(0, len(entries) - 15, 16):
        stream.seek(struct.unpack_from("<I", entries, start + 12)[0])
        head = stream.read(24).ljust(24, b"\0")
        is_png = head.startswith(b"\x89PNG")
        width, height = struct.unpack_from(">II", head, 16) if is_png else struct.unpack_from("<ii", head, 4)
        yield abs(width), abs(height)


def _load(picture: ImageFile) -> None:
    """Decodes. The colour that counts as transparent is brought to the 8 bits that Pillow leaves of 16."""
    deep = any(";16" in str(part.args) for part in picture.tile)
    picture.load()
    key = picture.info.get("transparency")
    if deep and isinstance(key, tuple):
        picture.info["transparency"] = tuple(shade >> 8 for shade in key)


def _shrunk(picture: Image.Image, max_pixels: int) -> Image.Image:
    """As RGB on white paper, upright, of at most so many pixels."""
    picture = _upright(_on_paper(picture, max_pixels), picture.getexif().get(ORIENTATION, 1))
    ratio = (max_pixels / (picture.width * picture.height)) ** 0.5
    if ratio >= 1:
        return picture
    width = max(1, int(picture.width * ratio))
    height = max(1, min(int(picture.height * ratio), max_pixels // width))  # of a thread, one side cannot shrink
    return picture.resize((min(width, max_pixels // height), height), Image.Resampling.BICUBIC)


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    picture.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(picture)


def _on_paper(picture: Image.Image, max_pixels: int) -> Image.Image:
    """As RGB, band by band: no second copy of a large picture is made. A very large one is averaged down."""
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
    opaque = Image.new("RGB", seen.size, "white")  # a drawing without ground is drawn on paper, not on black
    opaque.paste(seen, mask=seen.getchannel("A"))
    return opaque


def _shades(picture: Image.Image) -> tuple[float, float] | None:
    """What is black and what is white, where a shade has more than 8 bits; None of all other pictures."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
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


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, OSError) and error.strerror:  # its own text repeats the path
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


SOURCE = "source"  # in the metadata of nodes that came from files: their file's name


PAGE = "page"  # in the metadata of nodes that came from files, beside SOURCE
