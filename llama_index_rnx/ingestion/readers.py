"""One file as nodes: pages of a PDF, an image, passages of a text. It knows no collection."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.candidates import PAGE, SOURCE, PageNode
from llama_index_rnx.collection import Stamp
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.ingestion.discovery import IMAGE_SUFFIXES, PDF_SUFFIX, SourceFile
from llama_index_rnx.pdf import READER, PageText, read_pages
from llama_index_rnx.text import CUTTER, passages

MAX_TEXT_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class FileContents:
    """A file that was read once: its state before that, and its nodes.

    Attributes:
        stamp: the state of the file, and the number of its nodes.
    """

    source: SourceFile
    stamp: Stamp
    nodes: Sequence[BaseNode]

    @property
    def characters(self) -> int:
        """How many letters the texts of the nodes have."""
        return sum(len(node.get_content()) for node in self.nodes)


def read_file(source: SourceFile) -> FileContents:
    """Read a file, so that a bad one shows before anything of it is written.

    An image is not opened: it is decoded when it is embedded.

    Raises:
        SettingsError: the file is empty, or holds no text.
        RNXError: a PDF is broken, encrypted, or has too many pages.
        OSError: the file is gone, or may not be read.
    """
    if source.path.stat().st_size == 0:
        raise SettingsError(f"{source.path}: is empty (0 bytes); remove or replace it.")

    # The state comes first: if the file changes meanwhile, the next run reads it again.
    stamp = stamp_of(source, nodes=0)
    nodes = list(nodes_of(source))
    return FileContents(source=source, stamp=replace(stamp, nodes=len(nodes)), nodes=nodes)


def nodes_of(source: SourceFile) -> Iterator[BaseNode]:
    """Yield the nodes of one file: a PDF gives one for each page, an image one, a text one for each
    passage of about 180 words.

    Raises:
        SettingsError: a text file is too large, holds zero bytes, or no text.
        RNXError: a PDF is broken, encrypted, or has too many pages.
        OSError: the file is gone, or may not be read.
    """
    suffix = source.path.suffix.lower()
    if suffix == PDF_SUFFIX:
        for number, page in enumerate(read_pages(source.path), start=1):
            yield _page_node(source, number, page)
    elif suffix in IMAGE_SUFFIXES:
        yield _image_node(source)
    else:
        for number, passage in enumerate(_read_passages(source.path), start=1):
            yield _passage_node(source, number, passage)


def file_of(node_id: str) -> str:
    """Return the docid of the file that a node came from: its id without the number of the page or
    the passage.

    Example:
        >>> file_of("manual.pdf#12"), file_of("notes.md@3"), file_of("notes.md")
        ('manual.pdf', 'notes.md', 'notes.md')
    """
    return re.sub(r"[#@]\d+$", "", node_id)


def stamp_of(source: SourceFile, nodes: int) -> Stamp:
    """Return the state of a file now, with the number of its nodes."""
    status = source.path.stat()
    with source.path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return Stamp(
        path=str(source.path),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=sha,
        nodes=nodes,
        reader=reader_of(source),
    )


def reader_of(source: SourceFile) -> int:
    """Return the version of the code that reads files of this kind; 0 where no version ever changed
    what a file gives.
    """
    suffix = source.path.suffix.lower()
    if suffix == PDF_SUFFIX:
        return READER
    return 0 if suffix in IMAGE_SUFFIXES else CUTTER


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, UTF-16 with its mark, or else Windows-1252.

    Raises:
        SettingsError: the file has more than 64 MiB, or holds zero bytes.
        OSError: it is gone, or may not be read.
    """
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise SettingsError(
            f"{path}: has {size:,} bytes; text files of at most {MAX_TEXT_BYTES:,} are read."
        )

    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # Older editors wrote it; nearly every byte has a meaning there.
        text = data.decode("cp1252", errors="replace")

    if "\x00" in text:
        raise SettingsError(
            f"{path}: is not a text (it holds zero bytes); save it as UTF-8 or leave it out."
        )
    return text


def _read_passages(path: Path) -> list[str]:
    texts = passages(read_text(path))
    if not texts:
        raise SettingsError(f"{path}: holds no text (white space only); remove or fill it.")
    return texts


def _page_node(source: SourceFile, number: int, page: PageText) -> BaseNode:
    return PageNode(
        id_=f"{source.docid}#{number}",
        text=page.text,
        pdf_path=str(source.path),
        page=number,
        has_fields=page.has_fields,
        metadata={SOURCE: source.docid, PAGE: number},  # type: ignore[call-arg]
        excluded_embed_metadata_keys=[SOURCE, PAGE],
    )


def _image_node(source: SourceFile) -> BaseNode:
    return ImageNode(
        id_=source.docid,
        image_path=str(source.path),
        metadata={SOURCE: source.docid},
        excluded_embed_metadata_keys=[SOURCE],
        excluded_llm_metadata_keys=[],
    )


def _passage_node(source: SourceFile, number: int, passage: str) -> BaseNode:
    return TextNode(
        id_=source.docid if number == 1 else f"{source.docid}@{number}",
        text=passage,
        metadata={SOURCE: source.docid},
        excluded_embed_metadata_keys=[SOURCE],
    )
