"""What one stage of training is: a frozen record. It knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a curriculum, as data: what is read, what is trained, how and for how long.

    mix: the sources of lists and how often each is drawn. development: the sets that select the
    best weights (their mean). negatives: where the wrong candidates come from, "given" with the
    lists, or "mined" by the ranker as it then is, anew in each of `rounds` equal parts of the
    steps. teacher: where the grades come from. candidates: how many of a list are read in a step, a
    half more or less, but not more than `most`, which a ranker's window may ask for. trained: the
    parts of the learner, by their names. scalar_rate: of the few numbers that calibrate scores;
    they may move faster than matrices. average: how much of the moving average stays at every step.
    """

    name: str
    mix: tuple[tuple[str, float], ...]
    development: tuple[str, ...]
    trained: tuple[str, ...]
    steps: int
    negatives: str = "given"
    rounds: int = 1
    teacher: str = "grades"
    candidates: int = 24
    most: int = 1_000
    lists_a_step: int = 6
    loss: str = "mixed"
    rate: float = 2e-4
    scalar_rate: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.05
    clip: float = 1.0
    average: float = 0.98
    evaluate_every: int = 150
