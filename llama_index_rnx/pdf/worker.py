"""The process that reads PDFs for its parent. It knows PDFium alone, nothing of this package.

PDFium cannot be interrupted, and a foreign file can make it allocate any amount of memory. So it
runs in this process: a request is a line of JSON on stdin, the answer a line of JSON on stdout,
followed by the pixels of a drawing. The process ends itself when a request takes too long or too
much memory, and when its parent is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Exit codes.
OUT_OF_TIME = 40
OUT_OF_MEMORY = 41

# Pixels of a drawing, in either direction.
MAX_SIDE = 8_192

# Characters of a page.
MAX_CHARACTERS = 2**20

# How often a busy process looks at its limits, and an idle one for its parent.
POLL_SECONDS = 0.02
PARENT_SECONDS = 5.0

# Bytes of address space that an allocator takes ahead.
RESERVE = 2**29

# How long an idle document stays open; some systems cannot move an open file.
IDLE_SECONDS = 2.0

# A process that holds more than a quarter of its limit after a request is not used again.
REUSE_DIVISOR = 4

Answer = tuple[dict[str, Any], Any]


class Guard:
    """Ends the process when the request at hand needs more than it may, or the parent is gone."""

    def __init__(self) -> None:
        self._base = memory_in_use()
        self._address_space = address_space()
        self._parent = os.getppid()
        self._busy = threading.Event()
        self._deadline = 0.0
        self._ceiling = 0

    @contextmanager
    def limits(self, seconds: float, memory: int) -> Iterator[None]:
        """Limit the block to so many seconds of processor time and bytes of memory."""
        self._deadline = time.process_time() + seconds
        self._ceiling = self._base + memory
        limit_address_space(self._address_space + 2 * memory + RESERVE)
        self._busy.set()
        try:
            yield
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        finally:
            self._busy.clear()

    def is_swollen(self, memory: int) -> bool:
        """Return whether too much memory stayed in use for the next request."""
        return memory_in_use() - self._base > memory // REUSE_DIVISOR

    def watch(self) -> None:
        """Watch the process for ever, in a thread of its own."""
        while True:
            if os.getppid() != self._parent:
                os._exit(0)

            if self._busy.wait(PARENT_SECONDS):
                self._check()
                time.sleep(POLL_SECONDS)

    def _check(self) -> None:
        if time.process_time() > self._deadline:
            os._exit(OUT_OF_TIME)
        if memory_in_use() > self._ceiling:
            os._exit(OUT_OF_MEMORY)


class PdfReader:
    """PDFium with one document, kept open from request to request."""

    def __init__(self) -> None:
        import pypdfium2

        self._pdfium = pypdfium2
        self._state: tuple[Any, ...] = ()
        self._document: Any = None
        self._flat: Any = None

    def answer(self, request: dict[str, Any]) -> Answer:
        """Carry out a request; a file that cannot be read is an answer, too."""
        try:
            self._open(request["path"])
            if request["do"] == "count":
                return {"pages": len(self._document)}, b""
            if request["do"] == "text":
                return self._text(request["page"]), b""
            return self._draw(request["page"], request["pixels"])
        except MemoryError:
            raise
        # A foreign file may cause any error; the next file may be sound.
        except Exception as error:
            return {"error": reason(error)}, b""

    def close(self) -> None:
        """Close the document."""
        for document in (self._flat, self._document):
            if document is not None:
                document.close()
        self._state = ()
        self._document = None
        self._flat = None

    def _open(self, path: str) -> None:
        # A pipe or a device may never end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")

        state = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        if state == self._state:
            return

        self.close()
        self._document = self._load(path)
        self._state = state

    def _load(self, path: str) -> Any:
        document = self._pdfium.PdfDocument(path)

        # This comes before the first page, or its fields are not drawn. A broken form costs its
        # values only.
        with suppress(self._pdfium.PdfiumError):
            document.init_forms()
        return document

    def _text(self, index: int) -> dict[str, Any]:
        """Return the text layer of a page, with the text of its fields and its annotations."""
        with closing(self._document[index]) as page:
            kinds = self._annotations(page)
            fields = self._document.formenv is not None and self._raw.FPDF_ANNOT_WIDGET in kinds
            if not kinds & self._kinds_with_words():
                return {"text": page_text(page), "fields": fields}

        return {"text": self._flattened_text(index), "fields": fields}

    def _flattened_text(self, index: int) -> str:
        """Make annotations part of the page, in a copy, so that its drawing does not change."""
        if self._flat is None:
            self._flat = self._load(self._state[0])
            self._ensure_form_environment(self._flat)
        with closing(self._flat[index]) as page:
            self._raw.FPDFPage_Flatten(page, self._raw.FLAT_NORMALDISPLAY)
        with closing(self._flat[index]) as page:
            return page_text(page)

    def _ensure_form_environment(self, document: Any) -> None:
        """Give a document a form environment, or annotations without a drawing lose their words."""
        if document.formenv is None:
            config = self._raw.FPDF_FORMFILLINFO(version=2)
            handle = self._raw.FPDFDOC_InitFormFillEnvironment(document, config)
            document.formenv = self._pdfium.PdfFormEnv(handle, config) if handle else None

    def _annotations(self, page: Any) -> set[int]:
        """Return the kinds of annotations on a page."""
        kinds = set()
        for number in range(self._raw.FPDFPage_GetAnnotCount(page)):
            annotation = self._raw.FPDFPage_GetAnnot(page, number)
            if annotation:
                kinds.add(self._raw.FPDFAnnot_GetSubtype(annotation))
                self._raw.FPDFPage_CloseAnnot(annotation)
        return kinds

    def _kinds_with_words(self) -> set[int]:
        """Return the kinds of annotations that have words of their own, unlike links and notes."""
        raw = self._raw
        return {raw.FPDF_ANNOT_WIDGET, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_STAMP}

    @property
    def _raw(self) -> Any:
        return self._pdfium.raw

    def _draw(self, index: int, pixels: int) -> Answer:
        with closing(self._document[index]) as page:
            width, height = page.get_size()
            bitmap = page.render(scale=scale_for(width, height, pixels))
            shape = {"width": bitmap.width, "height": bitmap.height, "stride": bitmap.stride}
            return shape, bitmap.buffer


def page_text(page: Any) -> str:
    """Return the text layer of a page, at most `MAX_CHARACTERS` of it."""
    with closing(page.get_textpage()) as text_page:
        return str(text_page.get_text_bounded())[:MAX_CHARACTERS]


def scale_for(width: float, height: float, pixels: int) -> float:
    """Return how many pixels a point becomes: about `pixels` in all, whatever the size on paper.

    A page may be a kilometre wide and thinner than a hair; no side becomes longer than `MAX_SIDE`.

    Example:
        >>> scale_for(100.0, 100.0, 1_000_000)
        10.0
        >>> scale_for(1_000_000.0, 0.000001, 1_000_000) * 1_000_000
        8192.0
    """
    scale = float((pixels / max(width * height, 1.0)) ** 0.5)
    return min(scale, MAX_SIDE / max(width, height))


def reason(error: Exception) -> str:
    """Return in a few words why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "the file is not there"

    # The text of an OSError repeats the path.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = " ".join(str(error).split()) or type(error).__name__
    return "it needs a password" if "password" in line.lower() else line


