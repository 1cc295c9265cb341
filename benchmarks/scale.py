"""What a large index costs: bytes a node, int8 against full vectors, gRPC against REST, one worker
against two.

    RNX_DATA=DIR python -m benchmarks.scale payloads [--limit N]            what Qdrant keeps of a node, without vectors
    RNX_DATA=DIR python -m benchmarks.scale memories [--limit N]            bytes of a text, a picture, a page
    RNX_DATA=DIR python -m benchmarks.scale quantization --server URL       recall of int8, alone and rescored
    python -m benchmarks.scale wire --server URL [--rounds N]               upload and search, in turn
    python -m benchmarks.scale workers --server URL [--rounds N]            `rnx index` with --workers 1 and 2

`payloads` and `memories` read passages of TREC DL19 and DL21, Flickr8k dev and the pages of
mmdocir. `quantization` takes the vectors of those passages, kept below --work for the next time,
and asks with 500 of them for their neighbours among the others. `wire` writes random vectors: its
times do not depend on them. URL is that of a Qdrant server to try things on: collections are made
and removed there. Ratios are of runs taken in turn.
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
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import BaseNode, ImageNode, TextNode
from qdrant_client import QdrantClient, models
from safetensors.numpy import load_file, save_file
from safetensors.torch import save

from llama_index_rnx import NodeCollection, RNXEmbedding, Storage
from llama_index_rnx.candidates import Query, candidate_of
from llama_index_rnx.collection import TEXT
from llama_index_rnx.collection import PreparedNode as _Entry
from llama_index_rnx.collection import creation_settings as _settings
from llama_index_rnx.ingestion import SourceFile, nodes_of
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import get_or_compute_memories
from llama_index_rnx.text import bm25
from training.data import data_folder, rows, trec

DIMENSIONS, WRITTEN, ASKED = 768, 2_000, 100
HELD_OUT = 500
WORDS = "river engine market protein glacier treaty violin harvest battery orbit fabric senate copper forest signal".split()  # noqa: SIM905


def main() -> None:
    """Runs one part and prints its lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["payloads", "memories", "quantization", "wire", "workers"])
    parser.add_argument("--server", default="http://127.0.0.1:6333")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("scale-work"),
        help="memories and files that are kept for the next run",
    )
    parser.add_argument("--limit", type=int, default=12_000, help="nodes of a kind")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.part == "payloads":
        payloads(args.limit)
    elif args.part == "memories":
        memories(args.work, args.limit)
    elif args.part == "quantization":
        quantization(args.server, args.work, args.limit)
    elif args.part == "wire":
        wire(args.server, args.rounds)
    else:
        workers(args.server, args.work, args.rounds)


def payloads(limit: int) -> None:
    """Bytes of the payload as JSON, and distinct stems for BM25; no model is asked."""
    for kind, nodes in (("text", passages()), ("picture", photographs()), ("page", pages())):
        found = [
            _Entry(node=node, candidate=candidate_of(node), stamp=None)
            for node in itertools.islice(nodes, limit)
        ]
        sizes = [len(json.dumps(one.payload, ensure_ascii=False).encode()) for one in found]
        stems = [len(bm25.document_vector(one.candidate.text)[0]) for one in found]
        text = [len(one.candidate.text.encode()) for one in found]
        print(
            f"{kind}: {len(found)} nodes, {statistics.mean(sizes):.0f} bytes of payload, of them "
            f"{statistics.mean(text):.0f} of text; {statistics.mean(stems):.0f} stems"
        )


def memories(work: Path, limit: int) -> None:
    """Bytes of what is kept of a node, and seconds to make it."""
    ranker, store = RNXEmbedding().ranker, MemoryStore(work / "memories")
    for kind, nodes in (("text", passages()), ("picture", photographs()), ("page", pages())):
        found = [candidate_of(node) for node in itertools.islice(nodes, limit)]
        start = time.perf_counter()
        made = [
            memory
            for part in parts(found, 32)
            for memory in get_or_compute_memories(ranker, part, store)
        ]
        seconds = time.perf_counter() - start
        sizes = [len(save(dict(memory))) for memory in made]
        payload = statistics.mean(len(one.text.encode()) for one in found)
        print(
            f"{kind}: {len(found)} nodes, {statistics.mean(sizes):.0f} bytes of memory at the mean "
            f"({np.quantile(sizes, 0.95):.0f} at the 95th percentile), {payload:.0f} bytes of text; "
            f"{seconds / len(found) * 1e3:.1f} ms each now (next to nothing where they were there)"
        )
    store.close()


