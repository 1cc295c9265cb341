"""The paired bootstrap: how certain a difference between two runs is. It knows no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.evaluation.metrics import MEASURES, Qrels, Run, Values, evaluate, mean

# How often queries are drawn anew.
SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of (ours - theirs) over queries and its 95 % interval by paired bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bootstrap(ours: Values, theirs: Values, samples: int = SAMPLES, seed: int = 0) -> Difference:
    """Return the mean difference over queries with its interval.

    Queries are drawn with replacement, both runs on the same draw.
    """
    differences = torch.tensor(
        [ours[qid] - theirs[qid] for qid in ours], dtype=torch.float64
    )  # [queries]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(differences), (samples, len(differences)), generator=generator)

    means = differences[draws].mean(1).sort().values  # [samples]
    return Difference(
        mean=float(differences.mean()),
        low=float(means[int(0.025 * samples)]),
        high=float(means[int(0.975 * samples)]),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of a run, and what it adds to another run where there is one."""

    value: float
    before: float | None = None
    gain: Difference | None = None

    def __str__(self) -> str:
        if self.gain is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f}  before {self.before:.4f}  {self.gain}"


def compare(qrels: Qrels, ours: Run, theirs: Run | None = None) -> dict[str, Comparison]:
    """Return every measure of our run by its name, compared with their run where there is one."""
    comparisons = {}
    for measure in MEASURES:
        values = evaluate(qrels, ours, measure)
        if theirs is None:
            comparisons[str(measure)] = Comparison(value=mean(values))
            continue
        before = evaluate(qrels, theirs, measure)
        comparisons[str(measure)] = Comparison(
            value=mean(values), before=mean(before), gain=bootstrap(values, before)
        )
    return comparisons
