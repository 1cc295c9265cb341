"""A warmed `rnx`: everything is loaded once, then each command line runs in a fork of it, as its
own process.

A fresh `rnx` spends seconds on imports; a fork is there in a millisecond and can be killed as
truly. Spoken to over its standard streams: a line of JSON in (`arguments`, `log`, `die_at`), then
the child's process id out, then its exit status. `die_at` names the n-th call that writes (to a
file, sqlite, or the file system), before which the child kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

WRITES = frozenset(
    {
        "execute",
        "executemany",
        "commit",
        "__exit__",
        "write",
        "flush",
        "replace",
        "rename",
        "unlink",
        "mkdir",
    }
)
KILLED = -signal.SIGKILL


class Warm:
    """The parent's end."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet, "PYTHONPATH": root},
        )
        assert self._line() == "ready"

    def run(
        self, *arguments: object, log: Path, kill_after: float | None = None, die_at: int = 0
    ) -> int:
        """The exit code of `rnx ARGUMENTS`, -9 if it was killed: after so many seconds, or before
        its n-th write.
        """
        order = {"arguments": [str(one) for one in arguments], "log": str(log), "die_at": die_at}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        child = int(self._line())
        timer = threading.Timer(kill_after if kill_after is not None else 120.0, _kill, [child])
        timer.start()
        try:
            return os.waitstatus_to_exitcode(int(self._line()))
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _kill(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        time.sleep(0)  # it had just ended by itself


def serve() -> None:
    """The child's end: loads, then forks for every line."""
    from llama_index_rnx import RNXEmbedding, rerank
    from llama_index_rnx.cli import entry_point as cli
    from llama_index_rnx.collection import collection
    from llama_index_rnx.ingestion import indexing as files

    assert cli
    assert collection
    assert files
    assert rerank
    RNXEmbedding().get_query_embedding("warm")
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become_rnx(order)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


def _become_rnx(order: dict[str, Any]) -> None:
    from llama_index_rnx.cli import entry_point as cli

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["rnx", *order["arguments"]]
    code: Any = 1
    try:
        if order["die_at"]:
            before_write(order["die_at"], lambda: os.kill(os.getpid(), signal.SIGKILL))
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def before_write(number: int, then: Callable[[], None]) -> None:
    """Before the n-th call of a built-in function that writes, from now on, `then` is called."""
    left = number

    def watch(frame: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event == "c_call" and getattr(called, "__name__", "") in WRITES:
            left -= 1
            if left == 0:
                then()

    sys.setprofile(watch)


def texts(count: int) -> Sequence[str]:
    """Texts with words of their own."""
    subjects = ["bees", "iron", "moon", "bread", "tyres", "coffee", "paint", "frost"]
    return [
        f"Note {i} speaks of {subjects[i % 8]} and of number {i * 37 % 101}. "
        f"It was written on day {i}."
        for i in range(count)
    ]


if __name__ == "__main__":
    serve()
