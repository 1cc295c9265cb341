"""The docids of files: distinct, and the same in every run. It opens no files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_rnx.candidates import SOURCE
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.ingestion.discovery import SourceFile

# By path, what the index holds of each node of a file: the answer of `NodeCollection.files`.
IndexedFiles = Mapping[str, Sequence[Mapping[str, Any]]]


def distinct_names(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files with distinct docids. Two folders may hold the same relative path: the
    second file gets its folder's name in front, the third one more.

    Every worker of a run does this for all files, not for its share, so that they agree.
    """
    taken: set[str] = set()
    renamed = []
    for source in files:
        docid = next(name for name in _possible_names(source) if name not in taken)
        taken.add(docid)
        renamed.append(_renamed(source, docid))
    return renamed


def names_as_indexed(
    collection: NodeCollection, files: Sequence[SourceFile], indexed: IndexedFiles
) -> list[SourceFile]:
    """Return the files with the docids that they have in the index. A new file takes no docid that
    another file has there.
    """
    names, owners = _names_in(indexed)
    clashing = [
        source for source in files if str(source.path) not in names and source.docid in owners
    ]
    if clashing:
        possible = [name for source in clashing for name in _possible_names(source)]
        owners |= _names_in(collection.files([], possible))[1]
    for source in clashing:
        free = next(name for name in _possible_names(source) if name not in owners)
        names[str(source.path)] = free
    return [_renamed(source, names.get(str(source.path), source.docid)) for source in files]


def _names_in(indexed: IndexedFiles) -> tuple[dict[str, str], dict[str, str]]:
    """Return the docid of each path, and the path of each docid."""
    names = {path: str(nodes[0]["metadata"][SOURCE]) for path, nodes in indexed.items()}
    return names, {docid: path for path, docid in names.items()}


def _renamed(source: SourceFile, docid: str) -> SourceFile:
    return source if docid == source.docid else replace(source, docid=docid)


def _possible_names(source: SourceFile) -> Iterator[str]:
    """Yield what a file may be called, the best first; no other file can have the last name."""
    yield source.docid

    path = source.path.as_posix()
    root = Path(path.removesuffix(source.docid).rstrip("/")).name
    yield f"{root}/{source.docid}"

    mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    yield f"{root}-{mark}/{source.docid}"
