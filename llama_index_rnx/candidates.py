"""Node -> candidate: the only file that opens images or trims text. It knows neither models nor Qdrant."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlparse

import numpy as np
import pypdfium2 as pdfium
from llama_index.core.base.llms.types import BaseContentBlock, ImageBlock, TextBlock
from llama_index.core.schema import BaseNode, ImageNode, MediaResource, MetadataMode, Node, QueryBundle
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.fetch import FetchError, fetch

MAX_SOURCE_PIXELS = (
    89_000_000  # a larger file is refused before it is decoded (30,000 x 30,000 needs 2.7 GB); Pillow warns from here
)
MAX_FILE_BYTES = 512 * 2**20  # 89 megapixels without compression take 267 MB, twice that with 16 bits a colour
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PCX", "AVIF", "JPEG2000")
# Pillow knows forty more, among them EPS, which it hands to Ghostscript.
DEFAULT_MAX_PIXELS = 1_280 * 28 * 28  # what a vision tower is shown at most; Qwen2-VL's own recommendation
PAGE_PIXELS = 1_280 * 28 * 28  # a rendered PDF page
LARGE_PIXELS = 16_000_000  # from here on a picture is first averaged down, before its colours are looked at
BAND_PIXELS = 1_000_000  # whose colours are converted at once: a copy of a large picture takes 350 MB
ORIENTATION = 0x0112  # of EXIF
SHADES_16 = 65_535.0

NOTED_FILES = 100_000
_noted: dict[str, str] = {}
_PDFIUM = threading.RLock()  # PDFium is not thread-safe: one document at a time in a process

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
        buffer = io.BytesIO()
        self.load(max_pixels).save(buffer, "JPEG", quality=90, subsampling=0)
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

    @cached_property
    def digest(self) -> str:
        """Names the content (not the id): equal contents share one memory."""
        image = self.image.digest if self.image else ""
        return hashlib.sha256(f"{image}\n{self.text}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked: a text, an image, or both."""

    text: str = ""
    image: ImageSource | None = None


