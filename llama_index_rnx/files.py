"""Folders -> nodes: PDFs page by page, pictures, texts. It knows files and what changed, not models and not Qdrant."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.candidates import PageNode
from llama_index_rnx.collection import SOURCE, NodeCollection, Skipped, Stamp
from llama_index_rnx.errors import RNXError
from llama_index_rnx.hits import PAGE
from llama_index_rnx.pdf import READER, count_pages, read_pages
from llama_index_rnx.progress import Bar, progress_bar
from llama_index_rnx.shares import Share

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEXTS = frozenset({".txt", ".md", ".markdown"})
PDF = ".pdf"
ALLOWED = PICTURES | TEXTS | {PDF}
CHUNK_WORDS, OVERLAP_WORDS = 180, 20  # of a text file: about one chunk of the text tower (254 word pieces)
MAX_TEXT_BYTES = 64 * 2**20
FILES_AT_ONCE = 4_096  # looked up in the index, stamped and written before the next: of the rest only names are held
Known = dict[str, list[dict[str, Any]]]  # by path, what the index holds of a file
STEP = 8  # nodes of one file written at a time where somebody watches: on one core about two seconds of pages


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to index. `docid` is its path relative to the folder that was named."""

    path: Path
    docid: str


Prepare = Callable[[Sequence[SourceFile], int], None]


@dataclass(kw_only=True)
class IndexReport:
    """What a run did: nodes written, files that had not changed, files and nodes left out (with the reason)."""

    written: int = 0
    files: int = 0
    unchanged: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def index_paths(
    collection: NodeCollection,
    paths: Sequence[Path],
    show_progress: bool | None = None,
    share: Share | None = None,
    bar: Bar | None = None,
    prepare: Prepare | None = None,
) -> IndexReport:
    """Indexes files and folders; what is there already and did not change is left alone.

    A changed file replaces its nodes: first the new ones are written, then the old ones removed, so that a killed run never
    loses a file. A file that cannot be read is left out and listed; the others go on.

    Args:
        share: only this share of the files; others take the rest, at the same time and of the same paths.
        bar: is told the progress instead of a drawn one.
        prepare: is called with the files of each part that are new or changed and the number of their nodes, before they
            are written.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    files, ignored = discover(paths)
    part_of = share or Share()
    own = [named for found, named in zip(files, _named_apart(files), strict=True) if part_of.takes(found.docid)]
    report = IndexReport(files=len(own), ignored=ignored)
    with progress_bar("indexing", 0, "nodes", show_progress if bar is None else False) as drawn:
        for start in range(0, len(own), FILES_AT_ONCE):
            _index_part(collection, own[start : start + FILES_AT_ONCE], report, bar or drawn, prepare)
    if part_of == Share():
        report.missing = vanished(collection, paths)
    return report


def vanished(collection: NodeCollection, paths: Sequence[Path]) -> list[str]:
    """Indexed files below the named paths that are no longer there; their nodes are kept until somebody says otherwise."""
    roots = [path.resolve() for path in paths]
    gone = (Path(path) for path in collection.paths() if not Path(path).exists())
    return sorted(str(path) for path in gone if any(path.is_relative_to(root) for root in roots))


def index_file(collection: NodeCollection, source: SourceFile, advance: Callable[[int, int], None]) -> IndexReport:
    """Indexes one file in small steps; `advance(done, total)` is told its nodes, before the first step and after each.

    What `advance` raises stops the work between two steps: what was written is whole, and another call goes on from there.

    Raises:
        RNXError: the file cannot be read.
    """
    stamp, report, done = stamp_of(source, _count(source)), IndexReport(files=1), 0
    advance(done, stamp.nodes)
    stream = ((node, stamp) for node in nodes_of(source))
    while part := list(islice(stream, STEP)):
        report.written += collection.write(part, lambda _: None)
        report.skipped.extend(collection.skipped)
        done += len(part)
        advance(done, stamp.nodes)
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
    return READER if source.path.suffix.lower() == PDF else 0


def _index_part(
    collection: NodeCollection,
    part: Sequence[SourceFile],
    report: IndexReport,
    bar: Bar,
    prepare: Prepare | None,
) -> None:
    known = collection.files([str(source.path) for source in part], [source.docid for source in part])
    work = list(_changed(_named_as_known(collection, part, known), known, report))
    nodes = sum(stamp.nodes for _, stamp in work)
    bar.expect(nodes)
    if prepare is not None:
        prepare([source for source, _ in work], nodes)
    report.written += collection.write(_stream(work, report), bar)
    report.skipped.extend(collection.skipped)
    _remove_old_versions(collection, work, known, report)


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
    known: Known,
    report: IndexReport,
) -> None:
    """What a changed file gave before goes once all that it gives now is there; if a part failed, it stays."""
    failed = {re.split(r"[#@](?=\d+$)", skipped.id)[0] for skipped in report.skipped}
    for source, stamp in work:
        versions = {one["file_sha"] for one in known.get(str(source.path), [])}
        if versions - {stamp.sha256} and source.docid not in failed:
            collection.remove_file(str(source.path), except_sha=stamp.sha256)


def _changed(files: Sequence[SourceFile], known: Known, report: IndexReport) -> Iterator[tuple[SourceFile, Stamp]]:
    """The files that are new, changed, or not completely there. Bad ones are listed and passed by."""
    for source in files:
        try:
            if is_complete(source, known.get(str(source.path), [])):
                report.unchanged += 1
                continue
            yield source, stamp_of(source, _count(source))
        except (RNXError, OSError) as error:
            report.skipped.append(Skipped(id=source.docid, reason=_reason(source, error)))


def is_complete(source: SourceFile, nodes: Sequence[dict[str, Any]]) -> bool:
    """All nodes of the file as it is now are in the index, and were read as they are read now.

    `nodes`: those of `NodeCollection.files` for its path.
    """
    shas = {one["file_sha"] for one in nodes}
    if len(shas) != 1 or len(nodes) < nodes[0]["file_nodes"]:
        return False
    if any(one.get("file_reader", 0) != reader_of(source) for one in nodes):
        return False
    found = source.path.stat()
    return bool([found.st_size, found.st_mtime_ns] == nodes[0]["file_stat"])


def _count(source: SourceFile) -> int:
    """How many nodes the file gives; opens it, so a bad one shows before anything is written."""
    if source.path.stat().st_size == 0:
        raise RNXError(f"{source.path}: is empty (0 bytes); remove or replace it.")
    suffix = source.path.suffix.lower()
    if suffix == PDF:
        return count_pages(source.path)
    return 1 if suffix in PICTURES else sum(1 for _ in _passages(source))


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


def _named_apart(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Two folders may hold the same relative path: the second file gets its folder's name in front, the third more.

    Every worker of a run does this for all files, not for its share, so that they agree.
    """
    taken: set[str] = set()
    named = []
    for source in files:
        docid = next(name for name in _names(source) if name not in taken)
        taken.add(docid)
        named.append(replace(source, docid=docid))
    return named