def quantization(server: str, work: Path, limit: int) -> None:
    """Recall@10 and @100 against the exact search, by int8 alone, rescored, and by full vectors."""
    client = QdrantClient(url=server, check_compatibility=False, timeout=300)
    vectors = passage_vectors(work / f"passages-{limit}.safetensors", limit)
    vectors = vectors[np.random.default_rng(0).permutation(len(vectors))]
    wanted, kept = vectors[:HELD_OUT].tolist(), vectors[HELD_OUT:]
    for name, storage in (("full", Storage()), ("int8", Storage(quantization="int8"))):
        client.delete_collection(f"scale-{name}")
        client.create_collection(f"scale-{name}", **_settings(storage, kept.shape[1], "of a file"))
        for start in range(0, len(kept), 1_000):
            part = enumerate(kept[start : start + 1_000].tolist(), start=start)
            points = [
                models.PointStruct(id=number, vector={TEXT: vector}) for number, vector in part
            ]
            client.upsert(f"scale-{name}", points=points, wait=True)
        indexed_whole(client, f"scale-{name}")
        for label, params in settings(quantized=name == "int8"):
            print(
                f"{name:5} {label:28} {compared(client, f'scale-{name}', wanted, params)}",
                flush=True,
            )
    for name in ("full", "int8"):
        client.delete_collection(f"scale-{name}")


