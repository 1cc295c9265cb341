"""Many processes index one corpus: of a server each writes its share, for a folder they remember
and one writes.

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

OnProgress = Callable[[dict[str, Any]], None]
GO_ON = "what was written is whole, the same command goes on from there"


class Worker:
    """A process of this Python that is told and tells lines of JSON; every line it writes goes to
    `tell`.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], tell: OnProgress, threads: int
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
            threading.Thread(target=self._hear, args=(tell,), daemon=True),
            threading.Thread(target=self._hear_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: dict[str, Any]) -> bool:
        """Whether it could be told; a dead one cannot."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def end(self) -> str | None:
        """Waits for its end; says in a line how it failed, None if it did not."""
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
        said = self._errors[-1].removeprefix("error: ") if self._errors else "it said nothing"
        return f"ended by signal {-code}" if code < 0 else said

    def stop(self) -> None:
        """Kills it; what it wrote before is whole."""
        self._process.kill()
        self.end()

    def _hear(self, tell: OnProgress) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            tell(json.loads(line))

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(line.strip() for line in self._process.stderr if line.strip())


def index_sharded(command: Sequence[str], workers: int, share: Shard, bar: Bar) -> IndexReport:
    """Runs `rnx index` so many times at once, each with its part of the share; the sum of what they
    report.

    Raises:
        RNXError: a worker failed; the others went on to their end.
    """
    reports: list[IndexReport] = []

    def tell(fact: dict[str, Any]) -> None:
        bar.add_total(fact.get("expect", 0))
        bar(fact.get("done", 0))
        if "report" in fact:
            reports.append(report_of(fact["report"]))

    crew = [
        Worker(
            "llama_index_rnx.cli",
            ["index", *command, "--share", str(share.part(number, workers)), "--progress", "json"],
            tell,
            _threads(workers),
        )
        for number in range(1, workers + 1)
    ]
    ends = _end_all(crew)
    failed = [
        f"worker {number} of {workers}: {said}"
        for number, said in enumerate(ends, start=1)
        if said is not None
    ]
    if failed:
        raise RNXError(f"{'; '.join(failed)}; {GO_ON}.")
    return _sum(reports)


class MemoryWorkerPool:
    """Processes that make the memories of files ahead, so that the one writer of a folder finds
    them ready.

    One that dies costs time only: the writer makes what is missing.
    """

    def __init__(self, workers: int, memory_path: str, device: str | None, bar: Bar) -> None:
        self._bar = bar
        self._ended = [threading.Semaphore(0) for _ in range(workers)]
        arguments = [memory_path, *([device] if device else [])]
        self.crew = [
            Worker(
                "llama_index_rnx.ingestion.workers",
                arguments,
                partial(self._hear, ended),
                _threads(workers),
            )
            for ended in self._ended
        ]

    def prepare(self, sources: Sequence[SourceFile], nodes: int) -> None:
        """Returns when each of the files was looked at by a worker, or that worker is gone."""
        self._bar.add_total(nodes)
        for number, worker in enumerate(self.crew):
            worker.ask(
                {"files": [[str(one.path), one.docid] for one in sources[number :: len(self.crew)]]}
            )
        for worker, ended in zip(self.crew, self._ended, strict=True):
            while not ended.acquire(timeout=0.5) and worker.lives:
                pass

    def close(self) -> None:
        """Lets them end; they have nothing left to do."""
        for worker in self.crew:
            worker.end()

    def _hear(self, ended: threading.Semaphore, fact: dict[str, Any]) -> None:
        self._bar(fact.get("done", 0))
        if "ended" in fact:
            ended.release()


def report_of(fields: dict[str, Any]) -> IndexReport:
    """A report that was told as JSON."""
    return IndexReport(**{**fields, "skipped": [Skipped(**one) for one in fields["skipped"]]})


def send_report(report: IndexReport, lines: JsonLines) -> None:
    lines.send(report=asdict(report))


def remember_files(
    ranker: Ranker, store: MemoryStore, sources: Sequence[SourceFile], lines: JsonLines
) -> None:
    """Puts what the files' nodes become into the store. What cannot be read is left to the writer,
    who says so.
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


def _end_all(crew: Sequence[Worker]) -> list[str | None]:
    try:
        return [worker.end() for worker in crew]
    except BaseException:  # Ctrl-C: none is left behind
        for worker in crew:
            worker.stop()
        raise


def _sum(reports: Sequence[IndexReport]) -> IndexReport:
    return IndexReport(
        written=sum(one.written for one in reports),
        files=sum(one.files for one in reports),
        unchanged=sum(one.unchanged for one in reports),
        ignored=max((one.ignored for one in reports), default=0),  # each walked through all
        outside=reports[0].outside if reports else [],
        skipped=[skipped for one in reports for skipped in one.skipped],
    )


def main() -> None:
    """One of the `MemoryWorkerPool`: asked for files by lines on stdin, it tells on stdout how far
    it is and when it ended.
    """
    memory_path, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    ranker, store, lines = (
        with_dynamic_batching(RNXEmbedding(device=device).ranker),
        MemoryStore(memory_path),
        JsonLines(),
    )
    for line in sys.stdin:
        sources = [
            SourceFile(path=Path(path), docid=docid) for path, docid in json.loads(line)["files"]
        ]
        remember_files(ranker, store, sources, lines)
        lines.send(ended=True)


if __name__ == "__main__":
    main()
