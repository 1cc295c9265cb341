"""Folders -> nodes: PDFs page by page, pictures, texts. It knows files and what changed, not models and not Qdrant."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.candidates import PageNode, open_pdf, page_text
from llama_index_rnx.collection import NodeCollection, Skipped, Stamp
from llama_index_rnx.errors import RNXError
from llama_index_rnx.hits import PAGE, SOURCE
from llama_index_rnx.progress import progress_bar

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEXTS = frozenset({".txt", ".md", ".markdown"})
PDF = ".pdf"
ALLOWED = PICTURES | TEXTS | {PDF}
CHUNK_WORDS, OVERLAP_WORDS = 180, 20  # of a text file: about one chunk of the text tower (254 word pieces)
MAX_TEXT_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to index. `docid` is its path relative to the folder that was named."""

    path: Path
    docid: str


@dataclass(kw_only=True)
class IndexReport:
    """What a run did: nodes written, files that had not changed, files and nodes left out (with the reason)."""

    written: int = 0
    files: int = 0
    unchanged: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def index_paths(collection: NodeCollection, paths: Sequence[Path], show_progress: bool | None = None) -> IndexReport:
    """Indexes files and folders; what is there already and did not change is left alone.

    A changed file replaces its nodes: first the new ones are written, then the old ones removed, so that a killed run never
    loses a file. A file that cannot be read is left out and listed; the others go on.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    files, ignored = discover(paths)
    report = IndexReport(files=len(files), ignored=ignored)
    known = collection.files()
    files = _named_apart(files, known)
    report.missing = _vanished(known, paths)
    work = list(_changed(files, known, report))
    with progress_bar("indexing", sum(stamp.nodes for _, stamp in work), "nodes", show_progress) as advance:
        report.written = collection.write(_stream(work, report), advance)
    report.skipped.extend(collection.skipped)
    _remove_old_versions(collection, work, known, report)
    return report


def discover(paths: Sequence[Path]) -> tuple[list[SourceFile], int]:
    """The files of known kinds below the paths, in a fixed order, and how many others there were; hidden ones are passed by."""
    found: dict[Path, SourceFile] = {}
    ignored = 0
    for root in paths:
        if not root.exists():
            raise RNXError(f"{root} does not exist; give files or folders with {_kinds()}.")
        for path in _walk(root) if root.is_dir() else [root]:
            if path.suffix.lower() not in ALLOWED:
                ignored += 1
                continue
            absolute = Path(os.path.realpath(path))  # Path.resolve() raises where a link names itself
            docid = path.relative_to(root).as_posix() if root.is_dir() else path.name
            found.setdefault(absolute, SourceFile(path=absolute, docid=docid))
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise RNXError(f"no file to index in {names} ({ignored} of other kinds); known are {_kinds()}.")
    return list(found.values()), ignored


def nodes_of(source: SourceFile) -> Iterator[BaseNode]:
    """The nodes of one file: a PDF gives one a page, a picture one, a text one for each passage of about 180 words.

    Raises:
        RNXError: the file is gone, empty, broken, encrypted, or not UTF-8 and not Latin-1 text either.
    """
    suffix = source.path.suffix.lower()
    if suffix == PDF:
        yield from _pages(source)
    elif suffix in PICTURES:
        yield ImageNode(
            id_=source.docid,
            image_path=str(source.path),
            metadata={SOURCE: source.docid},
            excluded_embed_metadata_keys=[SOURCE],
            excluded_llm_metadata_keys=[],
        )
    else:
        yield from _passages(source)


def stamp_of(source: SourceFile, nodes: int) -> Stamp:
    """The state of a file now."""
    found = source.path.stat()
    with source.path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return Stamp(path=str(source.path), size=found.st_size, mtime_ns=found.st_mtime_ns, sha256=sha, nodes=nodes)


def _stream(work: Sequence[tuple[SourceFile, Stamp]], report: IndexReport) -> Iterator[tuple[BaseNode, Stamp]]:
    """The nodes of all files in one stream, so that batches are full even where every file is one picture."""
    for source, stamp in work:
        try:
            yield from ((node, stamp) for node in nodes_of(source))
        except (RNXError, OSError) as error:
            report.skipped.append(Skipped(id=source.docid, reason=_reason(source, error)))


def _remove_old_versions(
    collection: NodeCollection,
    work: Sequence[tuple[SourceFile, Stamp]],
    known: dict[str, list[dict[str, Any]]],
    report: IndexReport,
) -> None:
    """What a changed file gave before goes once all that it gives now is there; if a part failed, it stays."""
    failed = {re.split(r"[#@](?=\d+$)", skipped.id)[0] for skipped in report.skipped}
    for source, stamp in work:
        versions = {one["file_sha"] for one in known.get(str(source.path), [])}
        if versions - {stamp.sha256} and source.docid not in failed:
            collection.remove_file(str(source.path), except_sha=stamp.sha256)


def _changed(
    files: Sequence[SourceFile], known: dict[str, list[dict[str, Any]]], report: IndexReport
) -> Iterator[tuple[SourceFile, Stamp]]:
    """The files that are new, changed, or not completely there. Bad ones are listed and passed by."""
    for source in files:
        try:
            if _complete(source, known.get(str(source.path), [])):
                report.unchanged += 1
                continue
            yield source, stamp_of(source, _count(source))
        except (RNXError, OSError) as error:
            report.skipped.append(Skipped(id=source.docid, reason=_reason(source, error)))


def _complete(source: SourceFile, nodes: Sequence[dict[str, Any]]) -> bool:
    """All nodes of the file as it is now are in the index. The content is read only where size or time differ."""
    shas = {one["file_sha"] for one in nodes}
    if len(shas) != 1 or len(nodes) < nodes[0]["file_nodes"]:
        return False
    found = source.path.stat()
    return bool([found.st_size, found.st_mtime_ns] == nodes[0]["file_stat"])


def _count(source: SourceFile) -> int:
    """How many nodes the file gives; opens it, so a bad one shows before anything is written."""
    if source.path.stat().st_size == 0:
        raise RNXError(f"{source.path}: is empty (0 bytes); remove or replace it.")
    suffix = source.path.suffix.lower()
    if suffix == PDF:
        with open_pdf(source.path) as document:
            return len(document)
    return 1 if suffix in PICTURES else sum(1 for _ in _passages(source))


def _pages(source: SourceFile) -> Iterator[BaseNode]:
    with open_pdf(source.path) as document:  # read at once: PDFium serves one thread, and pages are drawn while we write
        texts = [page_text(document, index) for index in range(len(document))]
    for number, text in enumerate(texts, start=1):
        yield PageNode(
            id_=f"{source.docid}#{number}",
            text=text,
            pdf_path=str(source.path),
            page=number,
            metadata={SOURCE: source.docid, PAGE: number},  # type: ignore[call-arg]
            excluded_embed_metadata_keys=[SOURCE, PAGE],
        )


def _passages(source: SourceFile) -> Iterator[BaseNode]:
    splitter = SentenceSplitter(chunk_size=CHUNK_WORDS, chunk_overlap=OVERLAP_WORDS, tokenizer=str.split)
    passages = [passage for passage in splitter.split_text(_read_text(source.path)) if passage.strip()]
    if not passages:
        raise RNXError(f"{source.path}: holds no text (white space only); remove or fill it.")
    for number, passage in enumerate(passages, start=1):
        yield TextNode(
            id_=source.docid if number == 1 else f"{source.docid}@{number}",
            text=passage,
            metadata={SOURCE: source.docid},
            excluded_embed_metadata_keys=[SOURCE],
        )


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise RNXError(f"{path}: has {path.stat().st_size:,} bytes; text files of at most {MAX_TEXT_BYTES:,} are read.")
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")  # what older editors wrote; every byte has a meaning there
    if text.count("\x00") > 0:
        raise RNXError(f"{path}: is not a text (it holds zero bytes); save it as UTF-8 or leave it out.")
    return text


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _named_apart(files: Sequence[SourceFile], known: dict[str, list[dict[str, Any]]]) -> list[SourceFile]:
    """Two folders may hold the same relative path: the second file gets its folder's name in front, then a number."""
    taken = {nodes[0]["metadata"][SOURCE]: path for path, nodes in known.items()}
    own = {path: docid for docid, path in taken.items()}
    named = []
    for source in files:
        docid = own.get(str(source.path)) or _free_docid(source, taken)
        taken[docid] = str(source.path)
        named.append(SourceFile(path=source.path, docid=docid))
    return named


def _free_docid(source: SourceFile, taken: dict[str, str]) -> str:
    root = source.path.as_posix().removesuffix(source.docid).rstrip("/")
    names = [source.docid, f"{Path(root).name}/{source.docid}"]
    number = 2
    while names[-1] in taken and number < 10_000:
        names.append(f"{Path(root).name}-{number}/{source.docid}")
        number += 1
    return next(name for name in names if name not in taken)


def _vanished(known: dict[str, list[dict[str, Any]]], paths: Sequence[Path]) -> list[str]:
    """Indexed files below the named paths that are no longer there; their nodes are kept until somebody says otherwise."""
    roots = [path.resolve() for path in paths]
    gone = (Path(path) for path in known if not Path(path).exists())
    return sorted(str(path) for path in gone if any(path.is_relative_to(root) for root in roots))


def _reason(source: SourceFile, error: Exception) -> str:
    return f"{source.path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


def _kinds() -> str:
    return " ".join(sorted(ALLOWED))
