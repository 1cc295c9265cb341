"""In which form the encoders of rnx-mini are fastest, and what each form costs: as it ships, on
onnxruntime, and fp32, bf16, fp16 and int8 in torch and OpenVINO.

    RNX_DATA=DIR python -m benchmarks.mini_forms [--threads 2] [--topics 10] [--pictures 32]

Texts are the segments of RAG24 dev topics, ordered by their cosine with the topic alone; images are
those of Flickr8k dev. It prints milliseconds of wall clock and of the processor for each text and
image, nDCG@10, and the least cosine with fp32. What ships has as many threads as the process has
cores (`taskset` gives fewer), and its rows hold all that is remembered, not the encoders alone.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llama_index_rnx.candidates import Candidate, ImageSource, file_source
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini import IMAGE_PIXELS, load_mini, model_folder, preprocess
from training.bi_encoder import read_pairs
from training.data import DataFolder, GradedList, rag24
from training.evaluation import evaluate, mean, qrels_of, run_of
from training.mini import MiniModel, pad_ids, pool, read_mini

# Texts and images of a batch, and word pieces of a text at most.
TEXT_BATCH = 16
IMAGE_BATCH = 8
MAX_PIECES = 254

Forward = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds of one item by wall clock, and of the processor (all threads)."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} ms ({self.processor:.1f})"


def forms(module: nn.Module, example: tuple[Tensor, ...]) -> Iterator[tuple[str, Forward]]:
    """Yield every form of a module that this machine has, by name; fp32 in torch is the first."""
    yield "torch fp32", module
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        yield f"torch {name}", _cast(copy.deepcopy(module).to(dtype), dtype)
    # torch has dynamic int8 for linear layers alone.
    if any(isinstance(layer, nn.Linear) for layer in module.modules()):
        quantize = torch.ao.quantization.quantize_dynamic
        quantized = quantize(copy.deepcopy(module), {nn.Linear})  # type: ignore[no-untyped-call]
        yield "torch int8, dynamic", quantized
    yield from _openvino(module, example)


def _cast(module: nn.Module, dtype: torch.dtype) -> Forward:
    def forward(*inputs: Tensor) -> Tensor:
        output: Tensor = module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        return output.float()

    return forward


def _openvino(module: nn.Module, example: tuple[Tensor, ...]) -> Iterator[tuple[str, Forward]]:
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError:
        return
    graph = openvino.convert_model(module, example_input=example)
    for name, precision in (("fp32", "f32"), ("bf16", "bf16")):
        hints = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        compiled = openvino.Core().compile_model(graph, "CPU", hints)
        yield f"OpenVINO {name}", partial(_run_openvino, compiled)


def _run_openvino(compiled: Any, *inputs: Tensor) -> Tensor:
    outputs = compiled([tensor.numpy() for tensor in inputs])
    return torch.from_numpy(outputs[0].copy())


def run_timed(
    forward: Callable[..., Any], batches: Sequence[tuple[Any, ...]], items: int
) -> tuple[list[Any], Cost]:
    """Return the outputs, and the cost of an item after one batch to warm up."""
    forward(*batches[0])
    wall = time.perf_counter()
    processor = time.process_time()
    outputs = [forward(*batch) for batch in batches]
    cost = Cost(
        wall=1000 * (time.perf_counter() - wall) / items,
        processor=1000 * (time.process_time() - processor) / items,
    )
    return outputs, cost


@torch.inference_mode()
def print_text_forms(model: MiniModel, lists: Sequence[GradedList]) -> None:
    """Print the text encoder's cost, and how it orders segments by cosine."""
    texts = []
    for graded_list in lists:
        texts += [graded_list.query, *graded_list.texts]
    chunks = [model.text.chunk_ids(text, 1)[0][:MAX_PIECES] for text in texts]
    order = sorted(range(len(texts)), key=lambda index: len(chunks[index]))
    rows = [order[start : start + TEXT_BATCH] for start in range(0, len(order), TEXT_BATCH)]
    batches = [pad_ids([chunks[index] for index in batch]) for batch in rows]

    exact: Tensor | None = None
    for name, forward in forms(model.text.bert, batches[0]):
        outputs, cost = run_timed(forward, batches, len(texts))
        vectors = torch.empty(len(texts), 384)
        for batch, states, (_, mask) in zip(rows, outputs, batches, strict=True):
            vectors[batch] = pool(states.float(), mask)
        exact = vectors if exact is None else exact
        quality = f"{ndcg(vectors, lists):.4f} | {least_cosine(vectors, exact):.4f}"
        print(f"| text, {name} | {cost} | {quality} |", flush=True)

    assert exact is not None
    batched_texts = [[Candidate(id="", text=texts[index]) for index in batch] for batch in rows]
    memories, cost = run_shipped(batched_texts, len(texts))
    vectors = torch.empty(len(texts), 384)
    for index, memory in zip((index for batch in rows for index in batch), memories, strict=True):
        vector = load_mini().text_vector(memory)
        assert vector is not None
        vectors[index] = normalize(torch.tensor(vector[:384]), dim=0)
    quality = f"{ndcg(vectors, lists):.4f} | {least_cosine(vectors, exact):.4f}"
    print(f"| text, as it ships | {cost} | {quality} |", flush=True)


