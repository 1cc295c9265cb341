"""Folders -> nodes: PDFs page by page, pictures, texts. It knows files and what changed, not models
and not Qdrant.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llama_index.core.schema import BaseNode

from llama_index_rnx.candidates import SOURCE
from llama_index_rnx.collection import NodeCollection, Skipped, Stamp
from llama_index_rnx.console import Bar, progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion.discovery import (
    IMAGE_SUFFIXES,
    PDF_SUFFIX,
    SourceFile,
    is_inside,
    real_path,
    survey,
)
from llama_index_rnx.ingestion.readers import (
    count_nodes,
    file_of,
    nodes_of,
    read_text,
    reader_of,
    stamp_of,
)
from llama_index_rnx.ingestion.sharding import Shard
from llama_index_rnx.text import is_cut_by_words

# Looked up in the index, stamped and written before the next: of the rest only names are held.
FILES_AT_ONCE = 4_096
Known = dict[str, list[dict[str, Any]]]  # by path, what the index holds of a file
# Nodes of one file written at a time where somebody watches: on one core about two seconds of
# pages.
STEP = 8


Prepare = Callable[[Sequence[SourceFile], int], None]


@dataclass(kw_only=True)
class IndexReport:
    """What a run did: nodes written, files that had not changed, files and nodes left out (with the
    reason).

    outside: links that lead out of the named folders and were not followed. outside_kept: files
    that were indexed through such links before, and that stay in the index as they are.
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

    A changed file replaces its nodes: first the new ones are written, then the old ones removed, so
    that a killed run never loses a file. A file that cannot be read is left out and listed; the
    others go on.

    Args:
        share: only this share of the files; others take the rest, at the same time and of the same
            paths.
        bar: is told the progress instead of a drawn one.
        prepare: is called with the files of each part that are new or changed and the number of
            their nodes, before they are written.
        follow_links: follow links that lead out of the named paths, too; those that stay inside
            always are.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    found, part_of = survey(paths, follow_links), share or Shard()
    named_apart = zip(found.files, _named_apart(found.files), strict=True)
    own = [named for source, named in named_apart if part_of.takes(source.docid)]
    report = IndexReport(files=len(own), ignored=found.ignored, outside=found.outside)
    with progress_bar("indexing", 0, "nodes", show_progress if bar is None else False) as drawn:
        for start in range(0, len(own), FILES_AT_ONCE):
            _index_part(
                collection, own[start : start + FILES_AT_ONCE], report, bar or drawn, prepare
            )
    if part_of == Shard():
        look_back(collection, paths, report)
    return report


def look_back(collection: NodeCollection, paths: Sequence[Path], report: IndexReport) -> None:
    """Notes the indexed files that this run could not see: those that are gone, those behind links
    that it did not follow.

    Their nodes are kept until somebody says otherwise.
    """
    roots, beyond = (
        [real_path(path) for path in paths],
        [real_path(Path(link)) for link in report.outside],
    )
    for path in sorted(collection.paths()):
        if is_inside(Path(path), roots):
            if not os.path.exists(path):
                report.missing.append(path)
        elif is_inside(Path(path), beyond):
            report.outside_kept.append(path)


def index_file(
    collection: NodeCollection, source: SourceFile, advance: Callable[[int, int], None]
) -> IndexReport:
    """Indexes one file in small steps; `advance(done, total)` is told its nodes, before the first
    step and after each.

    What `advance` raises stops the work between two steps: what was written is whole, and another
    call goes on from there.

    Raises:
        RNXError: the file cannot be read.
    """
    stamp, report, done = stamp_of(source, count_nodes(source)), IndexReport(files=1), 0
    advance(done, stamp.nodes)
    stream = ((node, stamp) for node in nodes_of(source))
    while part := list(islice(stream, STEP)):
        report.written += collection.write(part, lambda _: None)
        report.skipped.extend(collection.skipped)
        done += len(part)
        advance(done, stamp.nodes)
    return report


def _index_part(
    collection: NodeCollection,
    part: Sequence[SourceFile],
    report: IndexReport,
    bar: Bar,
    prepare: Prepare | None,
) -> None:
    known = collection.files(
        [str(source.path) for source in part], [source.docid for source in part]
    )
    work = list(_changed(_named_as_known(collection, part, known), known, report))
    nodes = sum(stamp.nodes for _, stamp in work)
    bar.add_total(nodes)
    if prepare is not None:
        prepare([source for source, _ in work], nodes)
    report.written += collection.write(_stream(work, report), bar)
    report.skipped.extend(collection.skipped)
    _remove_old_versions(collection, work, known, report)


def _stream(
    work: Sequence[tuple[SourceFile, Stamp]], report: IndexReport
) -> Iterator[tuple[BaseNode, Stamp]]:
    """The nodes of all files in one stream, so that batches are full even where every file is one
    picture.
    """
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
    """What a changed file gave before goes once all that it gives now is there; if a part failed,
    it stays.
    """
    failed = {file_of(skipped.id) for skipped in report.skipped}
    for source, stamp in work:
        before = known.get(str(source.path), [])
        is_changed = any(one["file_sha"] != stamp.sha256 for one in before)
        gave_more = len(before) > stamp.nodes  # the same content, which was cut otherwise
        if (is_changed or gave_more) and source.docid not in failed:
            collection.remove_file(str(source.path), except_stamp=stamp)


def _changed(
    files: Sequence[SourceFile], known: Known, report: IndexReport
) -> Iterator[tuple[SourceFile, Stamp]]:
    """The files that are new, changed, or not completely there. Bad ones are listed and passed by."""
    for source in files:
        try:
            if is_complete(source, known.get(str(source.path), [])):
                report.unchanged += 1
                continue
            yield source, stamp_of(source, count_nodes(source))
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
    return all(
        _reads_alike(source, reader) for reader in {one.get("file_reader", 0) for one in nodes}
    )


def _reads_alike(source: SourceFile, reader: int) -> bool:
    """Whether that version of what reads the file gave what it gives now."""
    if reader == reader_of(source):
        return True
    is_text = source.path.suffix.lower() not in IMAGE_SUFFIXES | {PDF_SUFFIX}
    return is_text and reader == 0 and is_cut_by_words(read_text(source.path))


def _named_apart(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Two folders may hold the same relative path: the second file gets its folder's name in front,
    the third more.

    Every worker of a run does this for all files, not for its share, so that they agree.
    """
    taken: set[str] = set()
    named = []
    for source in files:
        docid = next(name for name in _names(source) if name not in taken)
        taken.add(docid)
        named.append(replace(source, docid=docid))
    return named


def _named_as_known(
    collection: NodeCollection, part: Sequence[SourceFile], known: Known
) -> list[SourceFile]:
    """A file keeps the name that it has in the index, and takes none that another file has there."""
    own, owners = _names_in(known)
    clashing = [source for source in part if str(source.path) not in own and source.docid in owners]
    if clashing:
        wanted = [name for source in clashing for name in _names(source)]
        owners |= _names_in(collection.files([], wanted))[1]
    free = {
        source.path: next(name for name in _names(source) if name not in owners)
        for source in clashing
    }
    return [
        replace(source, docid=own.get(str(source.path)) or free.get(source.path, source.docid))
        for source in part
    ]


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
    return (
        f"{source.path}: {error.strerror}"
        if isinstance(error, OSError) and error.strerror
        else str(error)
    )
