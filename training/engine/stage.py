"""One stage of training, as a frozen record. It knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a curriculum, as data: what it reads, what it trains, how and for how long.

    Every field is part of a run's record: a run resumes only with the fields that it began with.

    Args:
        name: of the stage, of its folder, and part of the seed of everything that is drawn.
        sources: (name, weight) of every source of lists; a step draws its lists by these weights.
        dev_sets: names of the development sets whose mean nDCG@10 selects the best weights.
        trainable: names of the learner's modules that this stage trains; all others are frozen.
        steps: optimizer steps.
        negatives: where irrelevant candidates come from: "given" with the lists, "mined" by the
            ranker as it then is, or "in batch" (stage 0, which trains on pairs).
        mining_rounds: equal parts of the steps; negatives are mined anew at the start of each.
        teacher: where the grades come from (a note for the reader of the record).
        list_length: candidates sampled per list and step, uniformly within +/- 50 %.
        max_list_length: upper bound of that sample, for rankers with a window.
        batch_size: lists per step; their losses are averaged.
        loss: a name in `LOSSES`.
        learning_rate: peak rate of matrices and vectors.
        scalar_learning_rate: peak rate of the few numbers that calibrate scores; they may move
            faster than matrices.
        warmup: share of the steps in which the rate rises linearly.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        ema_decay: share of the moving average of the weights that stays at every step.
        evaluate_every: steps between two evaluations.
    """

    name: str
    sources: tuple[tuple[str, float], ...]
    dev_sets: tuple[str, ...]
    trainable: tuple[str, ...]
    steps: int
    negatives: str = "given"
    mining_rounds: int = 1
    teacher: str = "grades"
    list_length: int = 24
    max_list_length: int = 1_000
    batch_size: int = 6
    loss: str = "mixed"
    learning_rate: float = 2e-4
    scalar_learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.98
    evaluate_every: int = 150
