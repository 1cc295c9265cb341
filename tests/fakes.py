"""Tiny stand-ins: a ranker and an embedding that can be computed by hand, and files made by code."""

from __future__ import annotations

import base64
import io
import itertools
import re
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import NodeWithScore, TextNode
from PIL import Image

from llama_index_rnx.candidates import Candidate, Query

DIMENSIONS = 1_024
_numbers = itertools.count()
RED, GREEN, BLUE = (220, 20, 20), (20, 160, 20), (20, 20, 220)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


class FakeRanker:
    """Scores a candidate by the share of the query's words in its text; a picture knows its
    colour's name. Counts its calls.
    """

    def __init__(
        self, name: str = "fake", window: int = 20, fingerprint: str | None = None
    ) -> None:
        self.name, self.window = name, window
        self.fingerprint = fingerprint or f"fake/{next(_numbers)}"
        self.remembered: list[str] = []
        self.reads: list[int] = []
        self._lock = threading.Lock()
        self.busy = 0
        self.most_busy = 0

    def remember(self, candidates: Sequence[Candidate]) -> list[dict[str, torch.Tensor]]:
        self.remembered.extend(candidate.id for candidate in candidates)
        return [{"words": _tensor(_words_of(candidate))} for candidate in candidates]

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        self.reads.append(len(memories))
        asked = set(words(query.text)) | ({colour_of(query.image.load())} if query.image else set())
        scores = [
            len(asked & set(_text(memory["words"]).split())) / max(1, len(asked))
            for memory in memories
        ]
        with self._lock:
            self.busy -= 1
        return scores


class SharingRanker(FakeRanker):
    """Reads several windows at once; `shared` says how many each time."""

    def __init__(self, window: int = 20) -> None:
        super().__init__(window=window)
        self.shared: list[int] = []

    def score_many(self, asks: Sequence[Any]) -> list[list[float]]:
        self.shared.append(len(asks))
        return [self.score(query, memories) for query, memories in asks]


class BrokenRanker(FakeRanker):
    """Fails when it is asked for scores."""

    def score(self, query: Query, memories: Sequence[Any]) -> list[float]:
        raise RuntimeError("the ranker broke")


class FakeEmbedding(MultiModalEmbedding):
    """Buckets of words; a picture is the word of its colour. Counts what it embeds."""

    model_name: str = "fake-embedding"
    _texts: list[str] = PrivateAttr(default_factory=list)
    _images: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "FakeEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return _buckets(words(query))

    def _get_text_embedding(self, text: str) -> list[float]:
        self._texts.append(text)
        return _buckets(words(text))

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        self._images.append(img_file_path)
        with Image.open(img_file_path) as picture:
            return _buckets([colour_of(picture)])

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def colour_of(picture: Image.Image) -> str:
    """The name of the colour that a picture is nearest to at its centre."""
    rgb = picture.convert("RGB")
    seen = rgb.getpixel((rgb.width // 2, rgb.height // 2))
    return min(
        COLOURS,
        key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], seen, strict=True)),
    )


def _words_of(candidate: Candidate) -> str:
    return " ".join(
        [*words(candidate.text), *([colour_of(candidate.image.load())] if candidate.image else [])]
    )


def _tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _text(tensor: torch.Tensor) -> str:
    return bytes(tensor.tolist()).decode()


def _buckets(found: Sequence[str]) -> list[float]:
    vector = [0.01] * DIMENSIONS
    for word in found:
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    return vector


def image_bytes(
    colour: tuple[int, ...] = RED,
    size: tuple[int, int] = (24, 16),
    format: str = "PNG",
    mode: str = "RGB",
) -> bytes:
    """A plain picture as the bytes of a file."""
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


def pdf_bytes(
    texts: Sequence[str],
    colour: tuple[int, int, int] = (255, 255, 255),
    encrypted: bool = False,
    broken_page: int | None = None,
    drawings: Sequence[str] = (),
) -> bytes:
    """A PDF with one page for each text, on a ground of one colour; `broken_page` (from 0) points
    at nothing.

    `drawings`: PDF operators, of each page in turn.
    """
    ground = " ".join(f"{part / 255:.3f}" for part in colour)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(texts)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(texts):
        drawing = f"{ground} rg 0 0 300 400 re f 0 g BT /F1 14 Tf 20 350 Td ({text}) Tj ET {drawings[i] if i < len(drawings) else ''}"
        page = (
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append("(no page at all)" if i == broken_page else page)
        objects.append(f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream")
    extra = ""
    if encrypted:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{'ab' * 32}> /U <{'cd' * 32}> /P -4 >>")
        extra = f" /Encrypt {len(objects)} 0 R /ID [<{'01' * 16}> <{'01' * 16}>]"
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R{extra} >>\nstartxref\n{len(out)}\n"
    return out + trailer.encode() + b"%%EOF\n"


def write_objects(path: Path, objects: Sequence[str]) -> Path:
    """A PDF of these objects, the first its catalog; without a table of where they are, which
    PDFium makes itself.
    """
    body = "".join(f"{number} 0 obj\n{text}\nendobj\n" for number, text in enumerate(objects, 1))
    path.write_bytes(
        f"%PDF-1.7\n{body}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\n%%EOF".encode("latin-1")
    )
    return path


def pdf_stream(text: str, fields: str = "") -> str:
    return f"<<{fields}/Length {len(text)}>>stream\n{text}\nendstream"


def write_endless_pdf(path: Path, depth: int = 12, repeats: int = 10, pages: int = 1) -> Path:
    """Forms that draw one another: the last one `repeats` ** `depth` times."""
    kids = " ".join(f"{3 + number} 0 R" for number in range(pages))
    first = 4 + pages
    page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</XObject<</X {first} 0 R>>>>/Contents {3 + pages} 0 R>>"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {pages}>>",
        *([page] * pages),
        pdf_stream("/X Do"),
    ]
    for level in range(depth):
        last = level == depth - 1
        inner = "" if last else f"/Resources<</XObject<</X {first + level + 1} 0 R>>>>"
        drawn = "0 0 m 600 700 l S " if last else "/X Do " * repeats
        objects.append(pdf_stream(drawn, f"/Type/XObject/Subtype/Form/BBox[0 0 612 792]{inner}"))
    return write_objects(path, objects)


def write_pdf(path: Path, texts: Sequence[str], **options: Any) -> Path:
    path.write_bytes(pdf_bytes(texts, **options))
    return path


def write_image(
    path: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (24, 16)
) -> Path:
    """A picture in the format of its name."""
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    path.write_bytes(image_bytes(colour, size, kinds[path.suffix.lower()]))
    return path


def text_hits(*texts: str) -> list[NodeWithScore]:
    """A retrieved list of texts with ids n0, n1, ... and falling scores."""
    return [
        NodeWithScore(
            node=TextNode(id_=f"n{i}", text=text, metadata={"place": i}), score=1 / (i + 1)
        )
        for i, text in enumerate(texts)
    ]