def _named_as_known(collection: NodeCollection, part: Sequence[SourceFile], known: Known) -> list[SourceFile]:
    """A file keeps the name that it has in the index, and takes none that another file has there."""
    own, owners = _names_in(known)
    clashing = [source for source in part if str(source.path) not in own and source.docid in owners]
    if clashing:
        wanted = [name for source in clashing for name in _names(source)]
        owners |= _names_in(collection.files([], wanted))[1]
    free = {source.path: next(name for name in _names(source) if name not in owners) for source in clashing}
    return [replace(source, docid=own.get(str(source.path)) or free.get(source.path, source.docid)) for source in part]


def _names_in(known: Known) -> tuple[dict[str, str], dict[str, str]]:
    """path -> name, name -> path"""
    own = {path: str(nodes[0]["metadata"][SOURCE]) for path, nodes in known.items()}
    return own, {docid: path for path, docid in own.items()}


def _names(source: SourceFile) -> list[str]:
    """What a file may be called, the best first; the last is its own alone."""
    path = source.path.as_posix()
    root = Path(path.removesuffix(source.docid).rstrip("/")).name
    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return [source.docid, f"{root}/{source.docid}", f"{root}-{mark}/{source.docid}"]


def _reason(source: SourceFile, error: Exception) -> str:
    return f"{source.path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


def _kinds() -> str:
    return " ".join(sorted(ALLOWED))
