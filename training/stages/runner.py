"""Stages carried out one after the other; a killed run goes on where it was. It knows no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ir_measures import Measure
from torch import Tensor

from llama_index_rnx.errors import SettingsError
from training.data import GradedList, load_or_build_lists
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

# The file that a stage leaves when it has ended.
ENDED = "weights.safetensors"

RESULTS = "results.jsonl"

# Of a set: every measure of every list.
Metrics = dict[str, dict[Measure, Values]]


class CurriculumData(Protocol):
    """Data of one kind, and the learner that fits it. All of it depends on the seed alone."""

    def build_learner(self) -> Learner:
        """Return an untrained learner; the same at every call."""
        ...

    def build_dev_sets(self) -> Lists:
        """Return every development set by its name.

        They depend on no trained weights, so that all stages can be compared.
        """
        ...

    def build_lists(
        self, source: str, stage: Stage, learner: Learner, mining_round: int
    ) -> Sequence[GradedList]:
        """Return the lists of one source for one round of a stage.

        The learner as it now is mines them where the stage asks for that.
        """
        ...

    def train_retriever(
        self, stage: Stage, learner: Learner, work: Path, record: Record
    ) -> list[float]:
        """Train the learner in a stage with negatives "in batch", and return the losses.

        Such a stage reads pairs, not lists.
        """
        ...

    def refresh_statistics(self, learner: Learner) -> None:
        """Compute anew what follows from the learner's weights and is not learned."""
        ...

    def file_hashes(self) -> Mapping[str, str]:
        """Return the sha256 of every file that was read, by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The record of a stage's training: the loss of every step, and its seconds."""

    losses: list[float]
    seconds: float


def run_stages(stages: Sequence[Stage], data: CurriculumData, work: Path, seed: int) -> Learner:
    """Carry out every stage in order, each from the last one's weights.

    Stages that ended in an earlier run are read, not trained again. Each stage adds one row to
    `results.jsonl` in the work folder.
    """
    learner = data.build_learner()
    dev_sets = data.build_dev_sets()
    results = work / RESULTS
    folder = work
    for stage in stages:
        folder = folder / stage.name
        chain = folder.relative_to(work).parts
        start = copy_weights(learner)
        outcome = run_stage(stage, learner, data, dev_sets, folder, seed)
        if not _has_row(results, chain, seed):
            record = record_of(asdict(stage), seed, data.file_hashes())
            add_row(results, _result_row(chain, learner, start, dev_sets, outcome, record))
    return learner


def run_stage(
    stage: Stage, learner: Learner, data: CurriculumData, dev_sets: Lists, folder: Path, seed: int
) -> Outcome:
    """Train one stage, or read it where it has ended; the learner is left trained.

    A stage that ends leaves `weights.safetensors` in the folder.
    """
    record = record_of(asdict(stage), seed, data.file_hashes())
    path = folder / ENDED
    # A stage with negatives in the batch leaves more than weights (an encoder, a calibration), so
    # the data reads it again.
    if path.exists() and stage.negatives != "in batch":
        tensors, header = checkpoint.read(path)
        checkpoint.check_same_run(path, header, record)
        learner.load(tensors)
        # It changes nothing in the weights, and reads what a measurement will need.
        data.refresh_statistics(learner)
        return Outcome(**header["outcome"])

    outcome = train_stage(stage, learner, data, dev_sets, folder, record)
    data.refresh_statistics(learner)
    header = {"record": asdict(record), "outcome": asdict(outcome)}
    checkpoint.write(path, learner.weights(), header)
    return outcome


def train_stage(
    stage: Stage,
    learner: Learner,
    data: CurriculumData,
    dev_sets: Lists,
    folder: Path,
    record: Record,
) -> Outcome:
    """Train one stage: on lists, or on the retriever's batches of pairs."""
    if stage.negatives == "in batch":
        started = time.monotonic()
        losses = data.train_retriever(stage, learner, folder, record)
        return Outcome(losses=losses, seconds=time.monotonic() - started)

    def lists_of_round(mining_round: int) -> Lists:
        lists = {}
        for source, _ in stage.sources:
            build = partial(data.build_lists, source, stage, learner, mining_round)
            path = folder / f"{source}-{mining_round}.jsonl"
            lists[source] = _load_or_build(stage, path, build)
        return lists

    stage_sets = {name: dev_sets[name] for name in stage.dev_sets}
    task = GradedListTask(learner, stage, lists_of_round, stage_sets, record.seed)
    trainer = Trainer(task, folder, record)
    trainer.train()
    return Outcome(losses=trainer.losses, seconds=trainer.seconds)


