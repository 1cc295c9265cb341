"""Folders become nodes in a collection: PDFs page by page, images, texts. It knows files and what
changed, not models and not Qdrant.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from llama_index_rnx.collection import NodeCollection, Skipped
from llama_index_rnx.console import Bar, progress_bar
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion.discovery import (
    IMAGE_SUFFIXES,
    PDF_SUFFIX,
    SourceFile,
    Survey,
    is_inside,
    real_path,
    survey,
)
from llama_index_rnx.ingestion.naming import IndexedFiles, distinct_names, names_as_indexed
from llama_index_rnx.ingestion.readers import (
    FileContents,
    file_of,
    read_file,
    read_text,
    reader_of,
)
from llama_index_rnx.ingestion.sharding import Shard
from llama_index_rnx.text import is_cut_by_words

# Files that are looked up in the index together: of the others only names are held.
FILES_AT_ONCE = 4_096
# Nodes that are read before any of them is written, so that the bar knows how many there are. A
# page takes about 8 KB; one larger file is read as a whole.
NODES_AT_ONCE = 4_096
# Their letters likewise: a PDF of 14 KB may hold a page of a million.
CHARACTERS_AT_ONCE = 2**25
# Nodes of one file written at a time where somebody watches: on one core about two seconds of
# pages.
STEP = 8

Prepare = Callable[[Sequence[SourceFile], int], None]


@dataclass(kw_only=True)
class IndexReport:
    """The result of a run.

    Attributes:
        written: how many nodes were written.
        files: how many files this run looked at.
        unchanged: how many of them had not changed.
        ignored: how many files of other kinds there are.
        missing: indexed files that are gone; their nodes are kept.
        outside: links that lead out of the named folders and were not followed.
        outside_kept: files that were indexed through such links before, and that stay in the index
            as they are.
        skipped: files and nodes that were left out, with the reason.
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
    surveyed: Survey | None = None,
) -> IndexReport:
    """Index files and folders; files that the index holds and that did not change are left alone.

    A changed file replaces its nodes: first the new ones are written, then the old ones removed, so
    that a killed run never loses a file. A file that cannot be read is left out and listed; the
    others go on.

    Args:
        share: only this share of the files; others take the rest, at the same time and of the same
            paths.
        bar: gets the progress instead of a drawn one.
        prepare: called with the files that are new or changed and the number of their nodes, before
            they are written; several times in a large corpus.
        follow_links: follow links that lead out of the named paths, too; those that stay inside
            always are.
        surveyed: what lies below the paths, from somebody who has walked through them.

    Raises:
        SettingsError: a path does not exist, or there is no file of a known kind in any of them.
        StorageError, ConnectionFailedError: as `NodeCollection.add`.
    """
    surveyed = surveyed or survey(paths, follow_links)
    share = share or Shard()
    renamed = distinct_names(surveyed.files)
    pairs = zip(surveyed.files, renamed, strict=True)
    files = [file for source, file in pairs if share.contains(source.docid)]
    report = IndexReport(files=len(files), ignored=surveyed.ignored, outside=surveyed.outside)

    with progress_bar("indexing", 0, "nodes", show_progress if bar is None else False) as drawn:
        for start in range(0, len(files), FILES_AT_ONCE):
            group = files[start : start + FILES_AT_ONCE]
            _index_group(collection, group, report, bar or drawn, prepare)
    if share == Shard():
        look_back(collection, paths, report)
    return report


def look_back(collection: NodeCollection, paths: Sequence[Path], report: IndexReport) -> None:
    """Note the indexed files that this run could not see: files that are gone, and files behind
    links that it did not follow. Their nodes are kept.
    """
    roots = [real_path(path) for path in paths]
    outside = [real_path(Path(link)) for link in report.outside]
    for path in sorted(collection.paths()):
        if is_inside(path, roots):
            if not os.path.exists(path):
                report.missing.append(path)
        elif is_inside(path, outside):
            report.outside_kept.append(path)


