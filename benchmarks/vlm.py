"""Speed of the 2B vision-language ranker against what else one would run, with the same weights,
inputs and process.

    python -m benchmarks.vlm --size tiny                        # CPU, minutes: shows that all of it runs
    python -m benchmarks.vlm --size true --device cuda --compile --plot vlm.png    # the configuration of Qwen2-VL-2B, on a GPU

Weights are random: speed does not depend on them. All methods start from texts and opened pictures,
with a new query each round, and take turns. Rivals (`rivals.py`) are their packages' own calls:
    generated list    sliding windows of 20/10, a permutation written by `generate` (RankZephyr's and LightOn's way)
    CrossEncoder      sentence-transformers, pointwise; its scores are checked against our pointwise read-out's first
    one at a time     one prompt a candidate, an answer of 4 tokens by `generate` (what a chat model in LlamaIndex does)
Ours, `cold` includes the vision tower, `remembered` does not. Share: of the measured matrix product
ceiling, counting two operations for each weight of the language model and token, no attention and
no vision: 40 % is 2.5 times the floor.
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

TILE = 28  # pixels of a visual token's side
ALIKE = {
    torch.float32: 1e-4,
    torch.bfloat16: 0.1,
    torch.float16: 0.02,
}  # of scores in [0, 1]; 16 bits round each layer
OURS = "ours, labels, parallel, remembered"
TARGETS = {"generated list": 15.0, "CrossEncoder": 2.0}  # times as fast at N = 100, remembered
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
    "true": {  # Qwen2-VL-2B-Instruct, config.json
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
    """Candidates of one kind: `tokens` of text, or a picture of that many visual tokens."""

    kind: str
    tokens: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.tokens}, N={self.count}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """seconds of each round; language tokens and peak GPU bytes of one."""

    method: str
    seconds: Sequence[float]
    tokens: int
    peak: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    """Measures all cases, prints a table for each, and draws them."""
    args = _parser().parse_args()
    place = resolve_placement(args.device, args.dtype, args.attention, None)
    backbone = random_backbone(args.size, place.device, place.dtype, place.attention)
    weights = sum(p.numel() for p in backbone.model.model.language_model.layers.parameters())
    ceiling = matrix_ceiling(place.device, place.dtype)
    name = (
        f"{device_name(place.device)}, {place.dtype}, {place.attention}, torch {torch.__version__}"
    )
    print(f"{args.size} Qwen2-VL, random weights, {name}")
    print(f"matrix product ceiling {ceiling / 1e12:.2f} TFLOP/s, {args.rounds} rounds\n")
    found: dict[str, list[Result]] = {}
    for kind, tokens in (shape.split(":") for shape in args.cases):
        for count in args.counts:
            case = Case(kind=kind, tokens=int(tokens), count=count)
            found[case.name] = measure(backbone, case, args.rounds, args.compile)
            show(case, found[case.name], weights, ceiling)
    if args.plot:
        draw(found, args.plot, f"{args.size} Qwen2-VL, {name}")


def random_backbone(
    size: str, device: str, dtype: torch.dtype, attention: str = "sdpa"
) -> Backbone:
    """A Qwen2-VL of this size with fresh weights, and a tokenizer that spells letter by letter."""
    chosen = SIZES[size]
    tokenizer = tiny_tokenizer(MERGES)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    rope = {"rope_type": "default", "mrope_section": chosen["mrope"], "rope_theta": 1e6}
    text = {
        **chosen["text"],
        "num_key_value_heads": 2,
        "vocab_size": chosen["words"],
        "rope_parameters": rope,
    }
    text |= {
        "max_position_embeddings": 32_768,
        "bos_token_id": 0,
        "eos_token_id": ids["<|im_end|>"],
    }
    vision = {**chosen["vision"], "hidden_size": text["hidden_size"], "patch_size": 14}
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
    """Every method on the same candidates, in turn; the first round warms up and does not count."""
    candidates = made(case, random.Random(0))
    methods = {**our_methods(backbone, candidates, compiled), **rival_methods(backbone, candidates)}
    meter, device = Meter(backbone), str(backbone.device)
    kept: dict[str, list[float]] = {name: [] for name in methods}
    seen: dict[str, tuple[int, int]] = {}
    for turn in range(rounds + 1):
        query = Query(text=f"which one is number {turn}?")
        for name, method in methods.items():
            seconds, tokens, peak = meter.run(
                lambda method=method, query=query: method(query), device
            )
            seen[name] = (tokens, peak)
            if turn:
                kept[name].append(seconds)
    meter.stop()
    return [
        Result(method=name, seconds=kept[name], tokens=seen[name][0], peak=seen[name][1])
        for name in methods
    ]


def our_methods(
    backbone: Backbone, candidates: Sequence[Candidate], compiled: bool
) -> Mapping[str, Callable[[Query], object]]:
    """The flow that `RNXRerank` runs; remembered, its memories lie in RAM."""
    store = MemoryStore()
    labels, pairs = ranker(backbone, "labels"), ranker(backbone, "pointwise")

    def asked(
        reader: VLMRanker, windows: Windows = "sliding", cold: bool = False
    ) -> Callable[[Query], object]:
        def run(query: Query) -> object:
            if cold:
                RAM.clear()
            return rank(reader, store, query, candidates, windows=windows)

        return run

    found = {
        OURS: asked(labels, "parallel"),
        "ours, labels, parallel, cold": asked(labels, "parallel", cold=True),
        "ours, labels, sliding, remembered": asked(labels),
        "ours, pointwise, remembered": asked(pairs),
        "ours, pointwise, cold": asked(pairs, cold=True),
    }
    if compiled:
        fast = copy.copy(backbone)
        fast.compile()
        found["ours, labels, parallel, compiled"] = asked(ranker(fast, "labels"), "parallel")
    return found


def rival_methods(
    backbone: Backbone, candidates: Sequence[Candidate]
) -> Mapping[str, Callable[[Query], object]]:
    encoder = cross_encoder(backbone)
    check_alike(backbone, encoder, candidates[:4])
    return {
        "generated list": lambda query: generated_list(backbone, query, candidates),
        "CrossEncoder": lambda query: predicted(encoder, query, candidates),
        "one at a time": lambda query: one_at_a_time(backbone, query, candidates),
    }


def check_alike(backbone: Backbone, encoder: Any, candidates: Sequence[Candidate]) -> None:
    """Fails unless sentence-transformers and our pointwise read-out give the same scores."""
    query, ours = Query(text="which one is alike?"), ranker(backbone, "pointwise")
    theirs = torch.tensor(predicted(encoder, query, candidates))
    apart = float((torch.tensor(ours.score(query, ours.remember(candidates))) - theirs).abs().max())
    if apart > ALIKE[backbone.model.dtype]:
        raise SystemExit(
            f"CrossEncoder's scores differ from ours by {apart:.4f}: it does not read the same prompt"
        )


def ranker(backbone: Backbone, readout: Readout) -> VLMRanker:
    window = WINDOW if readout == "labels" else None
    return VLMRanker(backbone, VLMSettings(name="benchmark", readout=readout, window=window))


class Meter:
    """Counts the tokens that go into the language model, whoever calls it, and stops the time of a
    finished device.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.tokens = 0
        model = backbone.model.model.language_model
        count = torch.compiler.disable(
            self._count
        )  # compiled in, it would compile anew at every number
        self._hook = model.register_forward_pre_hook(count, with_kwargs=True)

    def run(self, work: Callable[[], object], device: str) -> tuple[float, int, int]:
        """Seconds, tokens, peak bytes."""
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
        rows, places = kwargs["inputs_embeds"].shape[:2]
        self.tokens += rows * places