def memory_in_use() -> int:
    """Return the bytes of RAM in use: on a Mac their peak, 0 where the system does not say."""
    if sys.platform.startswith("linux"):
        return _statm(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0


def address_space() -> int:
    """Return the bytes of address space in use; 0 where the system does not say."""
    return _statm(0) if sys.platform.startswith("linux") else 0


def limit_address_space(size: int) -> None:
    """Refuse a single huge allocation, which is faster than the watch."""
    if resource and sys.platform.startswith("linux"):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _statm(field: int) -> int:
    with open("/proc/self/statm", "rb") as stream:
        return int(stream.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")


def read_requests(stream: BinaryIO) -> queue.SimpleQueue[dict[str, Any]]:
    """Read requests in a thread of its own. When the stream ends, so does this process, even in the
    middle of a request.
    """
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            requests.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return requests


def send(stream: BinaryIO, header: dict[str, Any], data: Any) -> None:
    """Write an answer: its header as a line of JSON, then its data."""
    stream.write(json.dumps(header).encode() + b"\n")
    stream.write(data)
    stream.flush()


def serve(requests: queue.SimpleQueue[dict[str, Any]], out: BinaryIO) -> None:
    """Answer one request after the other."""
    reader = PdfReader()
    guard = Guard()
    threading.Thread(target=guard.watch, daemon=True).start()
    send(out, {"ready": True}, b"")
    while True:
        try:
            request = requests.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            reader.close()
            request = requests.get()

        with guard.limits(request["seconds"], request["memory"]):
            header, data = reader.answer(request)
        if request["do"] == "count" and not request.get("keep_open"):
            reader.close()  # an upload is moved next

        send(out, header | {"size": len(data), "last": guard.is_swollen(request["memory"])}, data)


def main() -> None:
    """Answer the parent's requests until it ends."""
    # Ctrl-C is for the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    # Nothing but answers may go where the parent reads, whatever a library prints.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    requests = read_requests(sys.stdin.buffer)
    sys.path.extend(path for path in requests.get()["paths"] if path not in sys.path)
    try:
        serve(requests, out)
    # The parent is gone.
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main()
