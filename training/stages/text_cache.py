"""The cache of text states that the curriculum reads: every text of the training and development
lists, encoded once by the frozen text encoder. It trains nothing.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from llama_index_rnx.system import atomic_write
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
from training.features import QUERY_PREFIX, TextStateCache, idf, texts_of
from training.mini import TextEncoder
from training.stages.mixtures import PAIRS, insurance_split

# The texts that weigh word pieces.
WEIGHED = ("passages", "scifact")


def fill_text_cache(encoder_folder: Path, cache_folder: Path) -> int:
    """Write `idf.safetensors` and the blocks of states that are missing; return the number of all
    texts.

    encoder_folder: `model.safetensors` and `tokenizer.json` of gte-small.
    """
    encoder = TextEncoder(TextEncoder.tokenizer_from(encoder_folder)).eval()
    encoder.load_state_dict(load_file(encoder_folder / "model.safetensors"))
    encoder.bfloat16()
    texts = _texts(DataFolder.from_environment())

    weights = cache_folder / "idf.safetensors"
    if not weights.exists():
        cache_folder.mkdir(parents=True, exist_ok=True)
        weighed = {text for name in WEIGHED for text in texts[name]}
        documents = sorted(text for text in weighed if not text.startswith(QUERY_PREFIX))
        with atomic_write(weights) as partial:
            save_file({"weights": idf(encoder, documents)}, partial)

    cache = TextStateCache(cache_folder, load_file(weights)["weights"])
    for name, group in texts.items():
        cache.fill(encoder, group, name)
    return len(cache.entries)


def _texts(folder: DataFolder) -> dict[str, list[str]]:
    """Return all texts by source, queries with their prefix."""
    passages = [
        *trec(folder, "dl19", ("bm25",)),
        *trec(folder, "dl21", ("bm25", "splade")),
        *distilled(folder, "dl22"),
        *rag24(folder, "train"),
        *rag24(folder, "dev"),
    ]
    training, held_out = insurance_split(folder)
    answers = [*training, *held_out, *insuranceqa(folder, "valid", 400, 200)]
    claims = [claim["claim"] for split in scifact_claims(folder) for claim in split]
    pairs = [pair for source in query_text_pairs(folder, PAIRS).values() for pair in source]
    return {
        "passages": texts_of(passages),
        "scifact": [
            *(f"{QUERY_PREFIX}{claim}" for claim in claims),
            *scifact_corpus(folder).values(),
        ],
        "insuranceqa": texts_of(answers),
        "mediqa": texts_of([*mediqa(folder, "train"), *mediqa(folder, "dev")]),
        "mmdocir": texts_of(mmdocir(folder)),
        "pairs": [text for query, answer in pairs for text in (f"{QUERY_PREFIX}{query}", answer)],
    }