def made(case: Case, rng: random.Random) -> list[Candidate]:
    """Texts of as many letters as tokens; pictures of as many tiles, about twice as wide as high
    where they can.
    """
    found = []
    for i in range(case.count):
        if case.kind == "text":
            found.append(
                Candidate(id=str(i), text="".join(rng.choice("bcdfgk") for _ in range(case.tokens)))
            )
            continue
        high = next(h for h in range(int(case.tokens**0.5), 0, -1) if case.tokens % h == 0)
        colour = tuple(rng.randrange(256) for _ in range(3))
        picture = Image.new("RGB", (case.tokens // high * TILE, high * TILE), colour)
        found.append(Candidate(id=str(i), image=pil_source(picture)))
    return found


def matrix_ceiling(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: the best of five."""
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
    return (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"{device}, {torch.get_num_threads()} threads"
    )


def show(case: Case, results: Sequence[Result], weights: int, ceiling: float) -> None:
    """One Markdown table; `times` is how much longer than the first row a method takes."""
    print(f"**{case.name}**\n")
    print("| method | median ms | p95 ms | times | tokens read | tokens/s | share | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        late = sorted(result.seconds)[min(len(result.seconds) - 1, int(0.95 * len(result.seconds)))]
        share = 2 * weights * result.tokens / result.median / ceiling
        print(
            f"| {result.method} | {result.median * 1e3:.1f} | {late * 1e3:.1f} | {result.median / results[0].median:.1f} | "
            f"{result.tokens} | {result.tokens / result.median:.0f} | {share:.1%} | {result.peak / 2**30:.1f} |"
        )
    print(f"\n{verdict(results)}\n" if case.count == 100 else "", flush=True)


def verdict(results: Sequence[Result]) -> str:
    """Whether the targets are met."""
    seconds = {result.method: result.median for result in results}
    times = {rival: seconds[rival] / seconds[OURS] for rival in TARGETS}
    return "Targets: " + "; ".join(
        f"{times[rival]:.1f} times as fast as {rival} (at least {wanted:g}: {'met' if times[rival] >= wanted else 'NOT met'})"
        for rival, wanted in TARGETS.items()
    )


def draw(found: Mapping[str, Sequence[Result]], path: Path, title: str) -> None:
    """Medians of every case and method, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(3.2 * len(found) + 2, 3.6), sharey=True, squeeze=False
    )
    for axis, (name, results) in zip(axes[0], found.items(), strict=True):
        colours = [
            "#2a6f97" if result.method.startswith("ours") else "#b8b8b8" for result in results
        ]
        bars = axis.barh(
            [result.method for result in results],
            [result.median * 1e3 for result in results],
            color=colours,
        )
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
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=DTYPES, default=None, help="default: bfloat16 on cuda, else float32"
    )
    parser.add_argument(
        "--attention", default="auto", help="auto takes flash-attention where it is installed"
    )
    parser.add_argument("--compile", action="store_true", help="also: ours with torch.compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--cases", nargs="+", default=["text:150", "image:256", "image:512"])
    parser.add_argument("--plot", type=Path, help="draw the medians into this PNG")
    return parser


if __name__ == "__main__":
    warnings.filterwarnings(
        "ignore", ".*of the probability lies on the answers"
    )  # of random weights it means nothing
    main()
