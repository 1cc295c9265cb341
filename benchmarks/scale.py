"""What a large index costs: bytes a node, int8 against full vectors, gRPC against REST, one worker
against two.

    RNX_DATA=DIR python -m benchmarks.scale payloads [--limit N]
    RNX_DATA=DIR python -m benchmarks.scale memories [--limit N]
    RNX_DATA=DIR python -m benchmarks.scale quantization --server URL
    python -m benchmarks.scale wire --server URL [--rounds N]
    python -m benchmarks.scale workers --server URL [--rounds N]
    RNX_DATA=DIR python -m benchmarks.scale recall
    RNX_DATA=DIR python -m benchmarks.scale folder --server URL [--sizes N ...] [--plot FILE]

`payloads` measures what Qdrant keeps of a node without its vectors, `memories` the bytes of a text,
an image and a page; both read passages of TREC DL19 and DL21, Flickr8k dev and the pages of
mmdocir. `quantization` measures the recall of int8, alone and rescored: it takes the vectors of
those passages, kept below --work for the next time, and asks with 500 of them for their neighbours
among the others. `wire` measures upload and search, in turn; it writes random vectors, because its
times do not depend on them. `workers` runs `rnx index` with --workers 1 and 2. URL is that of a
Qdrant server to try things on: collections are made and removed there. Ratios are of runs taken in
turn. `recall` and `folder` are described in folders.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import BaseNode, TextNode
from qdrant_client import QdrantClient, models
from safetensors.numpy import load_file, save_file
from safetensors.torch import save

from benchmarks.corpora import chunks, pages, passages, photographs
from benchmarks.folders import folder, recall
from llama_index_rnx import NodeCollection, RNXEmbedding, Storage
from llama_index_rnx.candidates import Query, candidate_of
from llama_index_rnx.collection import TEXT, PreparedNode, creation_settings
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import get_or_compute_memories
from llama_index_rnx.text import bm25

# Of `wire`: nodes that are uploaded, and searches.
DIMENSIONS = 768
UPLOADED = 2_000
SEARCHES = 100

# Passages that ask for their neighbours among the others.
HELD_OUT = 500

WORDS = [
    *("river", "engine", "market", "protein", "glacier", "treaty", "violin", "harvest"),
    *("battery", "orbit", "fabric", "senate", "copper", "forest", "signal"),
]

# The environment of `rnx index`, so that its workers do not share threads.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run one part and print its lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    parts = ["payloads", "memories", "quantization", "wire", "workers", "recall", "folder"]
    add("part", choices=parts)
    add("--server", default="http://127.0.0.1:6333")
    work = "memories and files that are kept for the next run"
    add("--work", type=Path, default=Path("scale-work"), help=work)
    add("--limit", type=int, default=12_000, help="nodes of a kind")
    add("--rounds", type=int, default=5)
    add("--sizes", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000])
    add("--local", type=int, default=30_000, help="nodes that local mode gets at most")
    add("--plot", type=Path, help="a PNG of `folder`")
    args = parser.parse_args()
    if args.part == "payloads":
        payloads(args.limit)
    elif args.part == "memories":
        memories(args.work, args.limit)
    elif args.part == "quantization":
        quantization(args.server, args.work, args.limit)
    elif args.part == "wire":
        wire(args.server, args.rounds)
    elif args.part == "recall":
        recall(args.work, args.sizes)
    elif args.part == "folder":
        folder(args.server, args.work, args.sizes, args.local, args.plot)
    else:
        workers(args.server, args.work, args.rounds)


def payloads(limit: int) -> None:
    """Print the bytes of the payload as JSON, and distinct stems for BM25; no model runs."""
    for kind, nodes in _nodes_by_kind(limit).items():
        prepared = [
            PreparedNode(node=node, candidate=candidate_of(node), stamp=None) for node in nodes
        ]
        sizes = [len(json.dumps(node.payload, ensure_ascii=False).encode()) for node in prepared]
        texts = [node.candidate.text for node in prepared]
        stems = [len(bm25.document_vector(text)[0]) for text in texts]
        text_sizes = [len(text.encode()) for text in texts]
        print(
            f"{kind}: {len(prepared)} nodes, {statistics.mean(sizes):.0f} bytes of payload, of "
            f"them {statistics.mean(text_sizes):.0f} of text; {statistics.mean(stems):.0f} stems"
        )


def memories(work: Path, limit: int) -> None:
    """Print the bytes of a node's memory, and the seconds to compute it."""
    ranker = RNXEmbedding().ranker
    store = MemoryStore(work / "memories")
    for kind, nodes in _nodes_by_kind(limit).items():
        candidates = [candidate_of(node) for node in nodes]
        start = time.perf_counter()
        computed = []
        for chunk in chunks(candidates, 32):
            computed += get_or_compute_memories(ranker, chunk, store)
        seconds = time.perf_counter() - start

        sizes = [len(save(dict(memory))) for memory in computed]
        text = statistics.mean(len(candidate.text.encode()) for candidate in candidates)
        print(
            f"{kind}: {len(candidates)} nodes, {statistics.mean(sizes):.0f} bytes of memory at the "
            f"mean ({np.quantile(sizes, 0.95):.0f} at the 95th percentile), {text:.0f} bytes of "
            f"text; {seconds / len(candidates) * 1e3:.1f} ms each now "
            "(next to nothing where they were stored)"
        )
    store.close()


