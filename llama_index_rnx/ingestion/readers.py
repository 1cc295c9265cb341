"""One file as nodes: pages of a PDF, an image, passages of a text. It knows no collection."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.candidates import PAGE, SOURCE, PageNode
from llama_index_rnx.collection import Stamp
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion.discovery import IMAGE_SUFFIXES, PDF_SUFFIX, SourceFile
from llama_index_rnx.pdf import READER, count_pages, read_pages
from llama_index_rnx.text import CUTTER, passages

MAX_TEXT_BYTES = 64 * 2**20


def nodes_of(source: SourceFile) -> Iterator[BaseNode]:
    """The nodes of one file: a PDF gives one a page, a picture one, a text one for each passage of
    about 180 words.

    Raises:
        RNXError: the file is gone, empty, broken, encrypted, or not UTF-8 and not Latin-1 text
            either.
    """
    suffix = source.path.suffix.lower()
    if suffix == PDF_SUFFIX:
        yield from _pages(source)
    elif suffix in IMAGE_SUFFIXES:
        yield ImageNode(
            id_=source.docid,
            image_path=str(source.path),
            metadata={SOURCE: source.docid},
            excluded_embed_metadata_keys=[SOURCE],
            excluded_llm_metadata_keys=[],
        )
    else:
        yield from _passages(source)


def file_of(node_id: str) -> str:
    """The docid of the file that a node came from: without its page, or which passage it is.

    Example:
        >>> file_of("manual.pdf#12"), file_of("notes.md@3"), file_of("notes.md")
        ('manual.pdf', 'notes.md', 'notes.md')
    """
    return re.sub(r"[#@]\d+$", "", node_id)


def stamp_of(source: SourceFile, nodes: int) -> Stamp:
    """The state of a file now."""
    found = source.path.stat()
    with source.path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return Stamp(
        path=str(source.path),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        sha256=sha,
        nodes=nodes,
        reader=reader_of(source),
    )


def reader_of(source: SourceFile) -> int:
    """The version of what reads files of this kind; 0 where it never changed what a file gives."""
    suffix = source.path.suffix.lower()
    if suffix == PDF_SUFFIX:
        return READER
    return 0 if suffix in IMAGE_SUFFIXES else CUTTER


def count_nodes(source: SourceFile) -> int:
    """How many nodes the file gives; opens it, so a bad one shows before anything is written."""
    if source.path.stat().st_size == 0:
        raise RNXError(f"{source.path}: is empty (0 bytes); remove or replace it.")
    suffix = source.path.suffix.lower()
    if suffix == PDF_SUFFIX:
        return count_pages(source.path)
    return 1 if suffix in IMAGE_SUFFIXES else sum(1 for _ in _passages(source))


def _pages(source: SourceFile) -> Iterator[BaseNode]:
    for number, page in enumerate(read_pages(source.path), start=1):
        yield PageNode(
            id_=f"{source.docid}#{number}",
            text=page.text,
            pdf_path=str(source.path),
            page=number,
            has_fields=page.has_fields,
            metadata={SOURCE: source.docid, PAGE: number},  # type: ignore[call-arg]
            excluded_embed_metadata_keys=[SOURCE, PAGE],
        )


def _passages(source: SourceFile) -> Iterator[BaseNode]:
    found = passages(read_text(source.path))
    if not found:
        raise RNXError(f"{source.path}: holds no text (white space only); remove or fill it.")
    for number, passage in enumerate(found, start=1):
        yield TextNode(
            id_=source.docid if number == 1 else f"{source.docid}@{number}",
            text=passage,
            metadata={SOURCE: source.docid},
            excluded_embed_metadata_keys=[SOURCE],
        )


def read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise RNXError(
            f"{path}: has {path.stat().st_size:,} bytes; text files of at most {MAX_TEXT_BYTES:,} are read."
        )
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(
            "cp1252", errors="replace"
        )  # what older editors wrote; every byte has a meaning there
    if text.count("\x00") > 0:
        raise RNXError(
            f"{path}: is not a text (it holds zero bytes); save it as UTF-8 or leave it out."
        )
    return text
