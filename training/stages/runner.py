"""Stages carried out one after the other, each resumed where it was killed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ir_measures import Measure
from torch import Tensor

from llama_index_rnx.errors import RNXError
from training.data import GradedList, kept_lists
from training.engine import (
    GradedListTask,
    Learner,
    Lists,
    Record,
    Stage,
    Trainer,
    checkpoint,
    record_of,
    run_lists,
)
from training.evaluation import (
    MEASURES,
    NDCG10,
    Values,
    add_row,
    bootstrap,
    evaluate,
    first_run,
    mean,
    qrels_of,
    rows_of,
    today,
)

ENDED = "weights.safetensors"  # what a stage leaves when it ended


class CurriculumData(Protocol):
    """Data of one kind, and the learner that fits it. Everything is a function of what is asked for
    and of the seed.
    """

    def learner(self) -> Learner:
        """Untrained; the same at every call."""
        ...

    def development(self) -> Lists:
        """Every development set, by name; they depend on no trained weights, so that all stages can
        be compared.
        """
        ...

    def lists(self, source: str, stage: Stage, learner: Learner, turn: int) -> Sequence[GradedList]:
        """The lists of one source for one round of a stage, mined by the learner as it now is where
        the stage says so.
        """
        ...

    def retriever(self, stage: Stage, learner: Learner, work: Path, record: Record) -> list[float]:
        """A stage with negatives "in batch": it trains the learner with a loop of its own, and
        gives back its losses.
        """
        ...

    def settle(self, learner: Learner) -> None:
        """Compute anew what follows from the weights and is not learned."""
        ...

    def files(self) -> Mapping[str, str]:
        """The sha256 of every file that was read, by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage's training left behind beside the weights: the loss of every step, and the time
    it took.
    """

    losses: list[float]
    seconds: float


def run_stages(stages: Sequence[Stage], material: CurriculumData, work: Path, seed: int) -> Learner:
    """Every stage in order, each from the last one's weights; what was done before is not done
    again.
    """
    learner, sets, folder = material.learner(), material.development(), work
    for stage in stages:
        folder, start = folder / stage.name, copied(learner)
        outcome = carry_out(stage, learner, material, sets, folder, seed)
        path, chain = work / "results.jsonl", folder.relative_to(work).parts
        if not any(row["chain"] == list(chain) and row["seed"] == seed for row in rows_of(path)):
            add_row(
                path,
                row_of(
                    stage,
                    chain,
                    learner,
                    start,
                    sets,
                    outcome,
                    record_of(asdict(stage), seed, material.files()),
                ),
            )
    return learner


def carry_out(
    stage: Stage, learner: Learner, material: CurriculumData, sets: Lists, folder: Path, seed: int
) -> Outcome:
    """One stage: it leaves the learner trained, and `weights.safetensors` in the folder."""
    record, path = record_of(asdict(stage), seed, material.files()), folder / ENDED
    if (
        path.exists() and stage.negatives != "in batch"
    ):  # such a stage brings more than weights: a tower, a calibration
        tensors, header = checkpoint.read(path)
        checkpoint.check_same_run(path, header, record)
        learner.load(tensors)
        material.settle(learner)  # changes nothing in them, and reads what a measurement will need
        return Outcome(**header["outcome"])
    outcome = fit(stage, learner, material, sets, folder, record)
    material.settle(learner)
    checkpoint.write(
        path, learner.weights(), {"record": asdict(record), "outcome": asdict(outcome)}
    )
    return outcome


def fit(
    stage: Stage,
    learner: Learner,
    material: CurriculumData,
    sets: Lists,
    folder: Path,
    record: Record,
) -> Outcome:
    """The training itself: by lists, or by the retriever's batches of pairs."""
    if stage.negatives == "in batch":
        began = time.monotonic()
        return Outcome(
            losses=material.retriever(stage, learner, folder, record),
            seconds=time.monotonic() - began,
        )

    def lists(turn: int) -> Lists:
        return {
            name: kept(
                folder / f"{name}-{turn}.jsonl", partial(material.lists, name, stage, learner, turn)
            )
            for name, _ in stage.sources
        }

    kept = kept_lists if stage.negatives == "mined" else lambda _, make: make()
    dev_sets = {name: sets[name] for name in stage.dev_sets}
    task = GradedListTask(learner, stage, lists, dev_sets, record.seed)
    trainer = Trainer(task, folder, record)
    trainer.train()
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
    """What a stage gave: every measure on every development set, and the gain in nDCG@10 over where
    it started.
    """
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
        "metrics": {
            name: {str(measure): mean(values) for measure, values in of.items()}
            for name, of in after.items()
        },
        "before": {name: mean(of[NDCG10]) for name, of in before.items()},
        "gain": {
            name: asdict(bootstrap(after[name][NDCG10], before[name][NDCG10])) for name in sets
        },
        "given": {
            name: mean(evaluate(qrels_of(of), first_run(of)))
            for name, of in sets.items()
            if all(one.first for one in of)
        },
        "loss": {
            "first": sum(outcome.losses[:part]) / part,
            "last": sum(outcome.losses[-part:]) / part,
        },
        "steps": len(outcome.losses),
        "seconds": round(outcome.seconds, 1),
        **asdict(record),
    }


def measured(learner: Learner, sets: Lists) -> dict[str, dict[Measure, Values]]:
    """Every measure of every list of every set."""
    runs = {name: run_lists(learner, lists) for name, lists in sets.items()}
    return {
        name: {m: evaluate(qrels_of(lists), runs[name], m) for m in MEASURES}
        for name, lists in sets.items()
    }


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
        raise RNXError(
            f"--stages {' '.join(wrong)}: there is no such stage; allowed are {', '.join(known)}."
        )
    return [stage for stage in stages if not names or stage.name in names]


def scaled(stage: Stage, scale: float) -> Stage:
    """The same stage with a share of its steps, and as many evaluations.

    Raises:
        RNXError: the share is nothing.
    """
    if not 0.0 < scale <= 1.0:
        raise RNXError(f"--scale is {scale}; it must be above 0 and at most 1.")
    steps, every = (
        max(stage.mining_rounds, round(scale * count))
        for count in (stage.steps, stage.evaluate_every)
    )
    return replace(stage, steps=steps, evaluate_every=every)


def chains(stages: Sequence[Stage], without: str | None) -> list[list[Stage]]:
    """The sequences of stages that are asked for: all; all without one; all, and then without each
    in turn.

    Raises:
        RNXError: no stage has that name.
    """
    names = [stage.name for stage in stages]
    if without is None:
        return [list(stages)]
    if without != "each" and without not in names:
        raise RNXError(
            f"--without {without!r}: there is no such stage; allowed are {', '.join(names)}, each."
        )
    left_out = [
        [stage for stage in stages if stage.name != name]
        for name in names
        if without in (name, "each")
    ]
    return [list(stages), *left_out] if without == "each" else left_out