def quantization(server: str, work: Path, limit: int) -> None:
    """Print recall@10 and @100 against the exact search: full vectors, int8 alone, and rescored."""
    client = QdrantClient(url=server, check_compatibility=False, timeout=300)
    vectors = passage_vectors(work / f"passages-{limit}.safetensors", limit)
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    queries = vectors[:HELD_OUT].tolist()
    stored = vectors[HELD_OUT:]
    for name, storage in (("full", Storage()), ("int8", Storage(quantization="int8"))):
        collection = f"scale-{name}"
        client.delete_collection(collection)
        options = creation_settings(storage, stored.shape[1], "of a file")
        client.create_collection(collection, **options)
        upload(client, collection, stored)
        wait_until_indexed(client, collection)
        for label, params in search_settings(quantized=name == "int8"):
            line = compare_with_exact(client, collection, queries, params)
            print(f"{name:5} {label:28} {line}", flush=True)
    for name in ("full", "int8"):
        client.delete_collection(f"scale-{name}")


def upload(
    client: QdrantClient, collection: str, vectors: np.ndarray[Any, np.dtype[np.float32]]
) -> None:
    """Write the vectors as points numbered from 0, 1,000 a request."""
    for start in range(0, len(vectors), 1_000):
        chunk = vectors[start : start + 1_000].tolist()
        points = [
            models.PointStruct(id=number, vector={TEXT: vector})
            for number, vector in enumerate(chunk, start=start)
        ]
        client.upsert(collection, points=points, wait=True)


