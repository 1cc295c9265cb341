"""The whole curriculum on generated data, about a minute on one CPU core: `python -m training.smoke
WORK`. Exits with 1 unless

* the loss falls in every stage, and the planted order is learned, which the given order does not
  have;
* a process killed between two checkpoints resumes to the same weights and losses as one that ran
  through, bit by bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from training.engine import CHECKPOINT, checkpoint
from training.evaluation import Row, draw, longest_chain, rows_of, table
from training.stages import ENDED, SMOKE, SyntheticData
from training.stages import run_stages as run

SEED = 0
FALL = 0.9  # the last fifth of a stage's losses is below this share of the first fifth
GIVEN = 0.5  # nDCG@10 of the given order of the texts is below: it follows the words in common
LEARNED = {
    "texts": 0.85,
    "pictures": 0.5,
    "joint": 0.65,
}  # nDCG@10 at the end is above; untrained .36, .11, .45


def run_killed(material: SyntheticData, work: Path) -> None:
    """The first two stages: killed behind the first checkpoint of the second one, then run by the
    same call again.
    """
    stages = SMOKE[:2]
    child = multiprocessing.get_context("fork").Process(
        target=run, args=(stages, material, work, SEED)
    )
    child.start()
    last = work.joinpath(*(stage.name for stage in stages))
    while child.is_alive() and not (last / CHECKPOINT).exists():
        time.sleep(0.01)
    child.kill()
    child.join()
    if not (last / CHECKPOINT).exists() or (last / ENDED).exists():
        raise SystemExit(
            f"smoke run: the process was to be killed inside {stages[-1].name}, and was not"
        )
    run(stages, material, work, SEED)


def unlearned(rows: Sequence[Row]) -> list[str]:
    """What the results do not show."""
    chain = longest_chain(rows)
    wrong = [
        f"{row['stage']}: loss {row['loss']['first']:.3f} -> {row['loss']['last']:.3f}"
        for row in chain
        if row["loss"]["last"] > FALL * row["loss"]["first"]
    ]
    end = {name: of["nDCG@10"] for name, of in chain[-1]["metrics"].items()}
    wrong += [
        f"{name}: nDCG@10 {end[name]:.3f}, at least {bar} expected"
        for name, bar in LEARNED.items()
        if end[name] < bar
    ]
    given = chain[-1]["given"]["texts"]
    return [
        *wrong,
        *(
            [f"the given order has nDCG@10 {given:.3f}: nothing is planted"]
            if given > GIVEN
            else []
        ),
    ]


def unequal(whole: Path, killed: Path) -> list[str]:
    """The stages of `killed` that are not those of `whole`."""
    wrong = []
    for path in sorted(killed.rglob(ENDED)):
        ours, header = checkpoint.read(path)
        theirs, other = checkpoint.read(whole / path.relative_to(killed))
        same = ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        )
        if not same or header["outcome"]["losses"] != other["outcome"]["losses"]:
            wrong.append(f"{path}: killed and resumed, it differs from the run in one go")
    return wrong


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="an empty folder, or one that does not exist")
    work = parser.parse_args().work
    if work.exists() and any(work.iterdir()):
        parser.exit(2, f"{work} is not empty; the smoke run begins from nothing.\n")
    torch.set_num_threads(1)
    material = SyntheticData(work / "data", SEED)
    run_killed(material, work / "killed")
    run(SMOKE, material, work / "whole", SEED)
    rows = rows_of(work / "whole" / "results.jsonl")
    draw(rows, work / "progress.png")
    print("\n".join(table(rows)))
    wrong = [*unlearned(rows), *unequal(work / "whole", work / "killed")]
    if wrong:
        parser.exit(1, "smoke run failed: " + "\n".join(wrong) + "\n")
    print(
        "smoke run: the loss fell in every stage, the planted order is learned, killed and resumed gives the same weights"
    )


if __name__ == "__main__":
    main()
