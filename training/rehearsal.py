"""A rehearsal of training a vision-language model: a tiny random one learns a planted order on a
CPU, in a few seconds.

    python -m training.rehearsal --to DIR           # writes model, lists and prompt, trains, fails unless the order is learned

Every text holds one of four words, which alone decide its grade, and a letter that means nothing.
The weights are random and stay so: what is learned lies in the adapter. It says that the plumbing
works, nothing about a 2B model.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llama_index_rnx.rankers.vlm import save_tiny
from training.train_vlm import main as train_vlm

GRADES = {
    "yes": 3,
    "no": 2,
    "the": 1,
    "c": 0,
}  # the first three are single tokens of the tiny tokenizer
LETTERS = "bdfgjk"
PROMPT = {"template": "{candidates}{query}:\n", "candidate": "{label}{content}\n"}
PLACES = {
    "base": "model",
    "prompt": "prompt.json",
    "lists": "train.jsonl",
    "dev": "dev.jsonl",
    "work": "work",
    "to": "adapter",
}
RISE = 0.08  # of nDCG@10 on the held-out lists; measured .12 to .15 on three seeds
SETTINGS = "--window 4 --steps 100 --lists-a-step 4 --rank 8 --rate 5e-3 --dropout 0 --average 0.8 --evaluate-every 50"


def planted(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows as in `rnx rerank`, with grades: the four words in any order."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        words = chance.sample(list(GRADES), len(GRADES))
        texts = [f"{word} {chance.choice(LETTERS)}" for word in words]
        found = [
            {"docid": str(i), "text": text, "grade": GRADES[words[i]]}
            for i, text in enumerate(texts)
        ]
        rows.append({"qid": f"q{number}", "query": "a", "candidates": found})
    return rows


def write(folder: Path, seed: int = 0) -> None:
    """model/, prompt.json, train.jsonl and dev.jsonl, and their judgments as qrels."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny(folder / "model")
    (folder / "prompt.json").write_text(json.dumps(PROMPT))
    for name, count, of in (("train", 200, seed), ("dev", 40, seed + 1)):
        rows = planted(count, of)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        judged = [
            f"{row['qid']} 0 {one['docid']} {one['grade']}\n"
            for row in rows
            for one in row["candidates"]
        ]
        (folder / f"{name}.qrels").write_text("".join(judged))


def arguments(folder: Path) -> list[str]:
    """What `training.train_vlm` is told."""
    places = {
        "base": "model",
        "prompt": "prompt.json",
        "lists": "train.jsonl",
        "dev": "dev.jsonl",
        "work": "work",
        "to": "adapter",
    }
    named = [word for name, place in places.items() for word in (f"--{name}", str(folder / place))]
    return [*named, "--device", "cpu", "--keep-activations", *SETTINGS.split()]


def main(asked: Sequence[str] | None = None) -> None:
    """Writes, trains, and looks whether the order was learned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument(
        "--write-only", action="store_true", help="leave the training to another command"
    )
    found = parser.parse_args(asked)
    write(found.to)
    if found.write_only:
        return
    torch.set_num_threads(1)  # more of them wait for each other over matrices this small
    train_vlm(arguments(found.to))
    history = json.loads((found.to / "adapter" / "record.json").read_text())["history"]
    before, after = history[0]["mean"], max(row["mean"] for row in history)
    print(f"planted order, held-out lists: nDCG@10 {before:.3f} -> {after:.3f}", flush=True)
    if after < before + RISE:
        raise SystemExit("the planted order was not learned")


if __name__ == "__main__":
    main()