def index_file(
    collection: NodeCollection, source: SourceFile, advance: Callable[[int, int], None]
) -> IndexReport:
    """Index one file in small steps.

    Args:
        advance: called with the nodes that are done and their total: with (0, 0) before the file
            is read, then before the first step and after each. An error that it raises stops the
            work between two steps: what was written is whole, and another call goes on from there.

    Raises:
        RNXError, OSError: the file cannot be read.
    """
    advance(0, 0)
    contents = read_file(source)
    report = IndexReport(files=1)
    total = len(contents.nodes)
    done = 0
    advance(done, total)

    stream = ((node, contents.stamp) for node in contents.nodes)
    while step := list(islice(stream, STEP)):
        written = collection.write(step, lambda _: None)
        report.written += written.written
        report.skipped.extend(written.skipped)
        done += len(step)
        advance(done, total)
    return report


def is_complete(source: SourceFile, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all nodes of the file as it is now are in the index, and were read as they are
    read now.

    Args:
        nodes: what `NodeCollection.files` gives for the path of the file.

    Raises:
        OSError: the file is gone, or may not be read.
    """
    shas = {node["file_sha"] for node in nodes}
    if len(shas) != 1 or len(nodes) < nodes[0]["file_nodes"]:
        return False

    status = source.path.stat()
    if [status.st_size, status.st_mtime_ns] != nodes[0]["file_stat"]:
        return False

    readers = {node.get("file_reader", 0) for node in nodes}
    return all(_reads_alike(source, reader) for reader in readers)


def _index_group(
    collection: NodeCollection,
    files: Sequence[SourceFile],
    report: IndexReport,
    bar: Bar,
    prepare: Prepare | None,
) -> None:
    paths = [str(source.path) for source in files]
    indexed = collection.files(paths, [source.docid for source in files])
    renamed = names_as_indexed(collection, files, indexed)

    for batch in _batches_by_size(_read_changed(renamed, indexed, report)):
        stamped = [(node, contents.stamp) for contents in batch for node in contents.nodes]
        bar.add_total(len(stamped))
        if prepare is not None:
            prepare([contents.source for contents in batch], len(stamped))

        written = collection.write(stamped, bar)
        report.written += written.written
        report.skipped.extend(written.skipped)
        _remove_old_versions(collection, batch, indexed, report)


def _batches_by_size(contents: Iterable[FileContents]) -> Iterator[list[FileContents]]:
    """Yield the files in batches of `NODES_AT_ONCE` nodes or `CHARACTERS_AT_ONCE` letters, or a
    file more. The last one is smaller and may be empty: there is always one, so that an index is
    made, or refused, without new nodes.
    """
    batch: list[FileContents] = []
    nodes = 0
    characters = 0
    for file in contents:
        batch.append(file)
        nodes += len(file.nodes)
        characters += file.characters
        if nodes >= NODES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch = []
            nodes = 0
            characters = 0
    yield batch


def _read_changed(
    files: Sequence[SourceFile], indexed: IndexedFiles, report: IndexReport
) -> Iterator[FileContents]:
    """Read the files that are new, changed, or not completely in the index. A bad one is noted in
    the report, and the others go on.
    """
    for source in files:
        try:
            if is_complete(source, indexed.get(str(source.path), [])):
                report.unchanged += 1
                continue
            yield read_file(source)
        except (RNXError, OSError) as error:
            report.skipped.append(Skipped(id=source.docid, reason=_reason(source, error)))


def _remove_old_versions(
    collection: NodeCollection,
    batch: Sequence[FileContents],
    indexed: IndexedFiles,
    report: IndexReport,
) -> None:
    """Remove the nodes that a changed file gave before, once all nodes that it gives now are there.
    If one of them failed, the old nodes stay.
    """
    failed = {file_of(skipped.id) for skipped in report.skipped}
    for contents in batch:
        source = contents.source
        old_nodes = indexed.get(str(source.path), [])
        is_changed = any(node["file_sha"] != contents.stamp.sha256 for node in old_nodes)
        # The same content may have been cut otherwise.
        gave_more = len(old_nodes) > contents.stamp.nodes
        if (is_changed or gave_more) and source.docid not in failed:
            collection.remove_file(str(source.path), except_stamp=contents.stamp)


def _reads_alike(source: SourceFile, reader: int) -> bool:
    """Return whether that version of the reader gave what this one gives."""
    if reader == reader_of(source):
        return True
    is_text = source.path.suffix.lower() not in IMAGE_SUFFIXES | {PDF_SUFFIX}
    return is_text and reader == 0 and is_cut_by_words(read_text(source.path))


def _reason(source: SourceFile, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{source.path}: {error.strerror}"
    return str(error)
