"""What the benchmarks of large indexes index: passages, photographs and pages of the development
data, vectors of rnx-mini, and vectors drawn around them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import BaseNode, ImageNode, TextNode
from safetensors.numpy import load_file, save_file

from llama_index_rnx import RNXEmbedding
from llama_index_rnx.ingestion import SourceFile, nodes_of
from training.data import DataFolder, trec

Vectors = np.ndarray[Any, np.dtype[np.float32]]

# Words of a passage that are embedded: a quarter of the time of whole ones.
HEAD_WORDS = 25

# A drawn vector lies between two near ones, this far from the first, with noise of this length.
BETWEEN = (0.2, 0.8)
NOISE = 0.25
NEAR = 10


@dataclass(frozen=True, kw_only=True)
class RealVectors:
    """Vectors of rnx-mini, at unit length: [N, 768] of passages, [M, 768] of photographs, whose
    half for texts is zero, and [Q, 768] of questions and of captions that ask for photographs.
    """

    passages: Vectors
    images: Vectors
    questions: Vectors
    captions: Vectors


def real_vectors(file: Path, passage_count: int, image_count: int) -> RealVectors:
    """Return real vectors; they are read from the file where it exists, and written to it where it
    does not.
    """
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        vectors = _embed(passage_count, image_count)
        save_file({name: np.array(rows, np.float32) for name, rows in vectors.items()}, file)
    return RealVectors(**load_file(file))


def questions() -> list[str]:
    """Return the questions of TREC DL19, DL21 and DL22."""
    folder = DataFolder.from_environment()
    names = ("dl19", "dl21", "dl22")
    return [row["query"] for name in names for row in folder.rows(f"trec/{name}.bm25.jsonl.gz")]


def heads(limit: int) -> list[str]:
    """Return the first words of up to `limit` passages."""
    nodes = itertools.islice(passages(), limit)
    return [" ".join(node.get_content().split()[:HEAD_WORDS]) for node in nodes]


def draw_around(vectors: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Return `count` vectors that lie as real ones do: each between a real vector and one of the
    ten nearest, moved a little in any direction, [count, 768] at unit length.
    """
    drawn = []
    for size in _sizes(count, 2_000):
        first = rng.integers(0, len(vectors), size)
        cosines = vectors[first] @ vectors.T
        near = np.argpartition(-cosines, NEAR + 1, axis=1)[:, : NEAR + 1]
        second = near[np.arange(size), rng.integers(0, NEAR + 1, size)]
        part = rng.uniform(*BETWEEN, (size, 1))
        noise = rng.standard_normal((size, vectors.shape[1]))
        # Images have no half for texts, drawn ones neither.
        noise *= vectors[first] != 0
        noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
        rows = (1 - part) * vectors[first] + part * vectors[second] + noise
        drawn.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return np.concatenate(drawn).astype(np.float32)


def grow(vectors: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Return `count` vectors: real ones, and drawn ones beyond them."""
    if count <= len(vectors):
        return vectors[:count]
    return np.concatenate([vectors, draw_around(vectors, count - len(vectors), rng)])


def passages() -> Iterator[BaseNode]:
    """Yield the distinct passages of DL19's and DL21's first stages."""
    folder = DataFolder.from_environment()
    docids: set[str] = set()
    for name in ("dl19", "dl21"):
        for graded_list in trec(folder, name, ["bm25", "splade"]):
            for docid, text in zip(graded_list.docids, graded_list.texts, strict=True):
                if docid not in docids:
                    docids.add(docid)
                    yield TextNode(id_=docid, text=text)


def photographs() -> Iterator[BaseNode]:
    """Yield the images of Flickr8k's development split."""
    folder = DataFolder.from_environment()
    for row in folder.rows("flickr8k/dev.jsonl.gz"):
        path = folder.path / "flickr8k" / row["image"]
        yield ImageNode(id_=row["image"], image_path=str(path))


def pages() -> Iterator[BaseNode]:
    """Yield the pages of mmdocir's documents, text and image."""
    folder = DataFolder.from_environment()
    for document in folder.rows("mmdocir/questions.jsonl.gz"):
        path = folder.path / "mmdocir" / "pdfs" / document["doc_name"]
        yield from nodes_of(SourceFile(path=path, docid=path.name))


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield runs of `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _embed(passage_count: int, image_count: int) -> dict[str, list[list[float]]]:
    embedding = RNXEmbedding()
    folder = DataFolder.from_environment()
    rows = itertools.islice(folder.rows("flickr8k/dev.jsonl.gz"), image_count)
    images = [node.image_path for node in itertools.islice(photographs(), image_count)]
    return {
        "questions": [embedding.get_query_embedding(text) for text in questions()],
        "captions": [embedding.get_query_embedding(row["captions"][0]) for row in rows],
        "images": embedding.get_image_embedding_batch(images),
        "passages": [
            vector
            for chunk in chunks(heads(passage_count), 256)
            for vector in embedding.get_text_embedding_batch(list(chunk))
        ],
    }


def _sizes(total: int, at_most: int) -> Iterator[int]:
    for start in range(0, total, at_most):
        yield min(at_most, total - start)
