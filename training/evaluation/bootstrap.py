"""Paired bootstrap: how sure a difference between two runs is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.evaluation.metrics import MEASURES, Run, Values, evaluate, mean

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
    """Paired: queries are drawn with replacement, both runs on the same draw."""
    change = torch.tensor(
        [ours[qid] - theirs[qid] for qid in ours], dtype=torch.float64
    )  # [queries]
    draws = torch.randint(
        len(change), (samples, len(change)), generator=torch.Generator().manual_seed(seed)
    )
    means = change[draws].mean(1).sort().values  # [samples]
    return Difference(
        mean=float(change.mean()),
        low=float(means[int(0.025 * samples)]),
        high=float(means[int(0.975 * samples)]),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of a run, and what it adds to another run."""

    value: float
    before: float | None = None
    gain: Difference | None = None

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (
            f"  before {self.before:.4f}  {self.gain}" if self.gain else ""
        )


def compare(
    qrels: Mapping[str, Mapping[str, int]], ours: Run, theirs: Run | None = None
) -> dict[str, Comparison]:
    """Every measure, by its name."""
    found = {}
    for measure in MEASURES:
        values = evaluate(qrels, ours, measure)
        before = evaluate(qrels, theirs, measure) if theirs is not None else None
        gain = bootstrap(values, before) if before is not None else None
        found[str(measure)] = Comparison(
            value=mean(values), before=mean(before) if before is not None else None, gain=gain
        )
    return found
