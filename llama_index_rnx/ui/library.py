"""The files of an index that grows while it is asked: uploads, judged by their content, then
indexed one after the other.

It knows files and a thread, no HTTP. A name is only shown: on disk a file is called by the hash of
its content. It appears there whole or not at all, and what was not indexed to the end is taken up
again by the next start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from llama_index_rnx.candidates import SOURCE, file_source
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion import SourceFile, index_file, is_complete
from llama_index_rnx.pdf import count_pages
from llama_index_rnx.system import make_folder, private_opener, write_text
from llama_index_rnx.text import clean

MAX_BYTES = 64 * 2**20
MAX_PAGES = 2_000  # of a PDF; half an hour of one core
MAX_WAITING = 32  # files on their way into the index
MAX_NAME = 120  # characters
LISTED = 2_000  # files that were indexed elsewhere and are listed; a server may hold millions
STALE = 3_600  # seconds after which the part of an upload belongs to nobody
HEAD = 1_024  # bytes; a PDF may begin a little later
CLOSE_SECONDS = 4.0  # to wait for the step at work
GLANCE = 64 * 64  # pixels that a picture is read at, to see whether it can be

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file and how far it is. `done` of `total` nodes (pages, mostly) are in the index; `note`
    says what went wrong.
    """

    key: str
    name: str
    state: Literal["waiting", "indexing", "ready", "failed"]
    done: int = 0
    total: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class _StoppedError(Exception):
    """The library is closed; the file goes on at the next start."""


