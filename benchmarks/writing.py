"""What writing costs beside the model: milliseconds a node of `NodeCollection.add`, and a file of
`rnx index` without its start.

    python -m benchmarks.writing [--to URL] [--sizes 5000 50000] [--rounds N] [--against REF]

Four things are timed for each size, each by the clock and by the processor's time of this process
(a server's is not in it): nodes that are new, the same nodes again, text files that are new (with
reading and cutting them), and the same files again. The nodes have texts of 100 words and vectors
of 384 random numbers, which no model makes. Without --to they go into a new folder, otherwise to a
Qdrant server to try things on: collections are made and removed there. With --against the package
as it is at another commit runs in turn with this one, and the ratios are those of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import TextNode
from qdrant_client import QdrantClient

from llama_index_rnx import NodeCollection
from llama_index_rnx.ingestion import index_paths

ROOT = Path(__file__).parents[1]
WORDS_A_TEXT = 100
VOCABULARY = 20_000
FILES_A_FOLDER = 200

# Vectors are drawn from so many, so that drawing them takes no time.
VECTORS = np.random.default_rng(0).standard_normal((1_000, 384), np.float32).tolist()

# What was done, and its milliseconds an item: by the clock, and by the processor.
Timings = dict[str, tuple[float, float]]


class PooledEmbedding(MultiModalEmbedding):
    """Vectors that are there already, one for each text."""

    model_name: str = "pooled"

    @classmethod
    def class_name(cls) -> str:
        return "PooledEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = VECTORS[len(query) % len(VECTORS)]
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_query_embedding(text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [self._get_query_embedding(text) for text in texts]

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_query_embedding(str(img_file_path))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


def main() -> None:
    """Print a line for each size and each thing that is timed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--to", help="the URL of a Qdrant server; by default a new folder")
    add("--sizes", type=int, nargs="+", default=[5_000], help="nodes, and files")
    add("--rounds", type=int, default=3)
    add("--against", metavar="REF", help="a commit to compare with")
    add("--once", action="store_true", help="time the package that is imported, and print JSON")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(time_writing(args.to, args.sizes[0])))
        return

    with tempfile.TemporaryDirectory() as exported:
        trees = {"": ROOT}
        if args.against:
            export(args.against, Path(exported))
            trees[args.against] = Path(exported)
        for size in args.sizes:
            rounds = [
                {ref: run_once(tree, args.to, size) for ref, tree in trees.items()}
                for _ in range(args.rounds)
            ]
            print_size(size, rounds, args.against)


def export(ref: str, folder: Path) -> None:
    """Write the package as it is at a commit below the folder."""
    archive = subprocess.run(
        ["git", "archive", ref, "llama_index_rnx"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def run_once(tree: Path, to: str | None, size: int) -> Timings:
    """Return the timings of the package below `tree`, in a process of its own."""
    # With -P the modules beside this file hide no others.
    command = [sys.executable, "-P", __file__, "--once", "--sizes", str(size)]
    command += ["--to", to] if to else []
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    output = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout
    timings: Timings = json.loads(output)
    return timings


def time_writing(to: str | None, size: int) -> Timings:
    """Return the milliseconds a node and a file, of new ones and of the same again."""
    rng = random.Random(0)
    words = [f"word{number}" for number in range(VOCABULARY)]
    # A few words are frequent and most are rare, as in any language.
    weights = list(itertools.accumulate(1 / rank for rank in range(1, VOCABULARY + 1)))
    texts = [
        f"{' '.join(rng.choices(words, cum_weights=weights, k=WORDS_A_TEXT))} {number}"
        for number in range(size)
    ]
    nodes = [
        TextNode(id_=f"node-{number}", text=text, metadata={"source": f"{number // 3}.txt"})
        for number, text in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        docs = write_files(folder / "docs", texts)
        added = time_twice(
            to, folder / "nodes", size, lambda index: index.add(nodes, show_progress=False)
        )
        indexed = time_twice(
            to, folder / "files", size, lambda index: index_paths(index, [docs], False)
        )
    names = ("new nodes", "the same again", "new files", "unchanged files")
    return dict(zip(names, [*added, *indexed], strict=True))


def write_files(folder: Path, texts: list[str]) -> Path:
    """Write each text into a file below the folder, and return the folder."""
    for number, text in enumerate(texts):
        file = folder / str(number // FILES_A_FOLDER) / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def time_twice(
    to: str | None, folder: Path, size: int, write: Callable[[NodeCollection], Any]
) -> list[tuple[float, float]]:
    """Return the milliseconds an item of writing into a new collection, and of doing so again."""
    name = f"writing-{uuid.uuid4().hex}"
    location = to or str(folder)
    index = NodeCollection(
        location, name=name, embedding=PooledEmbedding(), ranker=None, memory_path=folder
    )
    timings = [milliseconds(lambda: write(index), size) for _ in range(2)]
    index.close()
    if to:
        QdrantClient(url=to, check_compatibility=False).delete_collection(name)
    return timings


def milliseconds(action: Callable[[], Any], size: int) -> tuple[float, float]:
    """Return the milliseconds an item, by the clock and by the processor's time of this process."""
    # Otherwise the collector looks through all imported modules now and then: by chance.
    gc.collect()
    gc.freeze()
    clock = time.perf_counter()
    processor = time.process_time()
    action()
    of_processor = time.process_time() - processor
    of_clock = time.perf_counter() - clock
    return of_clock / size * 1e3, of_processor / size * 1e3


def print_size(size: int, rounds: Sequence[Mapping[str, Timings]], against: str | None) -> None:
    """Print the medians of the rounds, and their ratios to those of the other commit."""
    for name in rounds[0][""]:
        line = f"{size:,} {name:16}"
        for kind, unit in enumerate(("ms", "ms of the processor")):
            ours = [timings[""][name][kind] for timings in rounds]
            line += f"  {statistics.median(ours):.3f} {unit}"
            if against:
                theirs = [timings[against][name][kind] for timings in rounds]
                pairs = zip(ours, theirs, strict=True)
                ratio = statistics.median(mine / reference for mine, reference in pairs)
                line += f" ({statistics.median(theirs):.3f} at {against}, ratio {ratio:.2f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
