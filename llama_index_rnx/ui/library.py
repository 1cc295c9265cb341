"""The files of an index that grows while it is asked: uploads, then indexed one after the other.

It knows files and a thread, no HTTP. On disk a file is called by the hash of its content. It
appears there whole or not at all, and the next start takes up what was not indexed to the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from llama_index_rnx.candidates import SOURCE
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.errors import RNXError, SettingsError, one_line
from llama_index_rnx.ingestion import SourceFile, index_file, is_complete
from llama_index_rnx.system import make_folder, private_opener, write_text
from llama_index_rnx.text import clean
from llama_index_rnx.ui.limits import MAX_UPLOAD_BYTES
from llama_index_rnx.ui.uploaded_files import (
    checked_suffix,
    display_name,
    free_name,
    with_suffix,
)

MAX_WAITING = 32  # files on their way into the index
# Files that were indexed elsewhere and are listed here; a server may hold millions.
MAX_LISTED = 2_000
STALE_SECONDS = 3_600  # after which nobody finishes the file of an upload
CLOSE_SECONDS = 4.0  # to wait for the step at work
MAX_SKIPPED_SHOWN = 3  # nodes that were left out, in a note

NAME_SUFFIX = ".json"  # of the file that holds the name of an uploaded file
UNFINISHED_SUFFIX = ".part"  # of an upload that is not whole yet

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file and its progress.

    done, total: nodes (pages, mostly) that are in the index, and that the file has.
    note: what went wrong.
    """

    key: str
    name: str
    state: Literal["waiting", "indexing", "ready", "failed"]
    done: int = 0
    total: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as the page reads it."""
        return asdict(self)


class _StoppedError(Exception):
    """The library is closed; the file goes on at the next start."""


class Library:
    """The files of a collection. They are indexed in a thread, so that questions are answered
    meanwhile; another one makes the index fast to search whenever no file waits.

    Args:
        folder: where uploaded files are stored; the index reads them whenever a page is drawn.
        max_bytes: of one file.
    """

    def __init__(
        self, collection: NodeCollection, folder: Path, max_bytes: int = MAX_UPLOAD_BYTES
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.unlisted = 0
        self._collection = collection
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._grown = threading.Event()

        make_folder(folder)
        self._remove_stale_uploads()
        self._list_files()
        self._thread = threading.Thread(target=self._index_all, name="rnx indexing", daemon=True)
        self._thread.start()
        threading.Thread(target=self._optimize, name="rnx optimizing", daemon=True).start()

    def __len__(self) -> int:
        """Return the number of nodes that can be found now."""
        return len(self._collection)

    def entries(self) -> list[Entry]:
        """Return all files; uploads that are at work come last."""
        with self._lock:
            return list(self._entries.values())

    def receive(self, name: str) -> Upload:
        """Begin an upload.

        Raises:
            SettingsError: too many files wait already.
        """
        waiting = sum(entry.state in ("waiting", "indexing") for entry in self.entries())
        if waiting >= MAX_WAITING:
            raise SettingsError(
                f"{waiting} files wait already to be indexed; try again when some of them are done."
            )
        return Upload(self, display_name(name))

    def add(self, path: Path, sha: str, name: str) -> tuple[Entry, bool]:
        """Take a whole file in; return its entry, and whether the same content is there already,
        under whatever name.

        Raises:
            SettingsError: see `checked_suffix`.
        """
        suffix = checked_suffix(path, name)
        with self._lock:
            entry = self._entries.get(sha)
            if entry is not None and entry.state != "failed":
                path.unlink()
                return entry, True

            # A file that failed before keeps the name that it had.
            if entry is not None:
                file_name = entry.name
            else:
                file_name = free_name(with_suffix(name, suffix), self._is_taken)
            write_text(self.folder / f"{sha}{NAME_SUFFIX}", json.dumps({"name": file_name}))
            path.replace(self.folder / f"{sha}{suffix}")
            entry = Entry(key=sha, name=file_name, state="waiting")
            self._entries[sha] = entry
        self._work.put(sha)
        return entry, False

    def close(self) -> None:
        """Stop after the step at work, but wait for `CLOSE_SECONDS` at most: a page may never end.

        What was written is whole either way, and the file goes on at the next start.
        """
        self._closed.set()
        self._work.put("")
        self._grown.set()
        self._thread.join(timeout=CLOSE_SECONDS)

    def _remove_stale_uploads(self) -> None:
        for path in self.folder.glob(f"*{UNFINISHED_SUFFIX}"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)

    def _list_files(self) -> None:
        """List the files of the index, and those that an earlier process did not index."""
        sources = list(self._uploaded_files())
        paths = sorted(self._collection.paths())
        self.unlisted = max(0, len(paths) - MAX_LISTED)
        nodes_by_path = self._collection.files(
            {*paths[:MAX_LISTED], *(str(source.path) for source in sources)}
        )

        indexed = map(_name_hash_and_count, nodes_by_path.values())
        for name, sha, count in sorted(indexed, reverse=True):
            self._entries[sha] = Entry(key=sha, name=name, state="ready", done=count, total=count)
        for source in sources:
            sha = source.path.stem
            if self._needs_indexing(source, nodes_by_path):
                self._entries[sha] = Entry(key=sha, name=source.docid, state="waiting")
                self._work.put(sha)

    def _needs_indexing(
        self, source: SourceFile, nodes_by_path: Mapping[str, Sequence[dict[str, Any]]]
    ) -> bool:
        """Whether an uploaded file is not indexed to the end. The same content under another path
        of the index is enough.
        """
        path = str(source.path)
        if is_complete(source, nodes_by_path.get(path, [])):
            return False
        return path in nodes_by_path or source.path.stem not in self._entries

    def _is_taken(self, name: str) -> bool:
        if any(entry.name == name for entry in self._entries.values()):
            return True
        return bool(self._collection.files((), [name]))

    def _uploaded_files(self) -> Iterator[SourceFile]:
        """Yield the uploaded files, the oldest first."""
        name_files = self.folder.glob(f"*{NAME_SUFFIX}")
        for name_file in sorted(name_files, key=lambda path: path.stat().st_mtime):
            name = json.loads(name_file.read_text(encoding="utf-8"))["name"]
            for path in self._paths_of(name_file.stem):
                yield SourceFile(path=path.resolve(), docid=name)

    def _paths_of(self, sha: str) -> list[Path]:
        """Return the path of the uploaded file with this hash, if there is one."""
        paths = self.folder.glob(f"{sha}.*")
        return [path for path in paths if path.suffix not in (NAME_SUFFIX, UNFINISHED_SUFFIX)]

    def _index_all(self) -> None:
        while not self._closed.is_set():
            sha = self._work.get()
            try:
                if sha and not self._closed.is_set():
                    self._index(sha)
                if self._work.empty():
                    self._grown.set()
            except _StoppedError:
                return
            except Exception as error:
                # Nobody waited for the end of a page, and the collection is closed.
                if self._closed.is_set():
                    return

                # One file fails; the next ones are indexed all the same.
                if not isinstance(error, (RNXError, OSError)):
                    log.exception("indexing failed")
                self._change(sha, state="failed", note=self._error_line(sha, error))

    def _optimize(self) -> None:
        while self._grown.wait() and not self._closed.is_set():
            self._grown.clear()
            try:
                self._collection.optimize()
            except RNXError as error:
                # The collection is closed after the library.
                if not self._closed.is_set():
                    log.warning("%s", error)

    def _index(self, sha: str) -> None:
        path = self._paths_of(sha)[0].resolve()

        def advance(done: int, total: int) -> None:
            if self._closed.is_set():
                raise _StoppedError
            self._change(sha, state="indexing", done=done, total=total)

        source = SourceFile(path=path, docid=self._entries[sha].name)
        report = index_file(self._collection, source, advance)

        skipped = [node.id for node in report.skipped]
        all_skipped = len(skipped) == self._entries[sha].total
        self._change(sha, state="failed" if all_skipped else "ready", note=_skip_note(skipped))

    def _change(self, sha: str, **fields: Any) -> None:
        with self._lock:
            self._entries[sha] = replace(self._entries[sha], **fields)

    def _error_line(self, sha: str, error: Exception) -> str:
        """Return the error in one line, with the name that the user knows instead of the path."""
        line = one_line(error)
        for path in self.folder.resolve().glob(f"{sha}.*"):
            line = line.replace(str(path), self._entries[sha].name)
        return line


def _name_hash_and_count(nodes: Sequence[dict[str, Any]]) -> tuple[str, str, int]:
    """Return the name, the hash and the number of nodes of an indexed file."""
    node = nodes[0]
    name = node["metadata"].get(SOURCE, node["file"])
    return clean(str(name)), node["file_sha"], len(nodes)


def _skip_note(ids: Sequence[str]) -> str:
    if not ids:
        return ""
    more = " and more" if len(ids) > MAX_SKIPPED_SHOWN else ""
    return f"left out: {', '.join(ids[:MAX_SKIPPED_SHOWN])}{more}"


class Upload:
    """A file that is being received, made by `Library.receive`. In a `with` block call `write` for
    each piece, then `finish`; if the block ends before `finish`, nothing of the file remains.
    """

    def __init__(self, library: Library, name: str) -> None:
        self._library = library
        self._name = name
        self._size = 0
        self._sha = hashlib.sha256()
        self._path = library.folder / f"{uuid.uuid4().hex}{UNFINISHED_SUFFIX}"

    def __enter__(self) -> Self:
        self._stream = open(self._path, "xb", opener=private_opener)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append some bytes.

        Raises:
            SettingsError: the file has more than `Library.max_bytes` by now.
        """
        self._size += len(data)
        max_bytes = self._library.max_bytes
        if self._size > max_bytes:
            raise SettingsError(
                f"{self._name}: has more than {max_bytes >> 20} MiB; give a smaller file."
            )
        self._sha.update(data)
        self._stream.write(data)

    def finish(self) -> tuple[Entry, bool]:
        """Hand the whole file to the library; return its entry, and whether the same content was
        there already.

        Raises:
            SettingsError: see `checked_suffix`.
        """
        self._stream.close()
        return self._library.add(self._path, self._sha.hexdigest(), self._name)
