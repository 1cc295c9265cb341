"""An hour in miniature: queries without end, and memory, file descriptors and threads stay where they were."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable
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
from llama_index_rnx.serve import create_app

KIB_A_QUERY = 2.0  # a leak of one small object a query (a node, a future) is more
PARTS = 20
SUBJECTS = ("honey", "rust", "craters", "sourdough", "a puncture", "espresso", "ultramarine", "a late frost", "a red wall")


def questions(count: int) -> list[str]:
    rng = random.Random(count)
    return [f"What does note {rng.randrange(100)} say about {rng.choice(SUBJECTS)}?" for _ in range(count)]


def soaked(count: int, ask: Callable[[str], object]) -> tuple[float, int, int]:
    """KiB a query by a line fitted through the second half, and what was added of open files and threads since the middle."""
    seen, asked = [], questions(count)
    for part in range(PARTS):
        for question in asked[part * count // PARTS : (part + 1) * count // PARTS]:
            ask(question)
        gc.collect()
        seen.append((resident(), len(os.listdir("/proc/self/fd")), threading.active_count()))
    half = seen[PARTS // 2 :]
    slope = _slope([rss for rss, _, _ in half]) / (count / PARTS)
    print(f"{count} queries: {slope:+.2f} KiB a query in the second half, {seen[0][0] >> 10} -> {seen[-1][0] >> 10} MiB")
    print(f"open files {half[0][1]} -> {half[-1][1]}, threads {half[0][2]} -> {half[-1][2]}")
    return slope, half[-1][1] - half[0][1], half[-1][2] - half[0][2]


def resident() -> int:
    """KiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 10


def _slope(values: list[int]) -> float:
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    return sum((i - middle) * (v - mean) for i, v in enumerate(values)) / sum((i - middle) ** 2 for i in range(len(values)))


def is_flat(count: int, found: tuple[float, int, int]) -> None:
    """Few queries say little of memory: an allocator's steps are larger than what they would leak."""
    slope, files, threads = found
    assert files <= 0
    assert threads <= 0
    assert slope < KIB_A_QUERY or count < 1_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("count", sizes(20, 2_000))
def test_retriever_and_reranker(count: int, mini: MiniRanker, tmp_path: Path) -> None:
    collection = NodeCollection(tmp_path / "index")
    collection.add([TextNode(id_=str(i), text=text) for i, text in enumerate(texts(100))], show_progress=False)
    collection.add([ImageNode(id_=f"p{i}", image=image_base64(c)) for i, c in enumerate((RED, GREEN))], show_progress=False)
    retriever, reranker = RNXRetriever(collection, top_k=20), RNXRerank(ranker=mini, top_n=5)

    def ask(question: str) -> None:
        bundle = QueryBundle(question)
        assert len(reranker.postprocess_nodes(retriever.retrieve(bundle), bundle)) == 5

    found = soaked(count, ask)
    collection.close()
    RAM.clear()
    is_flat(count, found)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("count", sizes(20, 2_000))
def test_server(count: int, mini: MiniRanker) -> None:
    """Each request brings documents that were never seen, so what is remembered must be bounded too."""
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
