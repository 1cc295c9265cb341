"""Many processes index one corpus: into a server each writes its share; for a folder all of them
make memories, and one writes.

It knows processes and lines of JSON between them, neither models nor Qdrant. Nothing is lost with a
worker that dies: what it wrote is whole, and the next run takes up the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llama_index_rnx.candidates import Candidate, candidate_of
from llama_index_rnx.collection import BATCH, Skipped
from llama_index_rnx.console import Bar, JsonLines
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.ingestion.discovery import SourceFile
from llama_index_rnx.ingestion.indexing import IndexReport
from llama_index_rnx.ingestion.readers import nodes_of
from llama_index_rnx.ingestion.sharding import Shard
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, with_dynamic_batching

OnLine = Callable[[dict[str, Any]], None]
GO_ON = "what was written is whole, the same command goes on from there"


class Worker:
    """A process of this Python that reads and writes lines of JSON; `on_line` gets every line that
    it writes, in a thread of its own.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], on_line: OnLine, threads: int
    ) -> None:
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            **os.environ,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(on_line,), daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def send(self, line: dict[str, Any]) -> bool:
        """Write a line to the process, and return whether that succeeded: a dead one takes none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def join(self) -> str | None:
        """Wait for the end of the process; return in a line how it failed, None if it did not."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._errors.append("it was gone before its work was read")

        code = self._process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

        if code == 0:
            return None
        if code < 0:
            return f"ended by signal {-code}"
        return self._errors[-1].removeprefix("error: ") if self._errors else "no error output"

    def kill(self) -> None:
        """Kill the process; what it wrote before is whole."""
        self._process.kill()
        self.join()

    def _read_stdout(self, on_line: OnLine) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            on_line(json.loads(line))

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(line.strip() for line in self._process.stderr if line.strip())


def index_sharded(command: Sequence[str], workers: int, share: Shard, bar: Bar) -> IndexReport:
    """Run `rnx index` in several processes at once, each with its part of the share, and return the
    sum of their reports.

    Raises:
        RNXError: a worker failed; the others went on to their end.
    """
    reports: list[IndexReport] = []

    def on_line(message: dict[str, Any]) -> None:
        bar.add_total(message.get("expect", 0))
        bar(message.get("done", 0))
        if "report" in message:
            reports.append(report_of(message["report"]))

    shards = [share.subshard(index, workers) for index in range(1, workers + 1)]
    processes = [
        Worker(
            "llama_index_rnx.cli",
            ["index", *command, "--share", str(shard), "--progress", "json"],
            on_line,
            _threads(workers),
        )
        for shard in shards
    ]
    failures = [
        f"worker {number} of {workers}: {failure}"
        for number, failure in enumerate(_join_all(processes), start=1)
        if failure is not None
    ]
    if failures:
        raise RNXError(f"{'; '.join(failures)}; {GO_ON}.")
    return _sum(reports)


class MemoryWorkerPool:
    """Processes that make the memories of files ahead, so that the one writer of a folder finds
    them ready.

    A process that dies costs time only: the writer makes what is missing.
    """

    def __init__(self, workers: int, memory_path: str, device: str | None, bar: Bar) -> None:
        self._bar = bar
        self._finished = [threading.Semaphore(0) for _ in range(workers)]
        arguments = [memory_path, *([device] if device else [])]
        self.crew = [
            Worker(
                "llama_index_rnx.ingestion.workers",
                arguments,
                partial(self._on_line, finished),
                _threads(workers),
            )
            for finished in self._finished
        ]

    def prepare(self, sources: Sequence[SourceFile], nodes: int) -> None:
        """Return when a worker has looked at each of the files, or that worker is gone."""
        self._bar.add_total(nodes)
        for index, worker in enumerate(self.crew):
            share = sources[index :: len(self.crew)]
            worker.send({"files": [[str(source.path), source.docid] for source in share]})
        for worker, finished in zip(self.crew, self._finished, strict=True):
            while not finished.acquire(timeout=0.5) and worker.is_alive:
                pass

    def close(self) -> None:
        """Wait for the end of the processes, which have nothing left to do."""
        for worker in self.crew:
            worker.join()

    def _on_line(self, finished: threading.Semaphore, message: dict[str, Any]) -> None:
        self._bar(message.get("done", 0))
        if "ended" in message:
            finished.release()


def report_of(fields: dict[str, Any]) -> IndexReport:
    """Return the report that a worker sent as JSON."""
    skipped = [Skipped(**item) for item in fields["skipped"]]
    return IndexReport(**{**fields, "skipped": skipped})


def send_report(report: IndexReport, lines: JsonLines) -> None:
    """Write a report as a line of JSON."""
    lines.send(report=asdict(report))


def remember_files(
    ranker: Ranker, store: MemoryStore, sources: Sequence[SourceFile], lines: JsonLines
) -> None:
    """Put the memories of the files' nodes into the store. A file that cannot be read is left to
    the writer, who reports it.
    """
    candidates = _candidates(sources)
    while batch := list(islice(candidates, BATCH)):
        try:
            get_or_compute_memories(ranker, batch, store)
        except ImageError:
            _remember_each(ranker, store, batch)
        lines(len(batch))


def _remember_each(ranker: Ranker, store: MemoryStore, batch: Sequence[Candidate]) -> None:
    for candidate in batch:
        with suppress(ImageError):
            get_or_compute_memories(ranker, [candidate], store)


def _candidates(sources: Sequence[SourceFile]) -> Iterator[Candidate]:
    for source in sources:
        with suppress(RNXError, OSError):
            for node in nodes_of(source):
                with suppress(RNXError):
                    yield candidate_of(node)


def _threads(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _join_all(workers: Sequence[Worker]) -> list[str | None]:
    try:
        return [worker.join() for worker in workers]
    # Ctrl-C: no process is left behind.
    except BaseException:
        for worker in workers:
            worker.kill()
        raise


def _sum(reports: Sequence[IndexReport]) -> IndexReport:
    """Return one report for all workers. Each of them walked through all files, so `ignored` and
    `outside` are the same in each.
    """
    return IndexReport(
        written=sum(report.written for report in reports),
        files=sum(report.files for report in reports),
        unchanged=sum(report.unchanged for report in reports),
        ignored=max((report.ignored for report in reports), default=0),
        outside=reports[0].outside if reports else [],
        skipped=[skipped for report in reports for skipped in report.skipped],
    )


def main() -> None:
    """Run one process of the `MemoryWorkerPool`: it gets files by lines on stdin, and writes to
    stdout how far it is and when it has finished.
    """
    memory_path = sys.argv[1]
    device = sys.argv[2] if len(sys.argv) > 2 else None
    ranker = with_dynamic_batching(RNXEmbedding(device=device).ranker)
    store = MemoryStore(memory_path)
    lines = JsonLines()

    for line in sys.stdin:
        files = json.loads(line)["files"]
        sources = [SourceFile(path=Path(path), docid=docid) for path, docid in files]
        remember_files(ranker, store, sources, lines)
        lines.send(ended=True)


if __name__ == "__main__":
    main()
