"""Folders -> nodes: PDFs page by page, pictures, texts. It knows files and what changed, not models and not Qdrant."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode, ImageNode, TextNode

from llama_index_rnx.candidates import PAGE, SOURCE, PageNode
from llama_index_rnx.collection import NodeCollection, Skipped, Stamp
from llama_index_rnx.console import Bar, progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion.sharding import Shard
from llama_index_rnx.pdf import READER, count_pages, read_pages
from llama_index_rnx.text import CUTTER, is_cut_by_words, passages

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown"})
PDF_SUFFIX = ".pdf"
KNOWN_SUFFIXES = IMAGE_SUFFIXES | TEXT_SUFFIXES | {PDF_SUFFIX}
MAX_TEXT_BYTES = 64 * 2**20
FILES_AT_ONCE = 4_096  # looked up in the index, stamped and written before the next: of the rest only names are held
Known = dict[str, list[dict[str, Any]]]  # by path, what the index holds of a file
STEP = 8  # nodes of one file written at a time where somebody watches: on one core about two seconds of pages


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to index. `docid` is its path relative to the folder that was named."""

    path: Path
    docid: str


@dataclass(kw_only=True)
class Survey:
    """What lies below the named paths: files of known kinds, how many others, links that were not followed."""

    files: list[SourceFile] = field(default_factory=list)
    ignored: int = 0
    outside: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A path below one that was named, and its name relative to that."""

    path: Path
    docid: str


Prepare = Callable[[Sequence[SourceFile], int], None]


@dataclass(kw_only=True)
class IndexReport:
    """What a run did: nodes written, files that had not changed, files and nodes left out (with the reason).

    outside: links that lead out of the named folders and were not followed. outside_kept: files that were
    indexed through such links before, and that stay in the index as they are.
    """

    written: int = 0
    files: int = 0
    unchanged: int = 0
    ignored: int = 0
    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    outside_kept: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def index_paths(
    collection: NodeCollection,
    paths: Sequence[Path],
    show_progress: bool | None = None,
    share: Shard | None = None,
    bar: Bar | None = None,
    prepare: Prepare | None = None,
    follow_links: bool = False,
) -> IndexReport:
    """Indexes files and folders; what is there already and did not change is left alone.

    A changed file replaces its nodes: first the new ones are written, then the old ones removed, so that a killed run never
    loses a file. A file that cannot be read is left out and listed; the others go on.

    Args:
        share: only this share of the files; others take the rest, at the same time and of the same paths.
        bar: is told the progress instead of a drawn one.
        prepare: is called with the files of each part that are new or changed and the number of their nodes, before they
            are written.
        follow_links: follow links that lead out of the named paths, too; those that stay inside always are.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    found, part_of = survey(paths, follow_links), share or Shard()
    named_apart = zip(found.files, _named_apart(found.files), strict=True)
    own = [named for source, named in named_apart if part_of.takes(source.docid)]
    report = IndexReport(files=len(own), ignored=found.ignored, outside=found.outside)
    with progress_bar("indexing", 0, "nodes", show_progress if bar is None else False) as drawn:
        for start in range(0, len(own), FILES_AT_ONCE):
            _index_part(collection, own[start : start + FILES_AT_ONCE], report, bar or drawn, prepare)
    if part_of == Shard():
        look_back(collection, paths, report)
    return report


def look_back(collection: NodeCollection, paths: Sequence[Path], report: IndexReport) -> None:
    """Notes the indexed files that this run could not see: those that are gone, those behind links that it did not follow.

    Their nodes are kept until somebody says otherwise.
    """
    roots, beyond = [_real(path) for path in paths], [_real(Path(link)) for link in report.outside]
    for path in sorted(collection.paths()):
        if _is_inside(Path(path), roots):
            if not os.path.exists(path):
                report.missing.append(path)
        elif _is_inside(Path(path), beyond):
            report.outside_kept.append(path)


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


def discover(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[SourceFile], int]:
    """The files of known kinds below the paths, in a fixed order, and how many others there were; hidden ones are passed by."""
    found = survey(paths, follow_links)
    return found.files, found.ignored


