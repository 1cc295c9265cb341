"""How often control goes from one room of the package into another: calls and returns, counted.

    python -m benchmarks.crossings                  # `rnx index` and `rnx search`
    python -m benchmarks.crossings --pairs search   # which rooms they were

A room is a folder with a face, or a file at the package's root. A call that enters another room
counts once, and its return once more; a generator counts whenever it is resumed or suspended.
Module bodies (imports) and code outside the package count for nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import llama_index_rnx
from llama_index_rnx.cli import main as rnx

PACKAGE = Path(llama_index_rnx.__file__).parent

# Rooms inside a room.
NESTED = ("rankers/mini/", "rankers/vlm/")

NODES = 10
WORDS = ["bees", "honey", "iron", "rust", "bread", "salt", "moon", "tide", "snow", "road"]
PAGE = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R"
    b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj\n"
    b"4 0 obj<</Length 49>>stream\nBT /F1 18 Tf 20 100 Td (Bees make honey) Tj ET   \n"
    b"endstream endobj\n"
    b"trailer<</Root 1 0 R>>\n"
)


def room_of(code: CodeType) -> str | None:
    """Return the room that a function is defined in, None outside the package and for imports."""
    if code.co_name == "<module>" or not code.co_filename.startswith(f"{PACKAGE}/"):
        return None
    path = code.co_filename.removeprefix(f"{PACKAGE}/")
    nested = next((folder for folder in NESTED if path.startswith(folder)), None)
    return nested.rstrip("/") if nested else path.split("/")[0].removesuffix(".py")


class Crossings:
    """Counts the pairs of rooms between which control passes, in all threads."""

    def __init__(self) -> None:
        self.pairs: Counter[tuple[str, str]] = Counter()
        self._rooms: dict[CodeType, str | None] = {}
        self._stacks = threading.local()

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """Follow one call or return: the signature of `sys.setprofile`."""
        if event not in ("call", "return"):
            return
        if frame.f_code not in self._rooms:
            self._rooms[frame.f_code] = room_of(frame.f_code)
        room = self._rooms[frame.f_code]
        if room is None:
            return
        stack: list[str] = self._stacks.__dict__.setdefault("rooms", [])
        if event == "call":
            if stack and stack[-1] != room:
                self.pairs[stack[-1], room] += 1
            stack.append(room)
        elif stack:
            stack.pop()
            if stack and stack[-1] != room:
                self.pairs[room, stack[-1]] += 1

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count what runs inside."""
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def call(*arguments: object) -> None:
    """Run `rnx` in this process, quietly."""
    before = sys.argv
    sys.argv = ["rnx", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            rnx()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"rnx {' '.join(sys.argv[1:])} ended with {end.code}") from end
    finally:
        sys.argv = before


def index_one_page(folder: Path) -> Callable[[], None]:
    """Return a call of `rnx index` on a PDF with one page."""
    (folder / "page").mkdir()
    (folder / "page" / "page.pdf").write_bytes(PAGE)
    return lambda: call("index", folder / "page", "--to", folder / "page-index")


def search_ten_nodes(folder: Path) -> Callable[[], None]:
    """Return a call of `rnx search`, reranked, in an index of ten texts."""
    (folder / "texts").mkdir()
    for word in WORDS[:NODES]:
        (folder / "texts" / f"{word}.txt").write_text(f"A note about {word}, written in May.")
    call("index", folder / "texts", "--to", folder / "text-index")
    return lambda: call("search", "Who makes honey?", "--from", folder / "text-index")


JOURNEYS = {"index": index_one_page, "search": search_ten_nodes}


def count(journey: str) -> Counter[tuple[str, str]]:
    """Return how often control passed between each two rooms on a journey, once it is warm."""
    with tempfile.TemporaryDirectory() as warm:
        JOURNEYS[journey](Path(warm))()
    with tempfile.TemporaryDirectory() as folder:
        run = JOURNEYS[journey](Path(folder))
        crossings = Crossings()
        with crossings.counting():
            run()
    return crossings.pairs


def main() -> None:
    """Print one line for each journey."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", choices=JOURNEYS, help="print the pairs of rooms of one journey")
    options = parser.parse_args()
    for journey in [options.pairs] if options.pairs else JOURNEYS:
        pairs = count(journey)
        print(f"{journey}: {pairs.total()} crossings")
        for (start, end), times in pairs.most_common() if options.pairs else ():
            print(f"{times:5}  {start} -> {end}")


if __name__ == "__main__":
    main()
