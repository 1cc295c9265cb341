"""What one command costs from start to answer: `rnx search` in a folder, and `rnx index` of texts,
each in a process of its own, of this checkout and of another commit in turn.

    python -m benchmarks.startup [--against d1a5962] [--nodes 2000] [--texts 200] [--rounds 5]

Both commits run on this interpreter and its packages. Each indexes for itself, as an index may have
another format; the other commit is a git worktree in a temporary folder. Texts are generated: those
of the searched index have 20 words, those of the corpus that is indexed 100, one file each.

Prints for each command: wall time, processor time with that of child processes, resident memory of
the command's own process when it printed its answer and at its peak, as median (least .. most), and
the median of the rounds' ratios. It reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO

from benchmarks.words import words

ROOT = Path(__file__).parents[1]
RUN = "from llama_index_rnx.cli import main; main()"

SEARCHED_WORDS = 20  # of a text in the index that is searched
CORPUS_WORDS = 100  # of a text in the corpus that is indexed

# Seconds between two looks at a process's memory.
POLL = 0.01

MIB = 2**20
HEADER = ("wall, s", "processor, s", "at the answer, MiB", "at the peak, MiB")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one process: seconds, and MiB."""

    wall: float
    processor: float
    resident: float
    peak: float


def main() -> None:
    """Measure both commits in turn and print one table for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", metavar="COMMIT", help="default: this checkout alone")
    parser.add_argument("--nodes", type=int, default=2_000, help="in the index that is searched")
    parser.add_argument("--texts", type=int, default=200, help="in the corpus that is indexed")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name, checkouts(args.against, Path(name)) as sources:
        folder = Path(name)
        searched = write_texts(folder / "searched", args.nodes, SEARCHED_WORDS)
        corpus = write_texts(folder / "corpus", args.texts, CORPUS_WORDS)
        searches = compare_searches(sources, searched, folder, args.rounds)
        print_table(f"rnx search in {args.nodes} nodes", searches)
        indexings = compare_indexings(sources, corpus, folder, args.rounds)
        print_table(f"rnx index of {args.texts} texts of {CORPUS_WORDS} words", indexings)


@contextmanager
def checkouts(commit: str | None, folder: Path) -> Iterator[dict[str, Path]]:
    """Give the source trees to compare by name: that of this file first, then that of a commit."""
    sources = {"this checkout": ROOT}
    if commit is None:
        yield sources
        return

    tree = folder / "commit"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        yield {**sources, commit: tree}
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def write_texts(folder: Path, count: int, length: int) -> Path:
    """Write `count` files of `length` words each, and return their folder."""
    folder.mkdir()
    rng = random.Random(length)
    for number in range(count):
        (folder / f"{number:06}.txt").write_text(" ".join(words(rng, length)), encoding="utf-8")
    return folder


def compare_searches(
    sources: dict[str, Path], texts: Path, folder: Path, rounds: int
) -> dict[str, list[Cost]]:
    """Index the texts once by each commit, then search in turn, each round with a new query."""
    indexes = {name: folder / f"index {number}" for number, name in enumerate(sources)}
    rng = random.Random(1)
    for name, source in sources.items():
        rnx(source, "index", str(texts), "--to", str(indexes[name]))
        # The first one compiles, and brings the files into the page cache.
        rnx(source, "search", "warm up", "--from", str(indexes[name]))

    costs: dict[str, list[Cost]] = {name: [] for name in sources}
    for number in range(rounds):
        query = " ".join(words(rng, 8))
        for name in in_turn(sources, number):
            cost = rnx(sources[name], "search", query, "--from", str(indexes[name]))
            costs[name].append(cost)
    return costs


def compare_indexings(
    sources: dict[str, Path], corpus: Path, folder: Path, rounds: int
) -> dict[str, list[Cost]]:
    """Index the corpus in turn, each time into a new folder."""
    costs: dict[str, list[Cost]] = {name: [] for name in sources}
    for number in range(rounds):
        for name in in_turn(sources, number):
            index = folder / "fresh index"
            costs[name].append(rnx(sources[name], "index", str(corpus), "--to", str(index)))
            shutil.rmtree(index)
    return costs


def in_turn(sources: dict[str, Path], number: int) -> list[str]:
    """Return the order of a round: another one begins each time."""
    names = list(sources)
    start = number % len(names)
    return names[start:] + names[:start]


def rnx(source: Path, *arguments: str) -> Cost:
    """Run one command of a source tree to its end.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    command = [sys.executable, "-c", RUN, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=source.parent
        )
        resident, peak, processor = wait_for(process, output)
        wall = time.perf_counter() - start
        if process.returncode != 0:
            output.seek(0)
            sys.stderr.write(output.read().decode("utf-8", "replace"))
            raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(wall=wall, processor=processor, resident=resident, peak=peak)


def wait_for(process: subprocess.Popen[bytes], output: IO[bytes]) -> tuple[float, float, float]:
    """Wait for the end of a process; return its memory when it last printed something and its peak,
    in MiB, and the processor's seconds of it and of its children.
    """
    resident = peak = 0.0
    printed = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return resident, peak, usage.ru_utime + usage.ru_stime

        memory = memory_of(process.pid)
        peak = memory.get("VmHWM", peak)
        size = os.fstat(output.fileno()).st_size
        if size > printed:
            printed, resident = size, memory.get("VmRSS", resident)
        time.sleep(POLL)


def memory_of(pid: int) -> dict[str, float]:
    """Return the MiB that the system notes of a process, by name; none of one that ends."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except ProcessLookupError:
        return {}
    lines = re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(kibibytes) * 1024 / MIB for name, kibibytes in lines}


def print_table(title: str, costs: dict[str, list[Cost]]) -> None:
    """Print the costs of each commit, and the ratios of this checkout's to the other's."""
    print(f"\n{title}, {len(next(iter(costs.values())))} rounds, median (least .. most)")
    print(f"{'':16}" + "".join(f"{name:>26}" for name in HEADER))
    for name, runs in costs.items():
        columns = zip(*map(astuple, runs), strict=True)
        print(f"{name:16}" + "".join(f"{spread(column):>26}" for column in columns))

    if len(costs) > 1:
        ours, theirs = ([astuple(run) for run in runs] for runs in costs.values())
        rows = [
            [mine / other for mine, other in zip(one, another, strict=True)]
            for one, another in zip(ours, theirs, strict=True)
        ]
        columns = zip(*rows, strict=True)
        print(f"{'ratio':16}" + "".join(f"{spread(column, 2):>26}" for column in columns))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return the median and the extremes."""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f} .. {most:.{digits}f})"


if __name__ == "__main__":
    main()
