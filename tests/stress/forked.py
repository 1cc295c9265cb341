"""Actions on an index, each in a process of its own: one that is killed, or that the engine takes
down with it, is an exit code here and not the end of the tests.

The package is loaded once, and every action runs in a fork of that process, which itself opens no
index: a fork of one that has could not use the engine. Spoken to over its standard streams: a
line of JSON in (action, arguments, seconds until it is killed), a line out (exit code, value).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

KILLED = -signal.SIGKILL
_LIMIT = 60
ACTIONS: dict[str, Callable[..., Any]] = {}


class Outcome(NamedTuple):
    """How an action ended. `value` is what it returned, or `error: ` and the line of its error."""

    code: int
    value: Any

    @property
    def error(self) -> str:
        """The one line of an RNXError, "" if there was none; anything else fails the test."""
        assert self.code == 0, self
        is_error = isinstance(self.value, str) and self.value.startswith("error: ")
        return self.value if is_error else ""


class Forked:
    """The tests' end."""

    def __init__(self) -> None:
        tests = Path(__file__).parents[1]
        paths = [str(tests.parent), str(tests)]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A panic of the engine is printed there.
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def run(self, action: str, *arguments: object, kill_after: float | None = None) -> Outcome:
        """Run an action, and kill it after so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = [action, [str(each) for each in arguments], kill_after]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def serve() -> None:
    """The other end: load, then fork for every line."""
    print("ready", flush=True)
    for line in sys.stdin:
        action, arguments, kill_after = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "result.json")
            child = os.fork()
            if child == 0:
                _act(ACTIONS[action], arguments, result)
            timer = threading.Timer(kill_after or _LIMIT, _kill, [child])
            timer.start()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            timer.cancel()
            timer.join()
            value = json.loads(result.read_text()) if result.exists() else None
        print(json.dumps([code, value]), flush=True)


def _act(action: Callable[..., Any], arguments: list[str], result: Path) -> None:
    from llama_index_rnx.errors import RNXError

    code = 1
    try:
        try:
            value = action(*arguments)
        except RNXError as error:
            value = f"error: {error}"
        result.write_text(json.dumps(value))
        code = 0
    finally:
        os._exit(code)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def action(function: Callable[..., Any]) -> Callable[..., Any]:
    ACTIONS[function.__name__] = function
    return function


def write_local_index(folder: Path, count: int, name: str = "rnx") -> None:
    """Write an index as earlier versions made them, by local mode."""
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(folder))
    collection = opened(client, name)
    collection.add(_nodes(0, count), show_progress=False)
    collection.close()
    client.close()


def node_texts(start: int, stop: int) -> Iterator[tuple[str, str]]:
    """Ids and texts of nodes."""
    subjects = ["bees", "iron", "moon", "bread", "tyres", "coffee", "paint", "frost"]
    for i in range(start, stop):
        yield f"n{i}", f"note {i} speaks of {subjects[i % 8]} and number{i} " + "and more " * 20


def opened(location: Any, name: str = "rnx") -> Any:
    """Return a collection whose vectors have no ties."""
    from fakes import FakeEmbedding

    from llama_index_rnx import NodeCollection

    class HashEmbedding(FakeEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return _vector(query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return _vector(text)

    return NodeCollection(location, name=name, embedding=HashEmbedding(), ranker=None)


def _vector(text: str) -> list[float]:
    rng = random.Random(text)
    return [rng.gauss() for _ in range(32)]


def _nodes(start: int, stop: int) -> list[Any]:
    from llama_index.core.schema import TextNode

    return [TextNode(id_=name, text=text) for name, text in node_texts(start, stop)]


@action
def write(folder: str, start: str, stop: str, acknowledged: str = os.devnull) -> int:
    """Add nodes in batches, note each batch that is written, and build graphs in between."""
    collection = opened(folder)
    for first in range(int(start), int(stop), 20):
        collection.add(_nodes(first, min(first + 20, int(stop))), show_progress=False)
        with open(acknowledged, "a") as log:
            log.write(f"{min(first + 20, int(stop))}\n")
        if first % 100 == 0:
            collection._index.call(lambda client: client.optimize("rnx"))
    collection.close()
    return int(stop)


@action
def use(folder: str, stop: str) -> dict[str, Any]:
    """Open an index of nodes 0 to `stop`, read all, search, write one and delete it."""
    from llama_index_rnx.candidates import Query

    collection = opened(folder)
    names = [name for name, _ in node_texts(0, int(stop))]
    # A node's own text is first by words and by vector: fusion breaks no tie there.
    queries = [text for _, text in node_texts(0, int(stop))][:: max(1, int(stop) // 5)]
    tops = [
        [[hit.node_id, round(hit.score, 5)] for hit in collection.search(Query(text=query), k=1)]
        for query in queries
    ]
    answers = {
        "count": len(collection),
        "texts": [node.text for node in collection.get(names)],
        "tops": tops,
    }
    collection.add(_nodes(100_000, 100_001), show_progress=False)
    collection.delete(["n100000"])
    collection._index.call(lambda client: client.flush("rnx"))
    assert len(collection) == answers["count"]
    collection.close()
    return answers


@action
def copy(source: str, target: str) -> None:
    """Copy an index without its holes."""
    from llama_index_rnx.system import copy_sparse

    copy_sparse(Path(source), Path(target))


@action
def look(folder: str, stop: str) -> list[str]:
    """Return which of the nodes an index holds."""
    collection = opened(folder)
    try:
        return [node.node_id for node in collection.get([f"n{i}" for i in range(int(stop))])]
    finally:
        collection.close()


if __name__ == "__main__":
    # Loaded before the first fork.
    for module in ("fakes", "llama_index_rnx.collection.conversion", "llama_index.core.schema"):
        import_module(module)

    serve()
