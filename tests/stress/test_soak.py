"""An hour in miniature: queries without end, and memory, file descriptors and threads stay where
they were.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fakes import GREEN, RED, image_base64
from llama_index.core.schema import ImageNode, QueryBundle, TextNode
from sizes import sizes
from warm import texts

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.memory import RAM
from llama_index_rnx.rankers.mini import MiniRanker
from llama_index_rnx.server import create_app

KIB_A_QUERY = 1.0  # of memory in use; a leak of one small object a query (a node, a future) is more
# Of memory that is free but kept by the allocator for later, between small things that live long.
MIB_KEPT = 32
PARTS = 20
FULL = int(os.environ.get("RNX_SOAK", "2000"))  # queries of the full size
SUBJECTS = (
    "honey",
    "rust",
    "craters",
    "sourdough",
    "a puncture",
    "espresso",
    "ultramarine",
    "a late frost",
    "a red wall",
)


def questions(count: int) -> list[str]:
    rng = random.Random(count)
    return [
        f"What does note {rng.randrange(100)} say about {rng.choice(SUBJECTS)}?"
        for _ in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a soak added: KiB in use a query, by a line fitted through the second half; the rest
    since the middle.
    """

    slope: float
    kept: int
    files: int
    threads: int


def soaked(count: int, ask: Callable[[str], object]) -> Found:
    """Asks `count` questions and looks twenty times."""
    seen, asked = [], questions(count)
    for part in range(PARTS):
        for question in asked[part * count // PARTS : (part + 1) * count // PARTS]:
            ask(question)
        gc.collect()
        seen.append(
            (in_use(), resident(), len(os.listdir("/proc/self/fd")), threading.active_count())
        )
    half = seen[PARTS // 2 :]
    slope = _slope([used for used, _, _, _ in half]) / (count / PARTS)
    added = [last - first for first, last in zip(half[0], half[-1], strict=True)]
    print(
        f"{count} queries: in use {half[0][0] >> 10} -> {half[-1][0] >> 10} MiB, "
        f"{slope:+.2f} KiB a query in the second half;"
    )
    print(
        f"resident {half[0][1] >> 10} -> {half[-1][1] >> 10} MiB; "
        f"open files {added[2]:+}, threads {added[3]:+}"
    )
    return Found(slope=slope, kept=(added[1] - added[0]) >> 10, files=added[2], threads=added[3])


def in_use() -> int:
    """KiB that this process has asked malloc for and not given back. What is resident says less: a
    heap keeps what is free between things in use, 9 to 16 MiB more after 2,000 queries, while this
    number stands still within .2 MiB.
    """
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    found = mallinfo()
    return int(found.uordblks + found.hblkhd) >> 10


class Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _names = (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    )
    _fields_ = tuple(zip(_names, [ctypes.c_size_t] * len(_names), strict=True))


def resident() -> int:
    """KiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10


def _slope(values: list[int]) -> float:
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum(
        (i - middle) ** 2 for i in range(len(values))
    )


def is_flat(count: int, found: Found) -> None:
    """Few queries say little of memory: caches fill, and an allocator's steps are larger than what
    they would leak.
    """
    assert found.files <= 0
    assert found.threads <= 0
    assert count < 1_000 or found.slope < KIB_A_QUERY
    assert count < 1_000 or found.kept < MIB_KEPT


def has_glibc() -> bool:
    return Path("/proc/self/statm").exists() and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.mark.skipif(not has_glibc(), reason="memory is read from /proc and glibc")
@pytest.mark.parametrize("count", sizes(20, FULL))
def test_retriever_and_reranker(count: int, mini: MiniRanker, tmp_path: Path) -> None:
    collection = NodeCollection(tmp_path / "index")
    collection.add(
        [TextNode(id_=str(i), text=text) for i, text in enumerate(texts(100))], show_progress=False
    )
    collection.add(
        [ImageNode(id_=f"p{i}", image=image_base64(c)) for i, c in enumerate((RED, GREEN))],
        show_progress=False,
    )
    retriever, reranker = RNXRetriever(collection, top_k=20), RNXRerank(ranker=mini, top_n=5)

    def ask(question: str) -> None:
        bundle = QueryBundle(question)
        assert len(reranker.postprocess_nodes(retriever.retrieve(bundle), bundle)) == 5

    found = soaked(count, ask)
    collection.close()
    RAM.clear()
    is_flat(count, found)


@pytest.mark.skipif(not has_glibc(), reason="memory is read from /proc and glibc")
@pytest.mark.parametrize("count", sizes(20, FULL))
def test_server(count: int, mini: MiniRanker) -> None:
    """Each request brings documents that were never seen, so what is remembered must be bounded
    too.
    """
    limit, RAM.limit = RAM.limit, 8 * 2**20
    with asyncio.Runner() as runner:
        app = create_app(lambda: mini)
        life = app.router.lifespan_context(app)
        runner.run(life.__aenter__())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

        def ask(question: str) -> None:
            body = {"query": question, "documents": [f"{question} {text}" for text in texts(4)]}
            answer = runner.run(client.post("/rerank", json=body))
            assert len(answer.json()["results"]) == 4

        found = soaked(count, ask)
        runner.run(client.aclose())
        runner.run(life.__aexit__(None, None, None))
    RAM.limit = limit
    RAM.clear()
    is_flat(count, found)
