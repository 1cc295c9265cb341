"""Encode every text of the training and development lists with the frozen text tower:
`idf.safetensors` and blocks.

`python -m training.fill_cache --tower DIR --cache DIR` (resumes; about 20 minutes on one core with
bf16 instructions)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llama_index_rnx.rankers.mini import TextEncoder
from training.data import (
    DataFolder,
    distilled,
    insuranceqa,
    mediqa,
    mmdocir,
    query_text_pairs,
    rag24,
    scifact_claims,
    scifact_corpus,
    trec,
)
from training.features import TextStateCache, idf, texts_of
from training.stages import PAIRS, insurance_split


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tower",
        type=Path,
        required=True,
        help="model.safetensors and tokenizer.json of gte-small",
    )
    parser.add_argument("--cache", type=Path, required=True)
    found = parser.parse_args()
    torch.set_num_threads(1)
    tower = TextEncoder(TextEncoder.tokenizer_from(found.tower)).eval()
    tower.load_state_dict(load_file(found.tower / "model.safetensors"))
    tower.bfloat16()
    folder = DataFolder.from_environment()
    runs = ("bm25", "splade")
    passages = [
        *trec(folder, "dl19", ("bm25",)),
        *trec(folder, "dl21", runs),
        *distilled(folder, "dl22"),
        *rag24(folder, "train"),
        *rag24(folder, "dev"),
    ]
    training, held = insurance_split(folder)
    answers = [*training, *held, *insuranceqa(folder, "valid", 400, 200)]
    claims = [f"query:{claim['claim']}" for part in scifact_claims(folder) for claim in part]
    parts = {
        "passages": texts_of(passages),
        "scifact": [*claims, *scifact_corpus(folder).values()],
        "insuranceqa": texts_of(answers),
        "mediqa": texts_of([*mediqa(folder, "train"), *mediqa(folder, "dev")]),
        "mmdocir": texts_of(mmdocir(folder)),
        "pairs": [
            text
            for of in query_text_pairs(folder, PAIRS).values()
            for query, answer in of
            for text in (f"query:{query}", answer)
        ],
    }
    weights = found.cache / "idf.safetensors"
    if not weights.exists():
        found.cache.mkdir(parents=True, exist_ok=True)
        known = [
            text
            for name in ("passages", "scifact")
            for text in parts[name]
            if not text.startswith("query:")
        ]
        save_file({"weights": idf(tower, sorted(set(known)))}, weights)
    cache = TextStateCache(found.cache, load_file(weights)["weights"])
    for name, texts in parts.items():
        cache.fill(tower, texts, name)


if __name__ == "__main__":
    main()
