"""Speed of the 2B vision-language ranker against what else one would run, with the same weights, inputs and process.

    python -m benchmarks.vlm --size tiny                        # CPU, a minute: shows that all of it runs
    python -m benchmarks.vlm --size true --device cuda          # the configuration of Qwen2-VL-2B, on a GPU

Weights are random: speed does not depend on them. All methods start from texts and opened pictures, with a new query each
round, and take turns. Rivals are the plain calls of transformers that their packages make:
    generated list    sliding windows of 20/10, a permutation written by `generate` (RankZephyr's and LightOn's way)
    plain pointwise   one prompt a candidate in batches, no shared prefix (CrossEncoder's way)
    one at a time     one prompt a candidate, an answer of 4 tokens by `generate` (what a chat model in LlamaIndex does)
Ours, `cold` includes the vision tower, `remembered` does not. Share: of the measured matrix product ceiling, counting two
operations for each weight of the language model and token, no attention and no vision.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

from llama_index_rnx.candidates import Candidate, Query, picture_source
from llama_index_rnx.memory import Memory
from llama_index_rnx.ordering import drive, sliding
from llama_index_rnx.rankers.backbones import DTYPES, Backbone, Qwen2VL
from llama_index_rnx.rankers.batching import is_out_of_memory
from llama_index_rnx.rankers.vlm import Readout, VLMRanker
from tests.tiny_vlm import MERGES, SPECIAL, tiny_tokenizer

WINDOW, STRIDE = 20, 10
WRITTEN = 6  # tokens that a generated list spends on a candidate: "[", "1", "2", "]", " >", " "
CHATTED = 4  # tokens of a chat model's answer on one candidate
TILE = 28  # pixels of a visual token's side
PAD = "<|image_pad|>"
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "text": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
        "vision": {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2},
        "mrope": [2, 3, 3],
        "words": 288,
    },
    "true": {  # Qwen2-VL-2B-Instruct, config.json
        "text": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
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


def main() -> None:
    """Measures all cases and prints a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=int, nargs="+", default=None, help="default: 20 100; tiny: 20")
    parser.add_argument("--cases", nargs="+", default=["text:150", "image:256", "image:512"])
    args = parser.parse_args()
    dtype = DTYPES[args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")]
    backbone = random_backbone(args.size, args.device, dtype)
    weights = sum(p.numel() for p in backbone.model.model.language_model.layers.parameters())
    ceiling = matrix_ceiling(args.device, dtype)
    print(f"{args.size} Qwen2-VL, random weights, {device_name(args.device)}, {dtype}, torch {torch.__version__}")
    print(f"matrix product ceiling {ceiling / 1e12:.2f} TFLOP/s, {args.rounds} rounds\n")
    for name in args.cases:
        kind, tokens = name.split(":")
        for count in args.counts or ([20] if args.size == "tiny" else [20, 100]):
            case = Case(kind=kind, tokens=int(tokens), count=count)
            show(case, measure(backbone, case, args.rounds, args.device), weights, ceiling)


def random_backbone(size: str, device: str, dtype: torch.dtype) -> Backbone:
    """A Qwen2-VL of this size with fresh weights, and a tokenizer that spells letter by letter."""
    chosen = SIZES[size]
    tokenizer = tiny_tokenizer(MERGES)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    rope = {"rope_type": "default", "mrope_section": chosen["mrope"], "rope_theta": 1e6}
    text = {**chosen["text"], "num_key_value_heads": 2, "vocab_size": chosen["words"], "rope_parameters": rope}
    text |= {"max_position_embeddings": 32_768, "bos_token_id": 0, "eos_token_id": ids["<|im_end|>"]}
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
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return Qwen2VL(model, tokenizer, Qwen2VLImageProcessorPil())


def measure(backbone: Backbone, case: Case, rounds: int, device: str) -> list[Result]:
    """Every method on the same candidates, in turn; the first round warms up and does not count."""
    candidates = made(case, random.Random(0))
    labels, pairs = (ranker(backbone, readout) for readout in ("labels", "pointwise"))
    remembered = labels.remember(candidates)
    meter = Meter(backbone)
    methods: dict[str, Callable[[Query], object]] = {
        "ours, labels, remembered": lambda q: ordered(labels, q, remembered),
        "ours, labels, cold": lambda q: ordered(labels, q, labels.remember(candidates)),
        "ours, pointwise, remembered": lambda q: pairs.score(q, remembered),
        "ours, pointwise, cold": lambda q: pairs.score(q, pairs.remember(candidates)),
        "generated list": lambda q: generated_list(backbone, q, candidates),
        "plain pointwise": lambda q: plain_pointwise(backbone, q, candidates),
        "one at a time": lambda q: one_at_a_time(backbone, q, candidates),
    }
    kept: dict[str, list[float]] = {name: [] for name in methods}
    seen: dict[str, tuple[int, int]] = {}
    for turn in range(rounds + 1):
        query = Query(text=f"which one is number {turn}?")
        for name, method in methods.items():
            seconds, tokens, peak = meter.run(lambda method=method, query=query: method(query), device)
            seen[name] = (tokens, peak)
            if turn:
                kept[name].append(seconds)
    meter.stop()
    return [Result(method=name, seconds=kept[name], tokens=seen[name][0], peak=seen[name][1]) for name in methods]


class Meter:
    """Counts the tokens that go into the language model, whoever calls it, and stops the time of a finished device."""

    def __init__(self, backbone: Backbone) -> None:
        self.tokens = 0
        model = backbone.model.model.language_model
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

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


def ranker(backbone: Backbone, readout: Readout) -> VLMRanker:
    found = VLMRanker(backbone, name="benchmark", readout=readout, window=WINDOW if readout == "labels" else None)
    found.label_mass = 1.0  # of random weights it means nothing
    return found


def ordered(ours: VLMRanker, query: Query, memories: Sequence[Memory]) -> list[int]:
    """The list by sliding windows of label read-outs."""
    reads = sliding(len(memories), WINDOW, STRIDE)
    return drive(reads, lambda places: ours.score(query, [memories[i] for i in places])).order


def generated_list(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """Sliding windows; each writes its permutation token by token."""

    def read(places: tuple[int, ...]) -> list[float]:
        shown = "".join(f"[{n}] {content(candidates[i])}\n" for n, i in enumerate(places))
        images = [candidates[i].image for i in places if candidates[i].image]
        inputs = plain_inputs(backbone, [(f"{shown}Rank them by: {query.text}\n", [s.load() for s in images if s])])
        generated(backbone, inputs, WRITTEN * len(places))
        return [-float(n) for n in range(len(places))]

    drive(sliding(len(candidates), WINDOW, STRIDE), read)


@torch.inference_mode()
def plain_pointwise(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """Whole prompts in batches, halved until they fit."""
    prompts = [
        (f"{INTRODUCTION}{query.text}\n{content(c)}\nyes or no?", [c.image.load()] if c.image else []) for c in candidates
    ]
    size = len(prompts)
    while True:
        try:
            for start in range(0, len(prompts), size):
                backbone.model(**plain_inputs(backbone, prompts[start : start + size]), logits_to_keep=1, use_cache=False)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            size //= 2


def one_at_a_time(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        images = [candidate.image.load()] if candidate.image else []
        prompt = f"{INTRODUCTION}{query.text}\n{content(candidate)}\nyes or no?"
        generated(backbone, plain_inputs(backbone, [(prompt, images)]), CHATTED)


INTRODUCTION = "Judge whether the document meets the requirements of the query. Answer yes or no only.\nQuery: "


def content(candidate: Candidate) -> str:
    return (f"<|vision_start|>{PAD}<|vision_end|>" if candidate.image else "") + candidate.text


def plain_inputs(backbone: Backbone, prompts: Sequence[tuple[str, Sequence[Image.Image]]]) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of prompts (left-padded) and pictures."""
    pictures = [picture for _, shown in prompts for picture in shown]
    inputs: dict[str, Any] = dict(backbone.processor(images=pictures, return_tensors="pt")) if pictures else {}
    grids = iter(inputs.get("image_grid_thw", []))
    texts = []
    for text, shown in prompts:
        for _ in shown:
            text = text.replace(PAD, "\0" * (int(next(grids).prod()) // 4), 1)
        texts.append(text.replace("\0", PAD))
    made_ids = backbone.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    inputs |= {"input_ids": made_ids["input_ids"], "attention_mask": made_ids["attention_mask"]}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == backbone.image_token).int()
    return {name: tensor.to(backbone.device) for name, tensor in inputs.items()}


@torch.inference_mode()
def generated(backbone: Backbone, inputs: dict[str, torch.Tensor], tokens: int) -> None:
    backbone.model.generate(**inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0)


def made(case: Case, rng: random.Random) -> list[Candidate]:
    """Texts of as many letters as tokens; pictures of as many tiles, about twice as wide as high where they can."""
    found = []
    for i in range(case.count):
        if case.kind == "text":
            found.append(Candidate(id=str(i), text="".join(rng.choice("bcdfgk") for _ in range(case.tokens))))
            continue
        high = next(h for h in range(int(case.tokens**0.5), 0, -1) if case.tokens % h == 0)
        colour = tuple(rng.randrange(256) for _ in range(3))
        picture = Image.new("RGB", (case.tokens // high * TILE, high * TILE), colour)
        found.append(Candidate(id=str(i), image=picture_source(picture)))
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
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"{device}, {torch.get_num_threads()} threads"


def show(case: Case, results: Sequence[Result], weights: int, ceiling: float) -> None:
    """One Markdown table; `times` is how much longer than the first row a method takes."""
    first = statistics.median(results[0].seconds)
    print(f"**{case.name}**\n")
    print("| method | median ms | p95 ms | times | tokens read | tokens/s | share | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        median = statistics.median(result.seconds)
        late = sorted(result.seconds)[min(len(result.seconds) - 1, int(0.95 * len(result.seconds)))]
        share = 2 * weights * result.tokens / median / ceiling
        print(
            f"| {result.method} | {median * 1e3:.1f} | {late * 1e3:.1f} | {median / first:.1f} | {result.tokens} | "
            f"{result.tokens / median:.0f} | {share:.1%} | {result.peak / 2**30:.1f} |"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
