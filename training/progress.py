"""`results.jsonl`: one row a stage or an evaluation, written when it ended; and a picture of what each stage gave.

python -m training.progress DIR/results.jsonl --to progress.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import RNXError

Row = dict[str, Any]
HISTORY = "training.json"


def today() -> str:
    """The date and time of a row."""
    return datetime.now().isoformat(timespec="seconds")


def add_row(path: Path, row: Row) -> None:
    """One line more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows_of(path: Path) -> list[Row]:
    """All rows; none where there is no file yet. A line that a kill cut short is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def history_of(folder: Path) -> list[Row]:
    """What a ranker's folder says of its training, first things first; nothing where nobody wrote it down."""
    path = folder / HISTORY
    found: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def write_history(folder: Path, rows: Sequence[Row]) -> None:
    """Beside the weights: the rows of the results that led to them."""
    (folder / HISTORY).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def longest_chain(rows: Sequence[Row]) -> list[Row]:
    """The rows of the curriculum that went furthest, first stage first.

    Raises:
        RNXError: no stage has ended yet.
    """
    stages = [row for row in rows if row.get("kind") == "stage"]
    if not stages:
        raise RNXError("there is no row of a stage in the results; run training.curriculum first.")
    return chain_of(stages, max(stages, key=lambda row: len(row["chain"])))


def chain_of(rows: Sequence[Row], last: Row) -> list[Row]:
    """The rows of the stages that led to this one, and itself."""
    led = [row for row in rows if row.get("kind") == "stage" and row["seed"] == last["seed"]]
    return sorted((row for row in led if row["chain"] == last["chain"][: len(row["chain"])]), key=lambda row: len(row["chain"]))


def draw(rows: Sequence[Row], path: Path) -> None:
    """nDCG@10 of every development set before the curriculum and after each of its stages, with the interval of its gain."""
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
    axes.set_title("Development sets after each stage (95 % interval of the stage's gain)", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def table(rows: Sequence[Row]) -> list[str]:
    """One line a stage and chain: the gain on every development set with its interval, the loss, the seconds."""
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
    """One line a stage that was left out: nDCG@10 at the end of all others, and how far that is from all of them together."""
    stages = {tuple(row["chain"]): row for row in rows if row.get("kind") == "stage"}
    whole = max(stages, key=len, default=())
    lines = []
    for name in whole:
        rest = stages.get(tuple(stage for stage in whole if stage != name))
        if rest is not None:
            pairs = [(of, rest["metrics"][of]["nDCG@10"], full["nDCG@10"]) for of, full in stages[whole]["metrics"].items()]
            lines.append(f"without {name}: " + "  ".join(f"{of} {mark:.4f} ({mark - full:+.4f})" for of, mark, full in pairs))
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--to", type=Path, help="a .png or .svg")
    found = parser.parse_args()
    rows = rows_of(found.results)
    print("\n".join([*table(rows), *ablations(rows)]))
    try:
        if found.to:
            draw(rows, found.to)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