def _load_or_build(
    stage: Stage, path: Path, build: Callable[[], Sequence[GradedList]]
) -> Sequence[GradedList]:
    """Return lists; mined ones are kept in a file, so that a resumed run reads the same ones."""
    if stage.negatives == "mined":
        return load_or_build_lists(path, build)
    return build()


def _has_row(results: Path, chain: Sequence[str], seed: int) -> bool:
    return any(row["chain"] == list(chain) and row["seed"] == seed for row in rows_of(results))


def _result_row(
    chain: Sequence[str],
    learner: Learner,
    start: Mapping[str, Tensor],
    dev_sets: Lists,
    outcome: Outcome,
    record: Record,
) -> dict[str, Any]:
    """Return the row of a stage: every measure of every development set, and the gain in nDCG@10
    over the weights from which the stage started.
    """
    after = measure(learner, dev_sets)
    trained = copy_weights(learner)
    learner.load(start)
    before = measure(learner, dev_sets)
    learner.load(trained)
    return {
        "kind": "stage",
        "date": today(),
        "stage": chain[-1],
        "chain": list(chain),
        "metrics": {name: _means(metrics) for name, metrics in after.items()},
        "before": {name: mean(metrics[NDCG10]) for name, metrics in before.items()},
        "gain": {
            name: asdict(bootstrap(after[name][NDCG10], before[name][NDCG10])) for name in dev_sets
        },
        "given": _first_stage_ndcg(dev_sets),
        "loss": _first_and_last_loss(outcome.losses),
        "steps": len(outcome.losses),
        "seconds": round(outcome.seconds, 1),
        **asdict(record),
    }


def _means(metrics: Mapping[Measure, Values]) -> dict[str, float]:
    return {str(name): mean(values) for name, values in metrics.items()}


def _first_stage_ndcg(dev_sets: Lists) -> dict[str, float]:
    """Return nDCG@10 of the first stage's order, where a set has one."""
    scored = {
        name: lists
        for name, lists in dev_sets.items()
        if all(graded_list.first for graded_list in lists)
    }
    return {
        name: mean(evaluate(qrels_of(lists), first_run(lists))) for name, lists in scored.items()
    }


def _first_and_last_loss(losses: Sequence[float]) -> dict[str, float]:
    """Return the mean loss over the first fifth of the steps, and over the last fifth."""
    fifth = max(1, len(losses) // 5)
    return {"first": sum(losses[:fifth]) / fifth, "last": sum(losses[-fifth:]) / fifth}


def measure(learner: Learner, dev_sets: Lists) -> Metrics:
    """Return every measure of every list of every set."""
    metrics: Metrics = {}
    for name, lists in dev_sets.items():
        run = run_lists(learner, lists)
        qrels = qrels_of(lists)
        metrics[name] = {metric: evaluate(qrels, run, metric) for metric in MEASURES}
    return metrics


def copy_weights(learner: Learner) -> dict[str, Tensor]:
    """Return copies of the learner's weights."""
    return {name: tensor.detach().clone() for name, tensor in learner.weights().items()}


def select_stages(stages: Sequence[Stage], names: Sequence[str] | None) -> list[Stage]:
    """Return the stages of these names, in the curriculum's order; all of them for no names.

    Raises:
        SettingsError: no stage has one of the names.
    """
    allowed = [stage.name for stage in stages]
    unknown = [name for name in names or () if name not in allowed]
    if unknown:
        raise SettingsError(
            f"--stages {' '.join(unknown)}: there is no such stage; "
            f"allowed are {', '.join(allowed)}."
        )
    return [stage for stage in stages if not names or stage.name in names]


def scale_stage(stage: Stage, scale: float) -> Stage:
    """Return the same stage with a share of its steps, and as many evaluations.

    Raises:
        SettingsError: the share is not above 0, or is above 1.
    """
    if not 0.0 < scale <= 1.0:
        raise SettingsError(f"--scale is {scale}; it must be above 0 and at most 1.")
    steps = max(stage.mining_rounds, round(scale * stage.steps))
    evaluate_every = max(stage.mining_rounds, round(scale * stage.evaluate_every))
    return replace(stage, steps=steps, evaluate_every=evaluate_every)


def ablation_chains(stages: Sequence[Stage], without: str | None) -> list[list[Stage]]:
    """Return the sequences of stages to run: all stages; or all without one of them; or, for
    "each", all stages and then all without each in turn.

    Raises:
        SettingsError: no stage has that name.
    """
    names = [stage.name for stage in stages]
    if without is None:
        return [list(stages)]
    if without != "each" and without not in names:
        raise SettingsError(
            f"--without {without!r}: there is no such stage; allowed are {', '.join(names)}, each."
        )
    if without != "each":
        return [[stage for stage in stages if stage.name != without]]
    return [list(stages), *([stage for stage in stages if stage.name != name] for name in names)]