class PageNode(ImageNode):
    """One page of a PDF: its text layer as text, its image rendered when somebody looks at it.

    Nothing is stored beside the PDF: the page stays where it is. `page` counts from 1.
    """

    pdf_path: str
    page: int

    @classmethod
    def class_name(cls) -> str:
        return "PageNode"

    def resolve_image(self) -> io.BytesIO:
        """The rendered page as a JPEG in memory."""
        return io.BytesIO(_page_source(self).jpeg())

    def get_content_blocks(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> list[BaseContentBlock]:
        """Text and picture, for a multimodal prompt (`ImageNode` gives the picture only)."""
        blocks: list[BaseContentBlock] = list(self.get_metadata_content_blocks(metadata_mode))
        if self.text:
            blocks.append(TextBlock(text=self.text))
        blocks.append(ImageBlock(image=self.resolve_image().read(), image_mimetype="image/jpeg"))
        return blocks


def candidate_of(node: BaseNode, allow_urls: bool = False) -> Candidate:
    """A node of any shape as a candidate; nothing is opened yet.

    The text is what LlamaIndex would embed: with the metadata, less `excluded_embed_metadata_keys`. The image may be base64,
    bytes, a path, or a page of a PDF; a URL only with `allow_urls`, and then of a public address.

    Raises:
        RNXError: the node holds neither text nor image.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> found = candidate_of(TextNode(id_="a", text="Bees make honey.", metadata={"title": "Bees"}))
        >>> found.kind, found.text
        ('text', 'title: Bees\\n\\nBees make honey.')
    """
    image = image_of(node, allow_urls=allow_urls)
    text = node.get_content(metadata_mode=MetadataMode.EMBED) if _own_text(node).strip() else ""
    if not text.strip() and image is None:
        raise RNXError(f"node {node.node_id!r} holds neither text nor image; give it one of them or leave it out.")
    return Candidate(id=node.node_id, text=clean_text(text), image=image)


def clean_text(text: str) -> str:
    """Without white space around it and without halves of surrogate pairs, which no tokenizer takes.

    Example:
        >>> clean_text(" half a pair: \\ud800 ")
        'half a pair: ?'
    """
    return text.encode("utf-8", "replace").decode().strip()


def query_of(bundle: QueryBundle | str | None) -> Query:
    """A LlamaIndex query as ours.

    Raises:
        RNXError: there is neither text nor image in it.
    """
    if bundle is None:
        raise RNXError("no query was given; pass query_bundle=QueryBundle(...) or query_str='...'.")
    if isinstance(bundle, str):
        bundle = QueryBundle(bundle)
    text = clean_text(bundle.query_str or "")
    image = file_source(bundle.image_path) if bundle.image_path else None
    if not text and image is None:
        raise RNXError("the query is empty; give it a text, an image, or both.")
    return Query(text=text, image=image)


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


def file_source(path: str | Path) -> ImageSource:
    """An image file. It may be missing: that shows when it is loaded."""
    path = Path(_local_path(str(path)))
    return ImageSource(label=str(path), digest=_file_digest(path), read=lambda: _checked_file(path))


def bytes_source(data: bytes, label: str) -> ImageSource:
    """The bytes of an image file, as they are."""
    return ImageSource(label=label, digest=hashlib.sha256(data).hexdigest(), read=lambda: data)


def picture_source(picture: Image.Image, label: str = "picture") -> ImageSource:
    """An open PIL image."""
    digest = hashlib.sha256(repr((picture.mode, picture.size)).encode() + picture.tobytes()).hexdigest()
    return ImageSource(label=label, digest=digest, read=lambda: picture)


def base64_source(data: str | bytes, label: str) -> ImageSource:
    """An image as base64, with or without a `data:` prefix."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    raw = raw.split(b",", 1)[-1] if raw.startswith(b"data:") else raw
    return ImageSource(label=label, digest=hashlib.sha256(raw).hexdigest(), read=lambda: _from_base64(raw, label))


@contextmanager
def open_pdf(path: str | Path) -> Iterator[pdfium.PdfDocument]:
    """A PDF, closed again after use; other threads wait for their turn.

    Raises:
        RNXError: it is missing, broken or encrypted.
    """
    with _PDFIUM:
        try:
            document = pdfium.PdfDocument(path)
        except (pdfium.PdfiumError, OSError) as error:
            wrong = "it needs a password" if "password" in str(error).lower() else _reason(error)
            raise RNXError(f"{path}: cannot be opened as a PDF ({wrong}); mend it or leave it out.") from error
        try:
            yield document
        finally:
            document.close()


def page_text(document: pdfium.PdfDocument, index: int) -> str:
    """The text layer of a page (index from 0); empty where there is none, as on a scan."""
    try:
        page = document[index]
    except pdfium.PdfiumError:  # a broken page: whoever draws it is told so, the other pages are read
        return ""
    text_page = page.get_textpage()
    try:
        return str(text_page.get_text_bounded()).replace("\r\n", "\n").replace("\x00", "").strip()
    finally:
        text_page.close()
        page.close()


def render_page(document: pdfium.PdfDocument, index: int, pixels: int = PAGE_PIXELS) -> Image.Image:
    """A page (index from 0) as an RGB picture of about `pixels`, whatever its size on paper."""
    page = document[index]
    try:
        width, height = page.get_size()  # points
        scale = (pixels / max(width * height, 1.0)) ** 0.5
        picture: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
        return picture
    finally:
        page.close()


def _page_source(node: PageNode) -> ImageSource:
    path, index = Path(node.pdf_path), node.page - 1

    def read() -> Image.Image:
        try:
            with open_pdf(path) as document:
                return render_page(document, index)
        except (RNXError, pdfium.PdfiumError, IndexError) as error:
            raise ImageError(f"{path}#{node.page}: the page cannot be drawn ({_reason(error)}).") from error

    return ImageSource(label=f"{path}#{node.page}", digest=f"{_file_digest(path)}#{node.page}", read=read)


def _first_source(data: Any, path: Any, url: Any, label: str, allow_urls: bool) -> ImageSource | None:
    if data:
        return base64_source(data, label=f"image of node {label!r}")
    if path:
        return file_source(path)
    if not url:
        return None
    if str(url).lower().startswith("file:"):
        return file_source(str(url))
    if not allow_urls:
        raise RNXError(f"node {label!r} has its image at {short(str(url))}: no URL is fetched unless allowed; load it first.")
    return url_source(str(url))


def short(label: str) -> str:
    """For messages: in one line, whatever a document says its picture is called, and no longer than 300 letters."""
    label = " ".join(label.split())
    return label if len(label) <= 300 else f"{label[:140]} ... {label[-140:]}"


def url_source(url: str) -> ImageSource:
    def read() -> bytes:
        try:
            return fetch(url)
        except FetchError as error:
            raise ImageError(f"{short(url)}: the image did not arrive ({error}); load it first and hand it over.") from error

    return ImageSource(label=url, digest=hashlib.sha256(url.encode()).hexdigest(), read=read)


def _own_text(node: BaseNode) -> str:
    return node.get_content(metadata_mode=MetadataMode.NONE) or ""


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


def _from_base64(data: bytes, label: str) -> bytes:
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)  # MIME breaks its lines
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
