"""The progressive cross-modal curriculum: its stages as data, and how they are carried out one after the other.

    python -m training.curriculum --data generated --work DIR                       # every stage, on made-up data, a minute
    python -m training.curriculum --data "$RNX_DATA" --work DIR --text GTE --tower LITE2.pth --to FOLDER
    python -m training.curriculum ... --without image-lists                         # an ablation; `--without each`: all of them

A stage lies in the folder of the one before it (`retriever/text-lists/...`) and starts from what is there, so an ablation
shares what it can. A killed run goes on where it was, with the same result. Each ended stage adds a row to `results.jsonl`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from ir_measures import Measure
from torch import Tensor

from llama_index_rnx.errors import RNXError
from training.data import GradedList, kept_lists
from training.engine import Learner, Lists, Record, Stage, Trainer, checkpoint, record_of, run_lists, train
from training.evaluate import MEASURES, NDCG10, Values, bootstrap, evaluate, first_run, mean, qrels_of
from training.progress import add_row, chain_of, rows_of, today, write_history
from training.stages import PICTURES, WEIGHTS, DevelopmentMaterial, GeneratedMaterial, Sources, caption_teacher

ENDED = "weights.safetensors"  # what a stage leaves when it ended
READER = ("reader.base", "reader.compress", "reader.joint", "reader.list")

MINI = (
    Stage(
        name="retriever",
        mix=(("flickr", 1.0), ("openstax", 0.33)),
        development=("flickr", "openstax"),
        trained=("tower", "image"),
        steps=260,
        negatives="in batch",
        teacher="pairs",
        loss="info_nce",
        candidates=256,
        rate=1e-3,
    ),
    Stage(
        name="text-lists",
        mix=tuple(WEIGHTS.items()),
        development=("rag24", "dl21", "scifact", "insuranceqa", "mediqa"),
        trained=READER,
        steps=600,
        negatives="mined",
        rounds=3,
        teacher="judgments; SPLADE++ and the text tower where there are none",
    ),
    Stage(
        name="image-lists",
        mix=(("flickr", 1.0), ("openstax", 0.5)),
        development=("flickr", "openstax"),
        trained=("image",),
        steps=300,
        negatives="mined",
        rounds=3,
        teacher="captions",
        loss="mixed",
        candidates=20,
        lists_a_step=8,
        rate=1e-4,
        scalar_rate=1e-3,
        evaluate_every=50,
    ),
    Stage(
        name="joint-lists",
        mix=(("joint-flickr", 1.0), ("joint-openstax", 1.0), ("rag24", 0.2), ("dl21", 0.2), ("scifact", 0.1)),
        development=("joint-flickr", "joint-openstax", "rag24", "dl21", "scifact"),
        trained=("reader.kinds",),  # with the list attention too, joint lists gained .03 to .07 and SciFact lost .10
        steps=60,
        scalar_rate=3e-2,
        average=0.95,
        evaluate_every=20,
    ),
)

SMOKE = (
    Stage(
        name="retriever",
        mix=(("text-pairs", 1.0), ("picture-pairs", 2.0)),
        development=("texts", "pictures"),
        trained=("image", "reader.base", "reader.compress"),
        steps=80,
        negatives="random",
        teacher="pairs",
        loss="softmax_kl",
        candidates=24,
        rate=2e-3,
        scalar_rate=1e-2,
        average=0.9,
        evaluate_every=40,
    ),
    Stage(
        name="text-lists",
        mix=(("texts", 1.0),),
        development=("texts",),
        trained=READER,
        steps=60,
        candidates=12,
        rate=5e-3,
        scalar_rate=1e-2,
        average=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="image-lists",
        mix=(("pictures", 1.0),),
        development=("pictures",),
        trained=("image",),
        steps=60,
        negatives="mined",
        rounds=2,
        teacher="captions",
        loss="softmax_kl",
        candidates=16,
        rate=3e-4,
        scalar_rate=1e-3,
        average=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="joint-lists",
        mix=(("joint", 1.0), ("texts", 0.5)),
        development=("joint", "texts"),
        trained=("reader.kinds", "reader.base", "reader.joint", "reader.list"),
        steps=60,
        rate=2e-3,
        scalar_rate=2e-2,
        average=0.9,
        evaluate_every=20,
    ),
)


class Material(Protocol):
    """Data of one kind, and the learner that fits it. Everything is a function of what is asked for and of the seed."""

    def learner(self) -> Learner:
        """Untrained; the same at every call."""
        ...

    def development(self) -> Lists:
        """Every development set, by name; they depend on no trained weights, so that all stages can be compared."""
        ...

    def lists(self, source: str, stage: Stage, learner: Learner, turn: int) -> Sequence[GradedList]:
        """The lists of one source for one round of a stage, mined by the learner as it now is where the stage says so."""
        ...

    def retriever(self, stage: Stage, learner: Learner, work: Path, record: Record) -> list[float]:
        """A stage with negatives "in batch": it trains the learner with a loop of its own, and gives back its losses."""
        ...

    def settle(self, learner: Learner) -> None:
        """Compute anew what follows from the weights and is not learned."""
        ...

    def files(self) -> Mapping[str, str]:
        """The sha256 of every file that was read, by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage's training left behind beside the weights: the loss of every step, and the time it took."""

    losses: list[float]
    seconds: float