def survey(paths: Sequence[Path], follow_links: bool = False) -> Survey:
    """Looks through the named paths: each real folder once, each real file once, by its plain name where it has one.

    A link is followed if it leads to something below the named paths, or always with `follow_links`.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    for path in paths:
        if not os.path.exists(path):
            raise RNXError(f"{path} does not exist; give files or folders with {_kinds()}.")

    found, roots = Survey(), [_real(path) for path in paths]
    files, walked, links = dict[Path, SourceFile](), set[Path](), deque[_Entry]()
    for path in paths:
        named = _Entry(path=path, docid="" if os.path.isdir(path) else path.name)
        links.extend(_take_in(named, files, walked, found))
    while links:
        link = links.popleft()
        if not follow_links and _leads_out(link.path, roots):
            found.outside.append(str(link.path))
        else:
            links.extend(_take_in(link, files, walked, found))

    found.files = list(files.values())
    if not found.files:
        raise _nothing(paths, found)
    return found


def nodes_of(source: SourceFile) -> Iterator[BaseNode]:
    """The nodes of one file: a PDF gives one a page, a picture one, a text one for each passage of about 180 words.

    Raises:
        RNXError: the file is gone, empty, broken, encrypted, or not UTF-8 and not Latin-1 text either.
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
    failed = {file_of(skipped.id) for skipped in report.skipped}
    for source, stamp in work:
        before = known.get(str(source.path), [])
        is_changed = any(one["file_sha"] != stamp.sha256 for one in before)
        gave_more = len(before) > stamp.nodes  # the same content, which was cut otherwise
        if (is_changed or gave_more) and source.docid not in failed:
            collection.remove_file(str(source.path), except_stamp=stamp)


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
    found = source.path.stat()
    if [found.st_size, found.st_mtime_ns] != nodes[0]["file_stat"]:
        return False
    return all(_reads_alike(source, reader) for reader in {one.get("file_reader", 0) for one in nodes})


def _reads_alike(source: SourceFile, reader: int) -> bool:
    """Whether that version of what reads the file gave what it gives now."""
    if reader == reader_of(source):
        return True
    is_text = source.path.suffix.lower() not in IMAGE_SUFFIXES | {PDF_SUFFIX}
    return is_text and reader == 0 and is_cut_by_words(_read_text(source.path))


def _count(source: SourceFile) -> int:
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
    found = passages(_read_text(source.path))
    if not found:
        raise RNXError(f"{source.path}: holds no text (white space only); remove or fill it.")
    for number, passage in enumerate(found, start=1):
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


def _take_in(entry: _Entry, files: dict[Path, SourceFile], walked: set[Path], found: Survey) -> list[_Entry]:
    """Takes in a file, or all plain files below a folder; the links in it are for later, when all plain names are known."""
    plain, links = _walk(entry, walked) if os.path.isdir(entry.path) else ([entry], [])
    found.ignored += sum(not _add(files, one) for one in plain)
    return links


def _walk(start: _Entry, walked: set[Path]) -> tuple[list[_Entry], list[_Entry]]:
    """The files and folders below a folder that are no links, and the links; what was walked through before is left out."""
    plain, links = list[_Entry](), list[_Entry]()
    for folder, folders, names in os.walk(start.path):
        real = _real(Path(folder))
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        below = Path(start.docid) / Path(folder).relative_to(start.path)
        shown = [name for name in sorted(names) + sorted(folders) if not name.startswith(".")]
        linked = {name for name in shown if _is_link(Path(folder) / name)}
        folders[:] = sorted(name for name in folders if name in shown and name not in linked)
        for name in shown:
            entry = _Entry(path=Path(folder) / name, docid=(below / name).as_posix())
            if name in linked:
                links.append(entry)
            elif name not in folders:
                plain.append(entry)
    return plain, links


def _add(files: dict[Path, SourceFile], entry: _Entry) -> bool:
    """Takes a file in, unless it is there by another name; whether it is one of a known kind.

    A device, a pipe or a socket is none: to read it might never end. A link to nothing is taken in, so
    that it is listed with the reason.
    """
    real = _real(entry.path)
    if real.suffix.lower() in KNOWN_SUFFIXES:
        path = real
    elif entry.path.suffix.lower() in KNOWN_SUFFIXES:  # a store of contents knows no suffixes, its links have them
        path = _real(entry.path.parent) / entry.path.name
    else:
        return False
    if not os.path.isfile(real) and os.path.exists(real):
        return False
    files.setdefault(real, SourceFile(path=path, docid=entry.docid))
    return True


def _leads_out(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a link leads to a folder, or a file of a known kind, that is not below the named paths."""
    real = _real(path)
    if _is_inside(real, roots):
        return False
    readable = {path.suffix.lower(), real.suffix.lower()} & KNOWN_SUFFIXES
    return os.path.isdir(real) or (bool(readable) and os.path.isfile(real))


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _is_link(path: Path) -> bool:
    """Also a junction of Windows, which Python knows from 3.12 on."""
    return os.path.islink(path) or (hasattr(path, "is_junction") and path.is_junction())


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))  # Path.resolve() raises where a link names itself
    except OSError:  # a link that may not be read, as some of /proc
        return Path(os.path.abspath(path))


def _nothing(paths: Sequence[Path], found: Survey) -> RNXError:
    names = ", ".join(str(path) for path in paths)
    links = f", {len(found.outside)} links that lead out: --follow-links follows them" if found.outside else ""
    return RNXError(f"no file to index in {names} ({found.ignored} of other kinds{links}); known are {_kinds()}.")


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
    return " ".join(sorted(KNOWN_SUFFIXES))
