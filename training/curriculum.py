"""The progressive cross-modal curriculum: its stages as data, and how they are carried out one
after the other.

    python -m training.curriculum --data generated --work DIR                       # every stage, on made-up data, a minute
    python -m training.curriculum --data "$RNX_DATA" --work DIR --text GTE --tower LITE2.pth --to FOLDER
    python -m training.curriculum ... --without image-lists                         # an ablation; `--without each`: all of them

A stage lies in the folder of the one before it (`retriever/text-lists/...`) and starts from what is
there, so an ablation shares what it can. A killed run goes on where it was, with the same result.
Each ended stage adds a row to `results.jsonl`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from training.evaluation import chain_of, rows_of, write_history
from training.stages import (
    MINI,
    PICTURES,
    SMOKE,
    CurriculumData,
    DevelopmentData,
    Sources,
    SyntheticData,
    caption_teacher,
    chains,
    chosen,
    run_stages,
    scaled,
)


def material_of(asked: argparse.Namespace) -> CurriculumData:
    """What `--data` names.

    Raises:
        RNXError: weights are wanting that the development data need.
    """
    if asked.data == "generated":
        return SyntheticData(asked.work / "data", asked.seed)
    if asked.text is None or asked.tower is None:
        raise RNXError(
            "--data FOLDER needs --text and --tower, the weights to start from; training/runs/mini.sh gets them."
        )
    os.environ["RNX_DATA"] = asked.data
    teacher = caption_teacher(asked.teacher) if asked.teacher else None
    cache = asked.cache or asked.work / "cache"
    sources = Sources(
        text=asked.text,
        tower=asked.tower,
        cache=cache,
        retriever=asked.retriever,
        pictures=asked.pictures,
    )
    return DevelopmentData(sources, asked.seed, teacher)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, help="`generated`, or the folder of the development data"
    )
    parser.add_argument("--work", type=Path, required=True, help="stages, caches and results.jsonl")
    parser.add_argument("--text", type=Path, help="gte-small: model.safetensors and tokenizer.json")
    parser.add_argument(
        "--tower", type=Path, help="EfficientNet-Lite2 as its package has it, a .pth"
    )
    parser.add_argument(
        "--cache", type=Path, help="states of texts and maps of pictures (default: WORK/cache)"
    )
    parser.add_argument(
        "--retriever", type=Path, help="an image part trained before, in place of stage 0"
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        help="a sentence-transformers embedder that grades pictures by their captions",
    )
    parser.add_argument(
        "--to",
        type=Path,
        help="write the checkpoint of rnx-mini here, of the last sequence that was run",
    )
    parser.add_argument("--stages", nargs="+", help="only these, in the curriculum's order")
    parser.add_argument(
        "--without", help="leave this stage out; `each`: all stages, then all without each in turn"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all steps: 0.02 rehearses everything"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=PICTURES,
        help="of Flickr8k and of OpenStax each that lists are drawn from",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    try:
        stages = [
            scaled(stage, found.scale)
            for stage in chosen(SMOKE if found.data == "generated" else MINI, found.stages)
        ]
        material = material_of(found)
        for chain in chains(stages, found.without):
            learner = run_stages(chain, material, found.work, found.seed)
        if found.to:
            rows = rows_of(found.work / "results.jsonl")
            learner.save(found.to)
            write_history(
                found.to,
                chain_of(
                    rows,
                    next(row for row in rows if row["chain"] == [stage.name for stage in chain]),
                ),
            )
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
