"""Speed of the 2B vision-language ranker against what else one would run, with the same weights,
inputs and process.

    python -m benchmarks.vlm --size tiny
    python -m benchmarks.vlm --size true --device cuda --compile --plot vlm.png

The first runs on a CPU in minutes and shows that all of it runs; the second has the configuration
of Qwen2-VL-2B, on a GPU. Weights are random: speed does not depend on them. All methods start from
texts and opened images, with a new query each round, and take turns. Rivals (`rivals.py`) are their
packages' own calls:
    generated list
        sliding windows of 20/10, a permutation written by `generate` (RankZephyr's and LightOn's)
    CrossEncoder
        sentence-transformers, pointwise; its scores are checked against our pointwise ones first
    one at a time
        one prompt a candidate, an answer of 4 tokens by `generate` (a chat model in LlamaIndex)
Of ours, `cold` includes the vision tower, `remembered` does not. Share is the share of the measured
ceiling of matrix products, counting two operations for each weight of the language model and token,
no attention and no vision: 40 % is 2.5 times the floor.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from benchmarks.rivals import PAD, WINDOW, cross_encoder, generated_list, one_at_a_time, predicted
from llama_index_rnx.candidates import Candidate, Query, pil_source
from llama_index_rnx.memory import RAM, MemoryStore
from llama_index_rnx.rankers.vlm import (
    DTYPES,
    MERGES,
    SPECIAL,
    Backbone,
    Qwen2VL,
    Readout,
    VLMRanker,
    VLMSettings,
    resolve_placement,
    tiny_tokenizer,
)
from llama_index_rnx.ranking import Windows, rank

# Pixels of a visual token's side.
TILE = 28

# The largest difference of scores in [0, 1] from the rival's; 16 bits round each layer.
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}

OURS = "ours, labels, parallel, remembered"

# How many times as fast as a rival we are to be, at N = 100, remembered.
TARGETS = {"generated list": 15.0, "CrossEncoder": 2.0}

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "vision": {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2},
        "mrope": [2, 3, 3],
        "words": 288,
    },
    # The config.json of Qwen2-VL-2B-Instruct.
    "true": {
        "text": {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
        },
        "vision": {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4},
        "mrope": [16, 24, 24],
        "words": 151_936,
    },
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Candidates of one kind: `tokens` of text, or an image of that many visual tokens."""

    kind: str
    tokens: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.tokens}, N={self.count}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The seconds of each round, and the language tokens and peak GPU bytes of one round."""

    method: str
    seconds: Sequence[float]
    tokens: int
    peak: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    """Measure all cases, print a table for each, and draw them."""
    args = _parser().parse_args()
    placement = resolve_placement(args.device, args.dtype, args.attention, None)
    device = placement.device
    dtype = placement.dtype
    backbone = random_backbone(args.size, device, dtype, placement.attention)
    weights = sum(p.numel() for p in backbone.model.model.language_model.layers.parameters())
    ceiling = matrix_ceiling(device, dtype)
    name = f"{device_name(device)}, {dtype}, {placement.attention}, torch {torch.__version__}"
    print(f"{args.size} Qwen2-VL, random weights, {name}")
    print(f"matrix product ceiling {ceiling / 1e12:.2f} TFLOP/s, {args.rounds} rounds\n")

    results: dict[str, list[Result]] = {}
    for shape in args.cases:
        kind, tokens = shape.split(":")
        for count in args.counts:
            case = Case(kind=kind, tokens=int(tokens), count=count)
            results[case.name] = measure(backbone, case, args.rounds, args.compile)
            print_table(case, results[case.name], weights, ceiling)
    if args.plot:
        draw(results, args.plot, f"{args.size} Qwen2-VL, {name}")


def random_backbone(
    size: str, device: str, dtype: torch.dtype, attention: str = "sdpa"
) -> Backbone:
    """Return a Qwen2-VL of this size with fresh weights, and a tokenizer that spells by letters."""
    sizes = SIZES[size]
    tokenizer = tiny_tokenizer(MERGES)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    rope = {"rope_type": "default", "mrope_section": sizes["mrope"], "rope_theta": 1e6}
    text = {
        **sizes["text"],
        "num_key_value_heads": 2,
        "vocab_size": sizes["words"],
        "rope_parameters": rope,
    }
    text |= {
        "max_position_embeddings": 32_768,
        "bos_token_id": 0,
        "eos_token_id": ids["<|im_end|>"],
    }
    vision = {**sizes["vision"], "hidden_size": text["hidden_size"], "patch_size": 14}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[PAD],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    return Qwen2VL(model, tokenizer, Qwen2VLImageProcessorPil())


def measure(backbone: Backbone, case: Case, rounds: int, compiled: bool = False) -> list[Result]:
    """Run every method on the same candidates, in turn; the first round warms up."""
    candidates = build_candidates(case, random.Random(0))
    methods = {**our_methods(backbone, candidates, compiled), **rival_methods(backbone, candidates)}
    meter = Meter(backbone)
    device = str(backbone.device)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    last: dict[str, tuple[int, int]] = {}
    for number in range(rounds + 1):
        query = Query(text=f"which one is number {number}?")
        for name, method in methods.items():
            elapsed, tokens, peak = meter.run(partial(method, query), device)
            last[name] = (tokens, peak)
            if number:
                seconds[name].append(elapsed)
    meter.stop()
    return [
        Result(method=name, seconds=seconds[name], tokens=last[name][0], peak=last[name][1])
        for name in methods
    ]


def our_methods(
    backbone: Backbone, candidates: Sequence[Candidate], compiled: bool
) -> Mapping[str, Callable[[Query], object]]:
    """Return the flow that `RNXRerank` runs, by read-out; remembered memories lie in RAM."""
    store = MemoryStore()
    labels = build_ranker(backbone, "labels")
    pairs = build_ranker(backbone, "pointwise")

    def method(
        ranker: VLMRanker, windows: Windows = "sliding", cold: bool = False
    ) -> Callable[[Query], object]:
        def run(query: Query) -> object:
            if cold:
                RAM.clear()
            return rank(ranker, store, query, candidates, windows=windows)

        return run

    methods = {
        OURS: method(labels, "parallel"),
        "ours, labels, parallel, cold": method(labels, "parallel", cold=True),
        "ours, labels, sliding, remembered": method(labels),
        "ours, pointwise, remembered": method(pairs),
        "ours, pointwise, cold": method(pairs, cold=True),
    }
    if compiled:
        fast = copy.copy(backbone)
        fast.compile()
        compiled_labels = build_ranker(fast, "labels")
        methods["ours, labels, parallel, compiled"] = method(compiled_labels, "parallel")
    return methods


def rival_methods(
    backbone: Backbone, candidates: Sequence[Candidate]
) -> Mapping[str, Callable[[Query], object]]:
    """Return the rivals on the same weights, by name."""
    encoder = cross_encoder(backbone)
    check_equal_scores(backbone, encoder, candidates[:4])
    return {
        "generated list": lambda query: generated_list(backbone, query, candidates),
        "CrossEncoder": lambda query: predicted(encoder, query, candidates),
        "one at a time": lambda query: one_at_a_time(backbone, query, candidates),
    }


def check_equal_scores(backbone: Backbone, encoder: Any, candidates: Sequence[Candidate]) -> None:
    """Exit unless sentence-transformers and our pointwise read-out give the same scores."""
    query = Query(text="which one is alike?")
    ranker = build_ranker(backbone, "pointwise")
    ours = torch.tensor(ranker.score(query, ranker.remember(candidates)))
    theirs = torch.tensor(predicted(encoder, query, candidates))
    difference = float((ours - theirs).abs().max())
    if difference > TOLERANCES[backbone.model.dtype]:
        raise SystemExit(
            f"CrossEncoder's scores differ from ours by {difference:.4f}: "
            "it does not read the same prompt"
        )


def build_ranker(backbone: Backbone, readout: Readout) -> VLMRanker:
    """Return the ranker of a read-out."""
    window = WINDOW if readout == "labels" else None
    return VLMRanker(backbone, VLMSettings(name="benchmark", readout=readout, window=window))


class Meter:
    """Counts the tokens that go into the language model, whoever calls it, and takes the time until
    the device has finished.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.tokens = 0
        model = backbone.model.model.language_model
        # Compiled in, it would compile anew at every number.
        count = torch.compiler.disable(self._count)
        self._hook = model.register_forward_pre_hook(count, with_kwargs=True)

    def run(self, work: Callable[[], object], device: str) -> tuple[float, int, int]:
        """Return seconds, tokens and peak bytes."""
        self.tokens = 0
        cuda = device.startswith("cuda")
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return seconds, self.tokens, torch.cuda.max_memory_allocated() if cuda else 0

    def stop(self) -> None:
        self._hook.remove()

    def _count(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        self.tokens += rows * length


def build_candidates(case: Case, rng: random.Random) -> list[Candidate]:
    """Return texts of as many letters as tokens, or images of as many tiles.

    Images are about twice as wide as high where they can be.
    """
    candidates = []
    for i in range(case.count):
        if case.kind == "text":
            text = "".join(rng.choice("bcdfgk") for _ in range(case.tokens))
            candidates.append(Candidate(id=str(i), text=text))
            continue
        high = next(h for h in range(int(case.tokens**0.5), 0, -1) if case.tokens % h == 0)
        colour = tuple(rng.randrange(256) for _ in range(3))
        image = Image.new("RGB", (case.tokens // high * TILE, high * TILE), colour)
        candidates.append(Candidate(id=str(i), image=pil_source(image)))
    return candidates


def matrix_ceiling(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product: the best of five."""
    side = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(4):
            a @ b
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * side**3 / best


def device_name(device: str) -> str:
    """Return the name of the GPU, or the number of threads of a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{device}, {torch.get_num_threads()} threads"


def print_table(case: Case, results: Sequence[Result], weights: int, ceiling: float) -> None:
    """Print one Markdown table; `times` is how much longer than the first row a method takes."""
    print(f"**{case.name}**\n")
    print("| method | median ms | p95 ms | times | tokens read | tokens/s | share | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        median = result.median
        last = len(result.seconds) - 1
        p95 = sorted(result.seconds)[min(last, int(0.95 * len(result.seconds)))]
        share = 2 * weights * result.tokens / median / ceiling
        print(
            f"| {result.method} | {median * 1e3:.1f} | {p95 * 1e3:.1f} | "
            f"{median / results[0].median:.1f} | {result.tokens} | {result.tokens / median:.0f} | "
            f"{share:.1%} | {result.peak / 2**30:.1f} |"
        )
    print(f"\n{verdict(results)}\n" if case.count == 100 else "", flush=True)


def verdict(results: Sequence[Result]) -> str:
    """Say whether the targets are met."""
    seconds = {result.method: result.median for result in results}
    lines = []
    for rival, target in TARGETS.items():
        times = seconds[rival] / seconds[OURS]
        is_met = "met" if times >= target else "NOT met"
        lines.append(f"{times:.1f} times as fast as {rival} (at least {target:g}: {is_met})")
    return f"Targets: {'; '.join(lines)}"


def draw(results: Mapping[str, Sequence[Result]], path: Path, title: str) -> None:
    """Plot the medians of every case and method on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    count = len(results)
    size = (3.2 * count + 2, 3.6)
    figure, axes = plt.subplots(1, count, figsize=size, sharey=True, squeeze=False)
    for axis, (name, of_case) in zip(axes[0], results.items(), strict=True):
        methods = [result.method for result in of_case]
        medians = [result.median * 1e3 for result in of_case]
        colours = ["#2a6f97" if method.startswith("ours") else "#b8b8b8" for method in methods]
        bars = axis.barh(methods, medians, color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        axis.set(title=name, xscale="log", xlabel="ms, median")
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", choices=SIZES, default="tiny")
    add("--device", default="cpu")
    add("--dtype", choices=DTYPES, help="default: bfloat16 on cuda, else float32")
    attention = "auto takes flash-attention where it is installed"
    add("--attention", default="auto", help=attention)
    add("--compile", action="store_true", help="also: ours with torch.compile")
    add("--rounds", type=int, default=5)
    add("--counts", type=int, nargs="+", default=[20, 100])
    add("--cases", nargs="+", default=["text:150", "image:256", "image:512"])
    add("--plot", type=Path, help="draw the medians into this PNG")
    return parser


if __name__ == "__main__":
    # With random weights the warning means nothing.
    warnings.filterwarnings("ignore", ".*of the probability lies on the answers")
    main()
