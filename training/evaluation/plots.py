"""What each stage gave, as a picture and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.evaluation.results import Row, longest_chain


def draw(rows: Sequence[Row], path: Path) -> None:
    """nDCG@10 of every development set before the curriculum and after each of its stages, with the
    interval of its gain.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chain = longest_chain(rows)
    names = ["before", *(row["stage"] for row in chain)]
    figure, axes = pyplot.subplots(figsize=(1.6 + 1.6 * len(names), 4.2), layout="constrained")
    for name in chain[0]["metrics"]:
        values = [chain[0]["before"][name], *(row["metrics"][name]["nDCG@10"] for row in chain)]
        low = [0.0, *(row["gain"][name]["mean"] - row["gain"][name]["low"] for row in chain)]
        high = [0.0, *(row["gain"][name]["high"] - row["gain"][name]["mean"] for row in chain)]
        axes.errorbar(names, values, yerr=[low, high], marker="o", capsize=3, label=name)
    axes.set_ylabel("nDCG@10")
    axes.set_title(
        "Development sets after each stage (95 % interval of the stage's gain)", fontsize=10
    )
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(rows: Sequence[Row]) -> list[str]:
    """One line a stage and chain: the gain on every development set with its interval, the loss,
    the seconds.
    """
    lines = []
    for row in (row for row in rows if row.get("kind") == "stage"):
        gains = "  ".join(
            f"{name} {row['metrics'][name]['nDCG@10']:.4f} ({of['mean']:+.4f} [{of['low']:+.4f}, {of['high']:+.4f}])"
            for name, of in row["gain"].items()
        )
        loss = f"loss {row['loss']['first']:.3f} -> {row['loss']['last']:.3f}"
        lines.append(f"{' / '.join(row['chain'])}: {gains}  {loss}, {row['seconds']:.0f} s")
    return lines


def ablations(rows: Sequence[Row]) -> list[str]:
    """One line a stage that was left out: nDCG@10 at the end of all others, and how far that is
    from all of them together.
    """
    stages = {tuple(row["chain"]): row for row in rows if row.get("kind") == "stage"}
    whole = max(stages, key=len, default=())
    lines = []
    for name in whole:
        rest = stages.get(tuple(stage for stage in whole if stage != name))
        if rest is not None:
            pairs = [
                (of, rest["metrics"][of]["nDCG@10"], full["nDCG@10"])
                for of, full in stages[whole]["metrics"].items()
            ]
            lines.append(
                f"without {name}: "
                + "  ".join(f"{of} {mark:.4f} ({mark - full:+.4f})" for of, mark, full in pairs)
            )
    return lines