class Library:
    """The files of a collection. Indexing runs in a thread of its own, so that questions are
    answered meanwhile.

    Args:
        folder: where uploaded files are kept; the index looks into them whenever a page is drawn.
        max_bytes: of one file.
    """

    def __init__(
        self, collection: NodeCollection, folder: Path, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._collection = collection
        self._entries: dict[str, Entry] = {}
        self.unlisted = 0
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._closed = threading.Event()
        make_folder(folder)
        self._find()
        self._thread = threading.Thread(target=self._index_all, name="rnx indexing", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Nodes that can be found now."""
        return len(self._collection)

    def entries(self) -> list[Entry]:
        """All files, uploads that are at work last."""
        with self._lock:
            return list(self._entries.values())

    def receive(self, name: str) -> Upload:
        """Begins an upload.

        Raises:
            RNXError: too many files wait already.
        """
        waiting = sum(entry.state in ("waiting", "indexing") for entry in self.entries())
        if waiting >= MAX_WAITING:
            raise RNXError(
                f"{waiting} files wait already to be indexed; try again when some of them are done."
            )
        return Upload(self, shown_name(name))

    def keep(self, part: Path, sha: str, name: str) -> tuple[Entry, bool]:
        """Takes a whole and readable file in; returns its entry and whether it was there already,
        under whatever name.
        """
        suffix = kind_of(part, name)
        with self._lock:
            known = self._entries.get(sha)
            if known is not None and known.state != "failed":
                part.unlink()
                return known, True
            named = known.name if known else free_name(_suffixed(name, suffix), self._is_taken)
            write_text(self.folder / f"{sha}.json", json.dumps({"name": named}))
            part.replace(self.folder / f"{sha}{suffix}")
            entry = self._entries[sha] = Entry(key=sha, name=named, state="waiting")
        self._work.put(sha)
        return entry, False

    def close(self) -> None:
        """Stops after the step at work, which is waited for `CLOSE_SECONDS` at most: a page may
        never end.

        What was written is whole then, too, and the file goes on at the next start.
        """
        self._closed.set()
        self._work.put("")
        self._thread.join(timeout=CLOSE_SECONDS)

    def _find(self) -> None:
        """What the index holds, and what an earlier process left to do."""
        for part in self.folder.glob("*.part"):
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink(missing_ok=True)
        sources, paths = list(self._sources()), sorted(self._collection.paths())
        self.unlisted = max(0, len(paths) - LISTED)
        known = self._collection.files({*paths[:LISTED], *(str(source.path) for source in sources)})
        for name, sha, count in sorted(map(_indexed, known.values()), reverse=True):
            self._entries[sha] = Entry(key=sha, name=name, state="ready", done=count, total=count)
        for source in sources:
            sha = source.path.stem
            if not is_complete(source, known.get(str(source.path), [])) and (
                sha not in self._entries or str(source.path) in known
            ):
                self._entries[sha] = Entry(key=sha, name=source.docid, state="waiting")
                self._work.put(sha)

    def _is_taken(self, name: str) -> bool:
        return any(entry.name == name for entry in self._entries.values()) or bool(
            self._collection.files((), [name])
        )

    def _sources(self) -> Iterator[SourceFile]:
        for named in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
            for path in self.folder.glob(f"{named.stem}.*"):
                if path.suffix not in (".json", ".part"):
                    yield SourceFile(
                        path=path.resolve(),
                        docid=json.loads(named.read_text(encoding="utf-8"))["name"],
                    )

    def _index_all(self) -> None:
        while not self._closed.is_set():
            sha = self._work.get()
            try:
                if sha and not self._closed.is_set():
                    self._index(sha)
            except _StoppedError:
                return
            except Exception as error:  # of one file; the next ones are indexed all the same
                if (
                    self._closed.is_set()
                ):  # nobody waited for the end of a page, and the index is closed
                    return
                if not isinstance(error, (RNXError, OSError)):
                    log.exception("indexing failed")
                self._change(sha, state="failed", note=self._said(sha, error))

    def _index(self, sha: str) -> None:
        path = next(
            path for path in self.folder.glob(f"{sha}.*") if path.suffix not in (".json", ".part")
        ).resolve()

        def advance(done: int, total: int) -> None:
            if self._closed.is_set():
                raise _StoppedError
            self._change(sha, state="indexing", done=done, total=total)

        report = index_file(
            self._collection, SourceFile(path=path, docid=self._entries[sha].name), advance
        )
        left_out = [skipped.id for skipped in report.skipped]
        total = self._entries[sha].total
        note = (
            f"left out: {', '.join(left_out[:3])}{' and more' if len(left_out) > 3 else ''}"
            if left_out
            else ""
        )
        self._change(sha, state="failed" if len(left_out) == total else "ready", note=note)

    def _change(self, sha: str, **fields: Any) -> None:
        with self._lock:
            self._entries[sha] = replace(self._entries[sha], **fields)

    def _said(self, sha: str, error: Exception) -> str:
        """The error in one line, with the name that the user knows."""
        line = " ".join(str(error).split())[:300] or type(error).__name__
        for path in self.folder.resolve().glob(f"{sha}.*"):
            line = line.replace(str(path), self._entries[sha].name)
        return line


def _indexed(nodes: Sequence[dict[str, Any]]) -> tuple[str, str, int]:
    """Name, hash and number of nodes of an indexed file."""
    return (
        clean(str(nodes[0]["metadata"].get(SOURCE, nodes[0]["file"]))),
        nodes[0]["file_sha"],
        len(nodes),
    )


class Upload:
    """A file on its way in. Whatever ends the block before `finish`, nothing of the file stays.

    Example:
        >>> with library.receive("report.pdf") as upload:  # doctest: +SKIP
        ...     upload.write(b"%PDF-1.7 ...")
        ...     entry, again = upload.finish()
    """

    def __init__(self, library: Library, name: str) -> None:
        self._library, self._name, self._size = library, name, 0
        self._sha = hashlib.sha256()
        self._path = library.folder / f"{uuid.uuid4().hex}.part"

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
        """Some bytes more.

        Raises:
            RNXError: there are too many by now.
        """
        self._size += len(data)
        if self._size > self._library.max_bytes:
            raise RNXError(
                f"{self._name}: has more than {self._library.max_bytes >> 20} MiB; give a smaller file."
            )
        self._sha.update(data)
        self._stream.write(data)

    def finish(self) -> tuple[Entry, bool]:
        """The file is whole: its entry, and whether the same content was there already.

        Raises:
            RNXError: it is empty, broken, too large, or neither a PDF nor a picture.
        """
        self._stream.close()
        return self._library.keep(self._path, self._sha.hexdigest(), self._name)


def shown_name(given: str) -> str:
    """A name that is only shown: no folders, nothing invisible, not too long.

    Example:
        >>> shown_name("../../etc/pass\\x00wd.pdf"), shown_name("C:\\\\docs\\\\a.pdf"), shown_name("..")
        ('pass wd.pdf', 'a.pdf', 'upload')
    """
    name = clean(given.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return name[-MAX_NAME:] or "upload"


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or with a number where another file has it.

    Example:
        >>> free_name("a.pdf", {"a.pdf", "a (2).pdf"}.__contains__)
        'a (3).pdf'
    """
    stem, dot, suffix = name.rpartition(".")
    number = 1
    while is_taken(found := name if number == 1 else f"{stem} ({number}){dot}{suffix}"):
        number += 1
    return found


def kind_of(path: Path, name: str) -> str:
    """The suffix that the content of a file deserves, whatever its name says; all of it is looked
    at, not only its head.

    Raises:
        RNXError: it is empty, broken, too large, or neither a PDF nor a picture.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise RNXError(f"{name}: is empty (0 bytes); choose another file.")
    suffix = _suffix(head)
    if suffix is None:
        raise RNXError(
            f"{name}: is neither a PDF nor a picture (PNG, JPEG, WebP); choose another file."
        )
    try:
        _open(path, suffix, name)
    except RNXError as error:
        raise RNXError(str(error).replace(str(path), name)) from error
    return suffix


def _suffixed(name: str, suffix: str) -> str:
    """With the suffix of its content: so no picture has a name that reads like the page of a PDF."""
    return name if Path(name).suffix.lower().replace("jpeg", "jpg") == suffix else name + suffix


def _suffix(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if head.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return ".pdf" if b"%PDF-" in head else None


def _open(path: Path, suffix: str, name: str) -> None:
    if suffix != ".pdf":
        file_source(path).load(max_pixels=GLANCE)
        return
    pages = count_pages(path)
    if not 0 < pages <= MAX_PAGES:
        raise RNXError(f"{name}: has {pages:,} pages; from 1 to {MAX_PAGES:,} are taken.")
