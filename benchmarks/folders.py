"""A folder against a server and local mode, at several sizes; and what its searches find.

`folder` writes nodes into all three: seconds to write, to optimize, and to open and ask in a
process of its own, with the memory that takes; then the milliseconds of `RNXRetriever(top_k=100)`
with and without a filter, asked in turn. `recall` asks the engine of a folder for the nearest
hundred by one kind of vector, before and after it is optimized, filtered, after deletions and by
int8, against an exact search by NumPy.

Vectors are those of rnx-mini for passages of TREC DL19 and DL21, photographs of Flickr8k and the
questions of TREC; larger sizes are drawn around them (`corpora.draw_around`). They are computed
once and kept below --work. No model runs after that.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, ImageNode, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
from PIL import Image
from qdrant_client import QdrantClient, models

from benchmarks.corpora import (
    RealVectors,
    Vectors,
    chunks,
    grow,
    heads,
    questions,
    real_vectors,
)
from llama_index_rnx import NodeCollection, RNXEmbedding, RNXRetriever, Storage
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.collection import TEXT, creation_settings
from llama_index_rnx.collection.edge import EdgeClient
from llama_index_rnx.embed import Vectors as NodeVectors
from llama_index_rnx.memory import Memory
from llama_index_rnx.system import size_on_disk

PASSAGES = 6_000
IMAGES = 500

# Every tenth node is an image.
IMAGE_EVERY = 10
TOP_K = 100

# Of `recall`: the part of the points that is deleted, drawn by chance.
DELETED = 1 / 8

# Of `recall`: the name of the vectors of images, one channel as a search fuses it, and how int8
# vectors are searched.
IMAGE = "image"
RRF = models.RrfQuery(rrf=models.Rrf(k=60))
INT8 = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=Storage().oversampling)
)
NAME = "scale-folder"
ENGINES = ("folder", "server", "local mode")

# Searches of one kind in a process; local mode takes seconds for each.
SEARCHES = 40
LOCAL_SEARCHES = 6

# The filter leaves a twentieth of the nodes; its field has an index where there are any.
YEARS = 20
STORAGE = Storage(metadata_indexes={"year": "integer"})
ONE_YEAR = MetadataFilters(
    filters=[MetadataFilter(key="year", value=7, operator=FilterOperator.EQ)]
)


class StoredEmbedding(RNXEmbedding):
    """Vectors that were computed before: of a node by the number in its id, of a query by its
    place among the questions.
    """

    _rows: Vectors
    _queries: dict[str, Vectors]

    def __init__(self, rows: Vectors, queries: dict[str, Vectors]) -> None:
        super().__init__()
        self._rows = rows
        self._queries = queries

    @property
    def ranker(self) -> Any:
        """What a collection must know of a model."""
        return SimpleNamespace(
            fingerprint="stored", dimensions=768, image_calibration=(30.0, -10.0)
        )

    def vectors(
        self, candidates: Sequence[Candidate], memories: Sequence[Memory] | None = None
    ) -> list[NodeVectors]:
        """Return the stored vectors."""
        vectors = []
        for candidate in candidates:
            row = self._rows[int(candidate.id)].tolist()
            is_image = candidate.image is not None
            vectors.append(
                NodeVectors(text=None if is_image else row, image=row if is_image else None)
            )
        return vectors

    def query_vector(self, query: Query) -> list[float]:
        """Return the stored vector of a question."""
        return [float(x) for x in self._queries[query.text]]


def folder(server: str, work: Path, sizes: Sequence[int], local: int, plot: Path | None) -> None:
    """Print a line for each engine and size, as the module describes."""
    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for size in sizes:
        engines = ENGINES if size <= local else ENGINES[:2]
        locations = {engine: _location(engine, server, work) for engine in engines}
        rows = {engine: _write(engine, locations[engine], size, work) for engine in engines}
        for engine in engines:
            rows[engine] |= _open_in_a_process(engine, locations[engine], work)
        for engine, milliseconds in _ask_in_turn(locations, work).items():
            rows[engine] |= milliseconds
        for engine, row in rows.items():
            results[engine].append(row)
            print(_line(engine, row), flush=True)
            _remove(engine, locations[engine])
    if plot is not None:
        draw_plot(results, plot)


def probe(engine: str, location: str, work: Path) -> None:
    """Print the seconds to open and ask an index, and the memory it takes, as JSON; run in a
    process of its own.
    """
    embedding = StoredEmbedding(np.zeros((0, 768), np.float32), _queries(work))
    memory = _resident_bytes()
    start = time.perf_counter()
    collection = _open(engine, location, embedding)
    collection.search(Query(text=next(iter(embedding._queries))), k=TOP_K)
    opening = time.perf_counter() - start
    print(json.dumps({"opening": opening, "memory": (_resident_bytes() - memory) / 2**20}))
    collection.close()


def _ask_in_turn(locations: dict[str, str], work: Path) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of a query of each engine, without and with a filter. They are
    asked in turn, so that a slow spell meets all.
    """
    embedding = StoredEmbedding(np.zeros((0, 768), np.float32), _queries(work))
    collections = {name: _open(name, location, embedding) for name, location in locations.items()}
    milliseconds: dict[str, dict[str, float]] = {name: {} for name in locations}

    # Local mode holds each point as objects of Python, which the collector of garbage would look
    # through while others are asked.
    gc.freeze()
    for label, filters in (("query", None), ("filtered", ONE_YEAR)):
        seconds: dict[str, list[float]] = {name: [] for name in locations}
        _warm_up([collections[name] for name in locations if name != "local mode"], filters)
        for number, text in enumerate(questions()[: 1 + SEARCHES]):
            for name, collection in collections.items():
                if name == "local mode" and number > LOCAL_SEARCHES:
                    continue
                start = time.perf_counter()
                RNXRetriever(collection, TOP_K, filters).retrieve(text)
                seconds[name].append(time.perf_counter() - start)
        for name, values in seconds.items():
            # The first one of local mode also reads what the others find in memory.
            milliseconds[name][label] = statistics.median(values[1:]) * 1e3
    for collection in collections.values():
        collection.close()
    return milliseconds