def run(stages: Sequence[Stage], material: Material, work: Path, seed: int) -> Learner:
    """Every stage in order, each from the last one's weights; what was done before is not done again."""
    learner, sets, folder = material.learner(), material.development(), work
    for stage in stages:
        folder, start = folder / stage.name, copied(learner)
        outcome = carry_out(stage, learner, material, sets, folder, seed)
        path, chain = work / "results.jsonl", folder.relative_to(work).parts
        if not any(row["chain"] == list(chain) and row["seed"] == seed for row in rows_of(path)):
            add_row(path, row_of(stage, chain, learner, start, sets, outcome, record_of(asdict(stage), seed, material.files())))
    return learner


def carry_out(stage: Stage, learner: Learner, material: Material, sets: Lists, folder: Path, seed: int) -> Outcome:
    """One stage: it leaves the learner trained, and `weights.safetensors` in the folder."""
    record, path = record_of(asdict(stage), seed, material.files()), folder / ENDED
    if path.exists() and stage.negatives != "in batch":  # such a stage brings more than weights: a tower, a calibration
        tensors, header = checkpoint.read(path)
        checkpoint.refuse_other(path, header, record)
        learner.load(tensors)
        material.settle(learner)  # changes nothing in them, and reads what a measurement will need
        return Outcome(**header["outcome"])
    outcome = fit(stage, learner, material, sets, folder, record)
    material.settle(learner)
    checkpoint.write(path, learner.weights(), {"record": asdict(record), "outcome": asdict(outcome)})
    return outcome


def fit(stage: Stage, learner: Learner, material: Material, sets: Lists, folder: Path, record: Record) -> Outcome:
    """The training itself: by lists, or by the retriever's batches of pairs."""
    if stage.negatives == "in batch":
        began = time.monotonic()
        return Outcome(losses=material.retriever(stage, learner, folder, record), seconds=time.monotonic() - began)

    def lists(turn: int) -> Lists:
        return {
            name: kept(folder / f"{name}-{turn}.jsonl", partial(material.lists, name, stage, learner, turn))
            for name, _ in stage.mix
        }

    kept = kept_lists if stage.negatives == "mined" else lambda _, make: make()
    trainer = Trainer(learner, stage, folder, record)
    train(trainer, lists, {name: sets[name] for name in stage.development})
    return Outcome(losses=trainer.losses, seconds=trainer.seconds)


