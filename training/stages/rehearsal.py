"""A planted order on generated lists, for a tiny random vision-language model. It trains nothing.

Every text holds one of four words, which alone decide its grade, and a letter that means nothing.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from llama_index_rnx.rankers.vlm import save_tiny
from training.data import write_jsonl
from training.evaluation import write_qrels
from training.stages.lora import RECORD

# The first three words are single tokens of the tiny tokenizer.
GRADES = {"yes": 3, "no": 2, "the": 1, "c": 0}
LETTERS = "bdfgjk"
PROMPT = {"template": "{candidates}{query}:\n", "candidate": "{label}{content}\n"}

# Lists to learn from, and lists to measure on.
TRAINING_LISTS = 200
HELD_OUT_LISTS = 40

# The gain in nDCG@10 on the held-out lists is above this; measured .12 to .15 on three seeds.
MIN_GAIN = 0.08

SETTINGS = (
    "--window 4 --steps 100 --lists-a-step 4 --rank 8 --rate 5e-3 --dropout 0 "
    "--average 0.8 --evaluate-every 50"
)


def planted_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows as in `rnx rerank`, with grades: the four words in any order."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        words = rng.sample(list(GRADES), len(GRADES))
        texts = [f"{word} {rng.choice(LETTERS)}" for word in words]
        candidates = [
            {"docid": str(position), "text": text, "grade": GRADES[word]}
            for position, (text, word) in enumerate(zip(texts, words, strict=True))
        ]
        rows.append({"qid": f"q{number}", "query": "a", "candidates": candidates})
    return rows


def write_rehearsal(folder: Path, seed: int = 0) -> None:
    """Write model/, prompt.json, train.jsonl and dev.jsonl, and the lists' judgments as qrels."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny(folder / "model")
    (folder / "prompt.json").write_text(json.dumps(PROMPT))
    _write_lists(folder, "train", planted_rows(TRAINING_LISTS, seed))
    _write_lists(folder, "dev", planted_rows(HELD_OUT_LISTS, seed + 1))


def _write_lists(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    write_jsonl(folder / f"{name}.jsonl", rows)
    qrels = {
        row["qid"]: {candidate["docid"]: candidate["grade"] for candidate in row["candidates"]}
        for row in rows
    }
    write_qrels(folder / f"{name}.qrels", qrels)


def rehearsal_arguments(folder: Path) -> list[str]:
    """Return the arguments of `training.train_vlm` for the files in the folder."""
    paths = {
        "base": "model",
        "prompt": "prompt.json",
        "lists": "train.jsonl",
        "dev": "dev.jsonl",
        "work": "work",
        "to": "adapter",
    }
    arguments = []
    for name, path in paths.items():
        arguments += [f"--{name}", str(folder / path)]
    return [*arguments, "--device", "cpu", "--keep-activations", *SETTINGS.split()]


def rehearsal_report(folder: Path) -> tuple[str, bool]:
    """Return what the training gained, as a line, and whether the planted order was learned."""
    history = json.loads((folder / "adapter" / RECORD).read_text())["history"]
    before = history[0]["mean"]
    after = max(row["mean"] for row in history)
    line = f"planted order, held-out lists: nDCG@10 {before:.3f} -> {after:.3f}"
    return line, after >= before + MIN_GAIN