def _warm_up(collections: Sequence[NodeCollection], filters: MetadataFilters | None) -> None:
    """Ask other questions, as an index that is in use was asked: the engine of a folder reads from
    the disk what its first searches touch.
    """
    for collection in collections:
        for text in questions()[1 + SEARCHES : 1 + 3 * SEARCHES]:
            RNXRetriever(collection, TOP_K, filters).retrieve(text)


def _write(engine: str, location: str, size: int, work: Path) -> dict[str, float]:
    """Write the nodes, and return the seconds of that and of optimizing, and the size on disk."""
    rng = np.random.default_rng(0)
    rows = _rows(_vectors(work), size, rng)
    collection = _open(engine, location, StoredEmbedding(rows, {}))
    start = time.perf_counter()
    for first in range(0, size, 5_000):
        collection.add(list(_nodes(first, min(5_000, size - first), work)), show_progress=False)
    writing = time.perf_counter() - start

    start = time.perf_counter()
    collection.optimize()
    if engine == "server":
        _wait_until_green(location)
    optimizing = time.perf_counter() - start
    collection.close()
    result = {"nodes": float(size), "writing": writing, "optimizing": optimizing}
    if engine != "server":
        result["disk"] = size_on_disk(Path(location)) / 2**20
    return result


def _nodes(first: int, count: int, work: Path) -> Iterator[BaseNode]:
    texts = _texts(work)
    for number in range(first, first + count):
        metadata = {"year": number * 7_919 % YEARS}
        if number % IMAGE_EVERY == 0:
            yield ImageNode(id_=str(number), image=_png(number), metadata=metadata)
        else:
            text = f"{texts[number % len(texts)]} {texts[number * 31 % len(texts)]} {number}"
            yield TextNode(id_=str(number), text=text, metadata=metadata)


