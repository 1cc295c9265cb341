"""In which form the towers of rnx-mini are fastest, and what each form costs: fp32, bf16, fp16,
int8, in torch and OpenVINO.

    RNX_DATA=DIR python -m benchmarks.mini_forms [--threads 2] [--topics 10] [--pictures 32]

Texts are the segments of RAG24 dev topics, ordered by their cosine with the topic alone; pictures
are those of Flickr8k dev. Prints milliseconds of wall clock and of the processor for each text and
picture, nDCG@10, and the least cosine with fp32.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llama_index_rnx.candidates import file_source
from llama_index_rnx.rankers.mini import (
    IMAGE_PIXELS,
    MiniModel,
    model_folder,
    pad_ids,
    pool,
    preprocess,
    read_mini,
)
from training.bi_encoder import pairs
from training.data import GradedList, data_folder, rag24
from training.evaluation import evaluate, mean, qrels_of, run_of

TEXTS_AT_ONCE, PIECES, PICTURES_AT_ONCE = 16, 254, 8
Forward = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one item: milliseconds of wall clock, and of the processor (all threads)."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} ms ({self.processor:.1f})"


def forms(module: nn.Module, example: tuple[Tensor, ...]) -> Iterator[tuple[str, Forward]]:
    """Every form of a module that this machine has, by name; fp32 in torch is the first."""
    yield "torch fp32", module
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        yield f"torch {name}", _cast(copy.deepcopy(module).to(dtype), dtype)
    if any(
        isinstance(part, nn.Linear) for part in module.modules()
    ):  # torch has dynamic int8 for these alone
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear})  # type: ignore[no-untyped-call]
        yield "torch int8, dynamic", quantised
    yield from _openvino(module, example)


def _cast(module: nn.Module, dtype: torch.dtype) -> Forward:
    def forward(*inputs: Tensor) -> Tensor:
        found: Tensor = module(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        return found.float()

    return forward


def _openvino(module: nn.Module, example: tuple[Tensor, ...]) -> Iterator[tuple[str, Forward]]:
    try:
        import openvino
    except ImportError:
        return
    graph = openvino.convert_model(module, example_input=example)
    for name, precision in (("fp32", "f32"), ("bf16", "bf16")):
        hints = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        ready = openvino.Core().compile_model(graph, "CPU", hints)
        yield (
            f"OpenVINO {name}",
            lambda *inputs, ready=ready: torch.from_numpy(
                ready([x.numpy() for x in inputs])[0].copy()
            ),
        )


def timed(
    forward: Forward, batches: Sequence[tuple[Tensor, ...]], items: int
) -> tuple[list[Tensor], Cost]:
    """What comes out, and the cost of an item after one batch to warm up."""
    forward(*batches[0])
    wall, processor = time.perf_counter(), time.process_time()
    found = [forward(*batch) for batch in batches]
    spent = time.perf_counter() - wall, time.process_time() - processor
    return found, Cost(wall=1000 * spent[0] / items, processor=1000 * spent[1] / items)


@torch.inference_mode()
def texts(model: MiniModel, lists: Sequence[GradedList]) -> None:
    """The text tower: its cost, and how it orders segments by cosine."""
    words = [text for of in lists for text in (of.query, *of.texts)]
    chunks = [model.text.chunk_ids(text, 1)[0][:PIECES] for text in words]
    order = sorted(range(len(words)), key=lambda place: len(chunks[place]))
    parts = [order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)]
    batches = [pad_ids([chunks[place] for place in part]) for part in parts]
    exact: Tensor | None = None
    for name, forward in forms(model.text.bert, batches[0]):
        states, cost = timed(forward, batches, len(words))
        vectors = torch.empty(len(words), 384)
        for part, found, (_, mask) in zip(parts, states, batches, strict=True):
            vectors[part] = pool(found.float(), mask)
        exact = vectors if exact is None else exact
        print(
            f"| text, {name} | {cost} | {ndcg(vectors, lists):.4f} | {least_cosine(vectors, exact):.4f} |",
            flush=True,
        )


def ndcg(vectors: Tensor, lists: Sequence[GradedList]) -> float:
    """nDCG@10 by the cosine; rows are each list's query, then its texts."""
    scores, start = [], 0
    for of in lists:
        query, found = vectors[start], vectors[start + 1 : start + 1 + len(of.texts)]
        scores.append((found @ query).tolist())
        start += 1 + len(of.texts)
    return mean(evaluate(qrels_of(lists), run_of(lists, scores)))


@torch.inference_mode()
def pictures(model: MiniModel, pixels: Tensor) -> None:
    """The image towers: their cost, and how far the index vectors move."""
    batches = [(part,) for part in torch.split(pixels, PICTURES_AT_ONCE)]
    exact: Tensor | None = None
    for name, forward in forms(model.eyes, batches[0]):
        maps, cost = timed(forward, batches, len(pixels))
        vectors = model.image.images(torch.cat(maps).float()).vector
        exact = vectors if exact is None else exact
        print(f"| picture, {name} | {cost} | | {least_cosine(vectors, exact):.4f} |", flush=True)


def least_cosine(ours: Tensor, exact: Tensor) -> float:
    """Of unit vectors, row by row."""
    return float((ours * exact).sum(-1).min())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--topics", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = read_mini(model_folder())[0].eval().requires_grad_(False)
    print(
        f"{asked.threads} threads\n| | an item, wall (processor) | nDCG@10 | least cosine with fp32 |\n|---|---|---|---|"
    )
    texts(model, rag24("dev")[: asked.topics])
    paths = [pair.path for pair in pairs(data_folder(), "flickr_dev")[: asked.pictures]]
    pictures(
        model, torch.stack([preprocess(file_source(path).load(IMAGE_PIXELS)) for path in paths])
    )


if __name__ == "__main__":
    main()
