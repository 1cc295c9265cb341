"""Many queries at once: forwards shared by `RNXRerank` against each caller alone in a thread, with
the same ranker.

    python -m benchmarks.load [--ranker mini|vlm] [--callers 1 8 32] [--queries 64] [--rounds 3]
        [--candidates 20] [--threads 1]
    python -m benchmarks.load --http
    python -m benchmarks.load --memory

`alone` is what LlamaIndex's own postprocessors do: `asyncio.to_thread` for each call, each with its
own forwards. Both ways rank the same lists, remembered before; each caller asks its next query when
it has its answer. They are run in turn, and the ratios are of sums over the rounds of one run.
`mini` is the shipped rnx-mini, `vlm` a tiny random Qwen2-VL read by labels: its arithmetic costs
next to nothing, so it shows what sharing saves in calls, not what it saves on a GPU.

--http measures `rnx serve` over a socket: 32 clients, then five times as many as it takes. --memory
prints how much memory a process has after so many callers at once, with ever new texts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from benchmarks.mini import texts, words
from llama_index_rnx import RNXRerank, load_ranker
from llama_index_rnx.candidates import Query, candidate_of
from llama_index_rnx.memory import RAM, MemoryStore
from llama_index_rnx.rankers.vlm import save_tiny
from llama_index_rnx.ranking import Ranker, rank

Ask = Callable[[str], Awaitable[object]]


@dataclass(kw_only=True)
class Load:
    """The seconds of every answered query, and the seconds of all of them by the clock and of the
    processor.
    """

    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0

    @property
    def throughput(self) -> float:
        """Answered queries a second."""
        return len(self.seconds) / self.elapsed

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of the queries did not exceed."""
        last = len(self.seconds) - 1
        return sorted(self.seconds)[min(last, int(share * len(self.seconds)))]

    def __str__(self) -> str:
        p50, p95, slowest = (1e3 * self.quantile(share) for share in (0.5, 0.95, 1.0))
        cost = 1e3 * self.cpu / len(self.seconds)
        return (
            f"{self.throughput:6.1f} a second, {cost:4.0f} CPU ms; "
            f"p50 {p50:5.0f}, p95 {p95:5.0f}, slowest {slowest:5.0f} ms"
        )