def _rows(real: RealVectors, size: int, rng: np.random.Generator) -> Vectors:
    """Return the vector of each node, [size, 768]."""
    image_count = -(-size // IMAGE_EVERY)
    images = grow(real.images, image_count, rng)
    passages = grow(real.passages, size - image_count, rng)
    rows = np.empty((size, passages.shape[1]), np.float32)
    is_image = np.arange(size) % IMAGE_EVERY == 0
    rows[is_image] = images
    rows[~is_image] = passages
    return rows


def _open(engine: str, location: str, embedding: StoredEmbedding) -> NodeCollection:
    target = QdrantClient(path=location) if engine == "local mode" else location
    return NodeCollection(
        target,
        name=NAME,
        embedding=embedding,
        ranker=None,
        memory_path="memory://scale",
        storage=Storage() if engine == "local mode" else STORAGE,
    )


def _location(engine: str, server: str, work: Path) -> str:
    return server if engine == "server" else str(work / engine.replace(" ", "-"))


def _remove(engine: str, location: str) -> None:
    if engine == "server":
        QdrantClient(url=location, check_compatibility=False).delete_collection(NAME)
    else:
        shutil.rmtree(location)


def _wait_until_green(server: str) -> None:
    client = QdrantClient(url=server, check_compatibility=False, timeout=300)
    time.sleep(2)
    while client.get_collection(NAME).status != models.CollectionStatus.GREEN:
        time.sleep(0.5)


def _open_in_a_process(engine: str, location: str, work: Path) -> dict[str, float]:
    program = "import sys; from pathlib import Path; from benchmarks.folders import probe; "
    program += "probe(sys.argv[1], sys.argv[2], Path(sys.argv[3]))"
    command = [sys.executable, "-c", program, engine, location, str(work)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _line(engine: str, result: dict[str, float]) -> str:
    disk = f"{result['disk']:.0f} MiB on disk" if "disk" in result else ""
    return (
        f"{engine:10} {result['nodes']:>9,.0f} nodes: a query {result['query']:.1f} ms, filtered "
        f"{result['filtered']:.1f} ms, opened and asked {result['opening']:.2f} s, written "
        f"{result['writing']:.1f} s, optimized {result['optimizing']:.1f} s, "
        f"{result['memory']:.0f} MiB of memory more {disk}"
    )


def draw_plot(results: dict[str, list[dict[str, float]]], file: Path) -> None:
    """Draw milliseconds of a query over the number of nodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for (engine, rows), style in zip(results.items(), ("o-", "s--", "^:"), strict=True):
        rows = sorted(rows, key=lambda row: row["nodes"])
        sizes = [row["nodes"] for row in rows]
        axes.loglog(sizes, [row["query"] for row in rows], style, label=engine)
    axes.set_xlabel("nodes")
    axes.set_ylabel("milliseconds of a query, top 100")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150)


def _png(number: int) -> str:
    """Return a small image as base64, another one for each number."""
    colour = (number % 256, number // 256 % 256, number // 65_536 % 256)
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _vectors(work: Path) -> RealVectors:
    return real_vectors(work / f"rnx-mini-{PASSAGES}.safetensors", PASSAGES, IMAGES)


def _queries(work: Path) -> dict[str, Vectors]:
    return dict(zip(questions(), _vectors(work).questions, strict=True))


def recall(work: Path, sizes: Sequence[int]) -> None:
    """Print recall@100 of a folder's engine for passages and images, as the module describes."""
    real = _vectors(work)
    for size in sizes:
        rng = np.random.default_rng(0)
        passages = grow(real.passages, size, rng)
        _measure_kind(work, TEXT, passages, real.questions, quantized=False)
        _measure_kind(work, TEXT, passages, real.questions, quantized=True)
        images = grow(real.images, size, rng)
        _measure_kind(work, IMAGE, images, real.captions[:200], quantized=False)


def _measure_kind(
    work: Path, kind: str, stored: Vectors, queries: Vectors, quantized: bool
) -> None:
    """Measure one kind of vectors. Another tenth of the points has vectors of the other kind only,
    as in an index of texts and images.
    """
    folder = work / "recall"
    shutil.rmtree(folder, ignore_errors=True)
    client = EdgeClient(folder)
    storage = Storage(quantization="int8" if quantized else None)
    client.create_collection(NAME, **creation_settings(storage, stored.shape[1], "of a file"))
    client.create_payload_index(NAME, "part", models.PayloadSchemaType.FLOAT)
    other = IMAGE if kind == TEXT else TEXT
    part = np.random.default_rng(1).random(len(stored))
    ids = np.arange(len(stored) + len(stored) // 10)
    _upsert(client, kind, stored, part, ids[: len(stored)])
    _upsert(client, other, stored[: len(stored) // 10], part, ids[len(stored) :])

    def report(stage: str, is_there: np.ndarray[Any, Any], below: float = 1.0) -> None:
        allowed = is_there & (part < below)
        line = _recall_line(client, kind, stored, queries, allowed, below, quantized)
        name = f"{kind}{', int8' if quantized else ''}"
        print(f"{len(stored):>7,} {name:11} {stage:34} {line}", flush=True)

    everything = np.ones(len(stored), bool)
    report("not optimized", everything)
    client.optimize(NAME)
    report("optimized", everything)
    for below in (0.5, 0.1, 0.01):
        report(f"a filter leaves {below:.0%}", everything, below)

    kept = np.random.default_rng(2).random(len(stored)) > DELETED
    numbers = np.flatnonzero(~kept)
    client.delete(NAME, models.PointIdsList(points=numbers.tolist()))
    report("an eighth deleted", kept)
    _upsert(client, kind, stored[numbers], part[numbers], numbers)
    report("and added again", everything)
    client.optimize(NAME)
    report("and optimized", everything)
    client.close()
    shutil.rmtree(folder)


def _upsert(
    client: EdgeClient,
    kind: str,
    vectors: Vectors,
    part: np.ndarray[Any, Any],
    ids: np.ndarray[Any, Any],
) -> None:
    """Write vectors as points with these ids, and a number in [0, 1) each to filter by."""
    rows = zip(ids.tolist(), vectors, part.tolist(), strict=False)
    for chunk in chunks(list(rows), 1_000):
        points = [
            models.PointStruct(id=number, vector={kind: vector.tolist()}, payload={"part": value})
            for number, vector, value in chunk
        ]
        client.upsert(NAME, points)


def _recall_line(
    client: EdgeClient,
    kind: str,
    stored: Vectors,
    queries: Vectors,
    allowed: np.ndarray[Any, Any],
    below: float,
    quantized: bool,
) -> str:
    """Return mean and least recall@100 and the milliseconds of a search."""
    limit = models.Range(lt=below)
    condition = models.Filter(must=[models.FieldCondition(key="part", range=limit)])
    depth = min(TOP_K, int(allowed.sum()))
    recalls = []
    seconds = []
    for query in queries:
        prefetch = models.Prefetch(
            query=query.tolist(),
            using=kind,
            limit=depth,
            filter=condition if below < 1 else None,
            params=INT8 if quantized else None,
        )
        start = time.perf_counter()
        response = client.query_points(
            NAME, prefetch=[prefetch], query=RRF, limit=depth, with_payload=False
        )
        seconds.append(time.perf_counter() - start)

        cosines = np.where(allowed, stored @ query, -2)
        exact = np.argpartition(-cosines, depth - 1)[:depth]
        recalls.append(
            len({int(point.id) for point in response.points} & {*exact.tolist()}) / depth
        )
    return (
        f"recall@100 {np.mean(recalls):.4f}, least {min(recalls):.2f}, "
        f"{statistics.median(seconds) * 1e3:.1f} ms, {len(recalls)} queries"
    )


_cached_texts: list[str] = []


def _texts(work: Path) -> list[str]:
    """Return the texts of the passages; read once."""
    if not _cached_texts:
        _cached_texts.extend(heads(PASSAGES))
    return _cached_texts


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