def passage_vectors(file: Path, limit: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The dense vectors of up to `limit` passages by rnx-mini, [N, 768] at unit length; from the
    file if it is there.
    """
    if not file.is_file():
        embedding, texts = (
            RNXEmbedding(),
            [node.get_content() for node in itertools.islice(passages(), limit)],
        )
        found = [
            vector
            for part in parts(texts, 256)
            for vector in embedding.get_text_embedding_batch(list(part))
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": np.array(found, np.float32)}, file)
    return load_file(file)["vectors"]


def settings(quantized: bool) -> Iterator[tuple[str, models.SearchParams]]:
    """How the same collection is searched."""
    if not quantized:
        yield "hnsw", models.SearchParams()
        return
    alone = models.QuantizationSearchParams(rescore=False)
    yield "int8 alone", models.SearchParams(quantization=alone)
    for oversampling in (1.0, 2.0, 3.0):
        rescored = models.QuantizationSearchParams(rescore=True, oversampling=oversampling)
        yield f"rescored, oversampling {oversampling}", models.SearchParams(quantization=rescored)


def compared(
    client: QdrantClient, name: str, wanted: Sequence[list[float]], params: models.SearchParams
) -> str:
    """Recall against the exact search, and the milliseconds of a query."""
    shares: dict[int, list[float]] = {10: [], 100: []}
    seconds = []
    for vector in wanted:
        exact = found(client, name, vector, models.SearchParams(exact=True, quantization=FULL))
        start = time.perf_counter()
        ours = found(client, name, vector, params)
        seconds.append(time.perf_counter() - start)
        for depth, kept in shares.items():
            kept.append(len({*exact[:depth]} & {*ours[:depth]}) / len(exact[:depth]))
    recalls = ", ".join(
        f"recall@{depth} {statistics.mean(kept):.4f}" for depth, kept in shares.items()
    )
    return f"{recalls}, {statistics.median(seconds) * 1e3:.1f} ms, {len(wanted)} queries"


FULL = models.QuantizationSearchParams(ignore=True)


def found(
    client: QdrantClient, name: str, vector: list[float], params: models.SearchParams
) -> list[str]:
    """The ids of the nearest hundred."""
    points = client.query_points(
        name, query=vector, using=TEXT, limit=100, search_params=params, with_payload=False
    ).points
    return [str(point.id) for point in points]


def indexed_whole(client: QdrantClient, name: str) -> None:
    """Waits until the optimizer has built graph and int8 vectors of all; by itself it leaves small
    segments as they are.
    """
    client.update_collection(
        name,
        optimizers_config=models.OptimizersConfigDiff(
            indexing_threshold=100, default_segment_number=1
        ),
    )
    time.sleep(2)
    while client.get_collection(name).status != models.CollectionStatus.GREEN:
        time.sleep(1)
    info = client.get_collection(name)
    print(
        f"{name}: {info.points_count} points, {info.indexed_vectors_count} vectors in {info.segments_count} segments indexed"
    )


class Ready(MultiModalEmbedding):
    """Random vectors, so that only the line to the server takes time."""

    model_name: str = "random"

    @classmethod
    def class_name(cls) -> str:
        return "Ready"

    def _get_query_embedding(self, query: str) -> list[float]:
        rng = np.random.default_rng(abs(hash(query)) % 2**32)
        return [float(x) for x in rng.standard_normal(DIMENSIONS)]

    _get_text_embedding = _get_query_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_query_embedding(str(img_file_path))

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


def wire(server: str, rounds: int) -> None:
    """Upload of 2,000 nodes and 100 searches, by REST and by gRPC, with one, two and four batches
    in flight.
    """
    ways = {
        "REST, 1 in flight": Storage(batches_in_flight=1),
        "REST, 2 in flight": Storage(batches_in_flight=2),
        "REST, 4 in flight": Storage(batches_in_flight=4),
        "gRPC, 1 in flight": Storage(grpc=True, batches_in_flight=1),
        "gRPC, 2 in flight": Storage(grpc=True, batches_in_flight=2),
        "gRPC, 4 in flight": Storage(grpc=True, batches_in_flight=4),
    }
    runs = [
        lambda storage=storage: uploaded_and_searched(server, storage) for storage in ways.values()
    ]
    upload, search = zip(*[zip(*kept, strict=True) for kept in in_turn(rounds, runs)], strict=True)
    for label, seconds in (("upload of 2,000", upload), ("100 searches", search)):
        for name, own in zip(ways, seconds, strict=True):
            print(f"{label:16} {name:18} {shown(own, seconds[0])}")


def uploaded_and_searched(server: str, storage: Storage) -> tuple[float, float]:
    """Seconds of both."""
    rng = random.Random(0)
    nodes: list[BaseNode] = [
        TextNode(id_=f"n{i}", text=" ".join(rng.choices(WORDS, k=60)) + f" {i}")
        for i in range(WRITTEN)
    ]
    collection = NodeCollection(
        server, name="scale-wire", embedding=Ready(), ranker=None, storage=storage
    )
    start = time.perf_counter()
    collection.add(nodes)
    middle = time.perf_counter()
    for i in range(ASKED):
        collection.search(Query(text=f"{WORDS[i % len(WORDS)]} {i}"), k=100)
    end = time.perf_counter()
    QdrantClient(url=server, check_compatibility=False).delete_collection("scale-wire")
    collection.close()
    return middle - start, end - middle


def workers(server: str, work: Path, rounds: int) -> None:
    """`rnx index` of 600 texts of about 180 words, start of the processes included."""
    folder = work / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for i in range(600):
        (folder / f"{i}.txt").write_text(" ".join(rng.choices(WORDS, k=180)) + f" {i}")
    runs = [
        lambda count=count: indexed(server, folder, work / "new-memories", count)
        for count in (1, 2)
    ]
    one, two = in_turn(rounds, runs)
    print(f"--workers 1  {shown(one, one)}\n--workers 2  {shown(two, one)}")


def indexed(server: str, folder: Path, memory_path: Path, count: int) -> float:
    """Seconds of the command from nothing."""
    for old in memory_path.glob("*"):
        old.unlink()
    command = [
        "index",
        str(folder),
        "--to",
        server,
        "--collection",
        "scale-workers",
        "--memory-path",
        str(memory_path),
    ]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "llama_index_rnx.cli", *command, "--workers", str(count)],
        check=True,
        env=ONE_THREAD,
    )
    seconds = time.perf_counter() - start
    QdrantClient(url=server, check_compatibility=False).delete_collection("scale-workers")
    return seconds


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def in_turn(rounds: int, runs: Sequence[Callable[[], Any]]) -> list[list[Any]]:
    """What each run gave, round by round, so that a slow spell meets all."""
    kept: list[list[Any]] = [[] for _ in runs]
    for _ in range(rounds):
        for own, run in zip(kept, runs, strict=True):
            own.append(run())
    return kept


def shown(seconds: Sequence[float], first: Sequence[float]) -> str:
    """The median, the extremes, and the median of the ratios to the first way, round by round."""
    ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} .. {max(seconds):.2f}), {ratio:.2f} times as fast as the first"


def passages() -> Iterator[BaseNode]:
    """The distinct passages of DL19's and DL21's first stages."""
    seen: set[str] = set()
    for name, stages in (("dl19", ["bm25", "splade"]), ("dl21", ["bm25", "splade"])):
        for of in trec(name, stages):
            for docid, text in zip(of.docids, of.texts, strict=True):
                if docid not in seen:
                    seen.add(docid)
                    yield TextNode(id_=docid, text=text)


def photographs() -> Iterator[BaseNode]:
    """Flickr8k's development split."""
    for row in rows(data_folder() / "flickr8k" / "dev.jsonl.gz"):
        yield ImageNode(id_=row["image"], image_path=str(data_folder() / "flickr8k" / row["image"]))


def pages() -> Iterator[BaseNode]:
    """The pages of mmdocir's documents, text and image."""
    for document in rows(data_folder() / "mmdocir" / "questions.jsonl.gz"):
        path = data_folder() / "mmdocir" / "pdfs" / document["doc_name"]
        yield from nodes_of(SourceFile(path=path, docid=path.name))


def parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """In runs of `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


if __name__ == "__main__":
    main()