def run_shipped(batches: Sequence[list[Candidate]], items: int) -> tuple[list[Memory], Cost]:
    """Return the memories of what ships, and the cost of an item after one batch to warm up."""
    remembered, cost = run_timed(load_mini().remember, [(batch,) for batch in batches], items)
    return [memory for batch in remembered for memory in batch], cost


def ndcg(vectors: Tensor, lists: Sequence[GradedList]) -> float:
    """Return nDCG@10 by the cosine; rows are each list's query, then its texts."""
    scores = []
    start = 0
    for graded_list in lists:
        end = start + 1 + len(graded_list.texts)
        query = vectors[start]
        scores.append((vectors[start + 1 : end] @ query).tolist())
        start = end
    return mean(evaluate(qrels_of(lists), run_of(lists, scores)))


@torch.inference_mode()
def print_image_forms(model: MiniModel, images: Sequence[ImageSource]) -> None:
    """Print the image encoders' cost, and how far the index vectors move."""
    pixels = torch.stack(
        [torch.from_numpy(preprocess(image.load(IMAGE_PIXELS))) for image in images]
    )
    batches = [(batch,) for batch in torch.split(pixels, IMAGE_BATCH)]
    exact: Tensor | None = None
    for name, forward in forms(model.eyes, batches[0]):
        maps, cost = run_timed(forward, batches, len(pixels))
        vectors = model.image.images(torch.cat(maps).float()).vector
        exact = vectors if exact is None else exact
        print(f"| picture, {name} | {cost} | | {least_cosine(vectors, exact):.4f} |", flush=True)

    assert exact is not None
    candidates = [Candidate(id="", image=image) for image in images]
    starts = range(0, len(candidates), IMAGE_BATCH)
    memories, cost = run_shipped(
        [candidates[start : start + IMAGE_BATCH] for start in starts], len(candidates)
    )
    vectors = torch.tensor(np.array([memory["vector"] for memory in memories], np.float32))
    least = least_cosine(normalize(vectors, dim=-1), exact)
    print(f"| picture, as it ships, opened as well | {cost} | | {least:.4f} |", flush=True)


def least_cosine(ours: Tensor, exact: Tensor) -> float:
    """Return the smallest cosine of two matrices of unit vectors, row by row."""
    return float((ours * exact).sum(-1).min())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = DataFolder.from_environment()
    model = read_mini(model_folder())[0].eval().requires_grad_(False)
    print(
        f"{args.threads} threads\n"
        "| | an item, wall (processor) | nDCG@10 | least cosine with fp32 |\n|---|---|---|---|"
    )
    print_text_forms(model, rag24(folder, "dev")[: args.topics])
    paths = [pair.path for pair in read_pairs(folder.path, "flickr_dev")[: args.pictures]]
    print_image_forms(model, [file_source(path) for path in paths])


if __name__ == "__main__":
    main()