def row_of(
    stage: Stage,
    chain: Sequence[str],
    learner: Learner,
    start: Mapping[str, Tensor],
    sets: Lists,
    outcome: Outcome,
    record: Record,
) -> dict[str, Any]:
    """What a stage gave: every measure on every development set, and the gain in nDCG@10 over where it started."""
    after, trained = measured(learner, sets), copied(learner)
    learner.load(start)
    before = measured(learner, sets)
    learner.load(trained)
    part = max(1, len(outcome.losses) // 5)
    return {
        "kind": "stage",
        "date": today(),
        "stage": stage.name,
        "chain": list(chain),
        "metrics": {name: {str(measure): mean(values) for measure, values in of.items()} for name, of in after.items()},
        "before": {name: mean(of[NDCG10]) for name, of in before.items()},
        "gain": {name: asdict(bootstrap(after[name][NDCG10], before[name][NDCG10])) for name in sets},
        "given": {
            name: mean(evaluate(qrels_of(of), first_run(of))) for name, of in sets.items() if all(one.first for one in of)
        },
        "loss": {"first": sum(outcome.losses[:part]) / part, "last": sum(outcome.losses[-part:]) / part},
        "steps": len(outcome.losses),
        "seconds": round(outcome.seconds, 1),
        **asdict(record),
    }


def measured(learner: Learner, sets: Lists) -> dict[str, dict[Measure, Values]]:
    """Every measure of every list of every set."""
    runs = {name: run_lists(learner, lists) for name, lists in sets.items()}
    return {name: {m: evaluate(qrels_of(lists), runs[name], m) for m in MEASURES} for name, lists in sets.items()}


def copied(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.weights().items()}


def chosen(stages: Sequence[Stage], names: Sequence[str] | None) -> list[Stage]:
    """The stages of these names, in the curriculum's order; all of them for no names.

    Raises:
        RNXError: no stage has one of the names.
    """
    known = [stage.name for stage in stages]
    wrong = [name for name in names or () if name not in known]
    if wrong:
        raise RNXError(f"--stages {' '.join(wrong)}: there is no such stage; allowed are {', '.join(known)}.")
    return [stage for stage in stages if not names or stage.name in names]


def scaled(stage: Stage, scale: float) -> Stage:
    """The same stage with a share of its steps, and as many evaluations.

    Raises:
        RNXError: the share is nothing.
    """
    if not 0.0 < scale <= 1.0:
        raise RNXError(f"--scale is {scale}; it must be above 0 and at most 1.")
    steps, every = (max(stage.rounds, round(scale * count)) for count in (stage.steps, stage.evaluate_every))
    return replace(stage, steps=steps, evaluate_every=every)


def chains(stages: Sequence[Stage], without: str | None) -> list[list[Stage]]:
    """The sequences of stages that are asked for: all; all without one; all, and then without each in turn.

    Raises:
        RNXError: no stage has that name.
    """
    names = [stage.name for stage in stages]
    if without is None:
        return [list(stages)]
    if without != "each" and without not in names:
        raise RNXError(f"--without {without!r}: there is no such stage; allowed are {', '.join(names)}, each.")
    left_out = [[stage for stage in stages if stage.name != name] for name in names if without in (name, "each")]
    return [list(stages), *left_out] if without == "each" else left_out


def material_of(asked: argparse.Namespace) -> Material:
    """What `--data` names.

    Raises:
        RNXError: weights are wanting that the development data need.
    """
    if asked.data == "generated":
        return GeneratedMaterial(asked.work / "data", asked.seed)
    if asked.text is None or asked.tower is None:
        raise RNXError("--data FOLDER needs --text and --tower, the weights to start from; training/runs/mini.sh gets them.")
    os.environ["RNX_DATA"] = asked.data
    teacher = caption_teacher(asked.teacher) if asked.teacher else None
    cache = asked.cache or asked.work / "cache"
    sources = Sources(text=asked.text, tower=asked.tower, cache=cache, retriever=asked.retriever, pictures=asked.pictures)
    return DevelopmentMaterial(sources, asked.seed, teacher)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="`generated`, or the folder of the development data")
    parser.add_argument("--work", type=Path, required=True, help="stages, caches and results.jsonl")
    parser.add_argument("--text", type=Path, help="gte-small: model.safetensors and tokenizer.json")
    parser.add_argument("--tower", type=Path, help="EfficientNet-Lite2 as its package has it, a .pth")
    parser.add_argument("--cache", type=Path, help="states of texts and maps of pictures (default: WORK/cache)")
    parser.add_argument("--retriever", type=Path, help="an image part trained before, in place of stage 0")
    parser.add_argument("--teacher", type=Path, help="a sentence-transformers embedder that grades pictures by their captions")
    parser.add_argument("--to", type=Path, help="write the checkpoint of rnx-mini here, of the last sequence that was run")
    parser.add_argument("--stages", nargs="+", help="only these, in the curriculum's order")
    parser.add_argument("--without", help="leave this stage out; `each`: all stages, then all without each in turn")
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps: 0.02 rehearses everything")
    parser.add_argument(
        "--pictures", type=int, default=PICTURES, help="of Flickr8k and of OpenStax each that lists are drawn from"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    try:
        stages = [scaled(stage, found.scale) for stage in chosen(SMOKE if found.data == "generated" else MINI, found.stages)]
        material = material_of(found)
        for chain in chains(stages, found.without):
            learner = run(chain, material, found.work, found.seed)
        if found.to:
            rows = rows_of(found.work / "results.jsonl")
            learner.save(found.to)
            write_history(
                found.to, chain_of(rows, next(row for row in rows if row["chain"] == [stage.name for stage in chain]))
            )
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