def main() -> None:
    """Print a line for each number of callers and each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ranker", choices=["mini", "vlm"], default="mini")
    add("--callers", type=int, nargs="+", default=[1, 8, 32])
    add("--queries", type=int, default=64)
    add("--rounds", type=int, default=3)
    add("--candidates", type=int, default=20)
    threads = "of torch; 1 favours `alone`, whose threads have as many each"
    add("--threads", type=int, default=1, help=threads)
    add("--http", action="store_true")
    add("--memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.http:
        asyncio.run(over_http(args.queries, args.candidates, args.threads))
        return
    if args.memory:
        asyncio.run(memory_by_callers(args.callers, args.candidates))
        return
    with tempfile.TemporaryDirectory() as folder:
        ranker = load_ranker("rnx-mini") if args.ranker == "mini" else _tiny(Path(folder))
        nodes = texts(random.Random(0))[: args.candidates]
        for callers in args.callers:
            asyncio.run(compare(ranker, nodes, callers, args.queries, args.rounds))


def _tiny(folder: Path) -> Ranker:
    return load_ranker(
        str(save_tiny(folder)), readout="labels", dtype="float32", max_text_tokens=64
    )


async def compare(
    ranker: Ranker, nodes: list[NodeWithScore], callers: int, queries: int, rounds: int
) -> None:
    """Run both ways in turn, each on queries of its own, and print them."""
    reranker = RNXRerank(ranker=ranker, top_n=5)
    store = MemoryStore()
    candidates = [candidate_of(hit.node) for hit in nodes]

    async def shared(query: str) -> object:
        return await reranker.apostprocess_nodes(nodes, QueryBundle(query))

    async def alone(query: str) -> object:
        return await asyncio.to_thread(rank, ranker, store, Query(text=query), candidates)

    ways: dict[str, tuple[Ask, Load]] = {"shared": (shared, Load()), "alone": (alone, Load())}
    rng = random.Random(callers)
    for number in range(rounds + 1):
        for ask, load in ways.values():
            # The first round warms up and does not count.
            await drive(ask, new_queries(rng, queries), callers, load if number else Load())

    for name, (_, load) in ways.items():
        print(f"{ranker.name[-20:]:20} {callers:3} callers  {name:6} {load}", flush=True)
    ours = ways["shared"][1]
    theirs = ways["alone"][1]
    throughput = ours.throughput / theirs.throughput
    p95 = ours.quantile(0.95) / theirs.quantile(0.95)
    print(f"{'':35}ratio  {throughput:.2f} throughput, {p95:.2f} p95")


def new_queries(rng: random.Random, count: int) -> list[str]:
    """Return queries of eight words."""
    return [" ".join(words(rng, 8)) for _ in range(count)]


async def drive(ask: Ask, queries: Sequence[str], callers: int, load: Load) -> None:
    """Let so many callers ask; each takes the next query when it has its answer."""
    remaining: Iterator[str] = iter(queries)

    async def caller() -> None:
        for query in remaining:
            start = time.perf_counter()
            await ask(query)
            load.seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    cpu = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    load.elapsed += time.perf_counter() - start
    load.cpu += time.process_time() - cpu


async def memory_by_callers(counts: Sequence[int], candidates: int) -> None:
    """Print the resident memory of `RNXRerank` with rnx-mini after two rounds of so many callers.

    Each caller brings new texts; memories in RAM are bounded to 8 MiB.
    """
    RAM.limit = 8 * 2**20
    reranker = RNXRerank(model="rnx-mini", top_n=5)
    rng = random.Random(0)

    async def ask(query: str) -> object:
        nodes = [
            NodeWithScore(node=TextNode(text=f"{query} {' '.join(words(rng, 40))}"))
            for _ in range(candidates)
        ]
        return await reranker.apostprocess_nodes(nodes, QueryBundle(query))

    for callers in counts:
        await drive(ask, new_queries(rng, 2 * callers), callers, Load())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE") >> 20
        print(f"after {callers:3} callers at once  {resident} MiB resident", flush=True)


async def over_http(queries: int, candidates: int, threads: int) -> None:
    """Ask a server in another process: 32 clients, then 160 at once where 32 are let in."""
    documents = [hit.node.get_content() for hit in texts(random.Random(0))[:candidates]]
    rng = random.Random(0)
    statuses: Counter[int] = Counter()
    refused = Load()
    with serving(threads) as url:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=url, timeout=120, trust_env=False, limits=limits
        ) as client:

            async def ask(query: str) -> None:
                start = time.perf_counter()
                answer = await client.post("/rerank", json={"query": query, "documents": documents})
                statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    refused.seconds.append(time.perf_counter() - start)

            await drive(ask, ["warm up"], 1, Load())
            for callers in (1, 8, 32):
                load = Load()
                await drive(ask, new_queries(rng, queries), callers, load)
                print(f"http {callers:3} clients  {load}  {dict(statuses)}", flush=True)

            statuses.clear()
            load = Load()
            await drive(ask, new_queries(rng, 160), 160, load)
            p50, slowest = (1e3 * refused.quantile(share) for share in (0.5, 1.0))
            print(
                f"http 160 clients  {dict(statuses)}, in {load.elapsed:.1f} s; "
                f"refused: p50 {p50:.0f}, slowest {slowest:.0f} ms"
            )
            statuses.clear()
            await ask("and then?")
            print(f"afterwards        {dict(statuses)}")


@contextmanager
def serving(threads: int) -> Iterator[str]:
    """Run `rnx serve` on a free port, and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_index_rnx.cli", "serve", "--port", str(port)]
    command += ["--max-waiting", "32"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")


if __name__ == "__main__":
    main()
