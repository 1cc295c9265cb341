"""Shows the results of each stage, as a plot and as tables. It knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.evaluation.results import Row, longest_chain


def draw(rows: Sequence[Row], path: Path) -> None:
    """Plot nDCG@10 of every development set before the curriculum and after each of its stages.

    The bars are the 95 % intervals of each stage's gain.

    Raises:
        SettingsError: no stage has ended yet.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chain = longest_chain(rows)
    stages = ["before", *(row["stage"] for row in chain)]
    figure, axes = pyplot.subplots(figsize=(1.6 + 1.6 * len(stages), 4.2), layout="constrained")
    for dev_set in chain[0]["metrics"]:
        gains = [row["gain"][dev_set] for row in chain]
        values = [chain[0]["before"][dev_set]]
        values += [row["metrics"][dev_set]["nDCG@10"] for row in chain]
        below = [0.0, *(gain["mean"] - gain["low"] for gain in gains)]
        above = [0.0, *(gain["high"] - gain["mean"] for gain in gains)]
        axes.errorbar(stages, values, yerr=[below, above], marker="o", capsize=3, label=dev_set)

    title = "Development sets after each stage (95 % interval of the stage's gain)"
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("nDCG@10")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(rows: Sequence[Row]) -> list[str]:
    """Return one line a stage and chain: the gain on every development set, loss and seconds."""
    return [_stage_line(row) for row in rows if row.get("kind") == "stage"]


def _stage_line(row: Row) -> str:
    gains = []
    for dev_set, gain in row["gain"].items():
        value = row["metrics"][dev_set]["nDCG@10"]
        interval = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        gains.append(f"{dev_set} {value:.4f} ({interval})")
    loss = f"loss {row['loss']['first']:.3f} -> {row['loss']['last']:.3f}"
    chain = " / ".join(row["chain"])
    return f"{chain}: {'  '.join(gains)}  {loss}, {row['seconds']:.0f} s"


def ablations(rows: Sequence[Row]) -> list[str]:
    """Return one line a stage that was left out: nDCG@10 at the end of all other stages.

    Each value is followed by its difference from the curriculum with all stages.
    """
    stages = {tuple(row["chain"]): row for row in rows if row.get("kind") == "stage"}
    whole = max(stages, key=len, default=())
    lines = []
    for left_out in whole:
        rest = stages.get(tuple(name for name in whole if name != left_out))
        if rest is None:
            continue
        values = []
        for dev_set, metrics in stages[whole]["metrics"].items():
            value = rest["metrics"][dev_set]["nDCG@10"]
            values.append(f"{dev_set} {value:.4f} ({value - metrics['nDCG@10']:+.4f})")
        lines.append(f"without {left_out}: {'  '.join(values)}")
    return lines