def passage_vectors(file: Path, limit: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the dense vectors of up to `limit` passages by rnx-mini, [N, 768] at unit length.

    They are read from the file where it exists, and written to it where it does not.
    """
    if not file.is_file():
        embedding = RNXEmbedding()
        texts = [node.get_content() for node in itertools.islice(passages(), limit)]
        vectors: list[list[float]] = []
        for chunk in chunks(texts, 256):
            vectors += embedding.get_text_embedding_batch(list(chunk))
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": np.array(vectors, np.float32)}, file)
    return load_file(file)["vectors"]


def search_settings(quantized: bool) -> Iterator[tuple[str, models.SearchParams]]:
    """Yield the ways to search the same collection, each with its label."""
    if not quantized:
        yield "hnsw", models.SearchParams()
        return
    alone = models.QuantizationSearchParams(rescore=False)
    yield "int8 alone", models.SearchParams(quantization=alone)
    for oversampling in (1.0, 2.0, 3.0):
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=oversampling)
        yield f"rescored, oversampling {oversampling}", models.SearchParams(quantization=rescored)


def compare_with_exact(
    client: QdrantClient,
    collection: str,
    queries: Sequence[list[float]],
    params: models.SearchParams,
) -> str:
    """Return recall against the exact search, and the milliseconds of a query."""
    full = models.QuantizationSearchParams(ignore=True)
    exact_params = models.SearchParams(exact=True, quantization=full)
    recalls: dict[int, list[float]] = {10: [], 100: []}
    seconds = []
    for vector in queries:
        exact = nearest_hundred(client, collection, vector, exact_params)
        start = time.perf_counter()
        ours = nearest_hundred(client, collection, vector, params)
        seconds.append(time.perf_counter() - start)
        for depth, values in recalls.items():
            values.append(len({*exact[:depth]} & {*ours[:depth]}) / len(exact[:depth]))
    means = ", ".join(
        f"recall@{depth} {statistics.mean(values):.4f}" for depth, values in recalls.items()
    )
    return f"{means}, {statistics.median(seconds) * 1e3:.1f} ms, {len(queries)} queries"


def nearest_hundred(
    client: QdrantClient, collection: str, vector: list[float], params: models.SearchParams
) -> list[str]:
    """Return the ids of the nearest hundred points."""
    points = client.query_points(
        collection, query=vector, using=TEXT, limit=100, search_params=params, with_payload=False
    ).points
    return [str(point.id) for point in points]


def wait_until_indexed(client: QdrantClient, collection: str) -> None:
    """Wait until the optimizer has built graph and int8 vectors of all points.

    By itself it leaves small segments as they are.
    """
    optimizers = models.OptimizersConfigDiff(indexing_threshold=100, default_segment_number=1)
    client.update_collection(collection, optimizers_config=optimizers)
    time.sleep(2)
    while client.get_collection(collection).status != models.CollectionStatus.GREEN:
        time.sleep(1)
    info = client.get_collection(collection)
    print(
        f"{collection}: {info.points_count} points, {info.indexed_vectors_count} vectors in "
        f"{info.segments_count} segments indexed"
    )


class RandomEmbedding(MultiModalEmbedding):
    """Random vectors, so that only the connection to the server takes time."""

    model_name: str = "random"

    @classmethod
    def class_name(cls) -> str:
        return "RandomEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        rng = np.random.default_rng(abs(hash(query)) % 2**32)
        return [float(x) for x in rng.standard_normal(DIMENSIONS)]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_query_embedding(text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_query_embedding(str(img_file_path))

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


def wire(server: str, rounds: int) -> None:
    """Print the seconds to upload 2,000 nodes and of 100 searches, by REST and by gRPC, with one,
    two and four batches in flight.
    """
    storages = {
        "REST, 1 in flight": Storage(batches_in_flight=1),
        "REST, 2 in flight": Storage(batches_in_flight=2),
        "REST, 4 in flight": Storage(batches_in_flight=4),
        "gRPC, 1 in flight": Storage(grpc=True, batches_in_flight=1),
        "gRPC, 2 in flight": Storage(grpc=True, batches_in_flight=2),
        "gRPC, 4 in flight": Storage(grpc=True, batches_in_flight=4),
    }
    runs = [partial(upload_and_search, server, storage) for storage in storages.values()]
    seconds = in_turn(rounds, runs)
    uploads = [[upload for upload, _ in of_run] for of_run in seconds]
    searches = [[search for _, search in of_run] for of_run in seconds]
    for label, by_run in ((f"upload of {UPLOADED:,}", uploads), (f"{SEARCHES} searches", searches)):
        for name, of_run in zip(storages, by_run, strict=True):
            print(f"{label:16} {name:18} {format_seconds(of_run, by_run[0])}")


def upload_and_search(server: str, storage: Storage) -> tuple[float, float]:
    """Return the seconds of the upload and of the searches."""
    rng = random.Random(0)
    nodes: list[BaseNode] = [
        TextNode(id_=f"n{i}", text=" ".join(rng.choices(WORDS, k=60)) + f" {i}")
        for i in range(UPLOADED)
    ]
    collection = NodeCollection(
        server, name="scale-wire", embedding=RandomEmbedding(), ranker=None, storage=storage
    )
    start = time.perf_counter()
    collection.add(nodes)
    middle = time.perf_counter()
    for i in range(SEARCHES):
        collection.search(Query(text=f"{WORDS[i % len(WORDS)]} {i}"), k=100)
    end = time.perf_counter()
    QdrantClient(url=server, check_compatibility=False).delete_collection("scale-wire")
    collection.close()
    return middle - start, end - middle


def workers(server: str, work: Path, rounds: int) -> None:
    """Print the seconds of `rnx index` of 600 texts of about 180 words, start included."""
    folder = work / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for i in range(600):
        (folder / f"{i}.txt").write_text(" ".join(rng.choices(WORDS, k=180)) + f" {i}")
    runs = [partial(run_index, server, folder, work / "new-memories", count) for count in (1, 2)]
    single, double = in_turn(rounds, runs)
    print(f"--workers 1  {format_seconds(single, single)}")
    print(f"--workers 2  {format_seconds(double, single)}")


def run_index(server: str, folder: Path, memory_path: Path, count: int) -> float:
    """Return the seconds of the command from nothing."""
    for old in memory_path.glob("*"):
        old.unlink()
    command = [sys.executable, "-m", "llama_index_rnx.cli", "index", str(folder), "--to", server]
    command += ["--collection", "scale-workers", "--memory-path", str(memory_path)]
    start = time.perf_counter()
    subprocess.run([*command, "--workers", str(count)], check=True, env=ONE_THREAD)
    seconds = time.perf_counter() - start
    QdrantClient(url=server, check_compatibility=False).delete_collection("scale-workers")
    return seconds


def in_turn(rounds: int, runs: Sequence[Callable[[], Any]]) -> list[list[Any]]:
    """Return what each run gave, taken round by round, so that a slow spell meets all runs."""
    results: list[list[Any]] = [[] for _ in runs]
    for _ in range(rounds):
        for of_run, run in zip(results, runs, strict=True):
            of_run.append(run())
    return results


def format_seconds(seconds: Sequence[float], first: Sequence[float]) -> str:
    """Return the median, the extremes, and the median ratio to the first run, round by round."""
    ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
    return (
        f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), "
        f"{ratio:.2f} times as fast as the first"
    )


def _nodes_by_kind(limit: int) -> dict[str, Iterator[BaseNode]]:
    kinds = {"text": passages(), "picture": photographs(), "page": pages()}
    return {kind: itertools.islice(nodes, limit) for kind, nodes in kinds.items()}


if __name__ == "__main__":
    main()
