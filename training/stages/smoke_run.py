"""The smoke run: the whole curriculum on generated data, killed and resumed. It knows no model.

It checks that the loss falls in every stage, that the planted order is learned, which the given
order does not have, and that a process killed between two checkpoints resumes to the same weights
and losses as one that ran through, bit by bit. Stage 0 on pairs runs as well.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from training.bi_encoder import smoke_stage_zero
from training.engine import CHECKPOINT, checkpoint
from training.evaluation import Row, draw, longest_chain, rows_of, table
from training.stages.runner import ENDED, RESULTS, CurriculumData, run_stages
from training.stages.smoke_test import SMOKE
from training.stages.synthetic import SyntheticData

SEED = 0

# The last fifth of a stage's losses is below this share of the first fifth.
MAX_LOSS_SHARE = 0.9

# nDCG@10 of the given order of the texts is below: it follows the words in common.
MAX_GIVEN_NDCG = 0.5

# nDCG@10 at the end is above; untrained .36, .11, .45.
MIN_NDCG = {"texts": 0.85, "pictures": 0.5, "joint": 0.65}


def run_smoke(work: Path) -> list[str]:
    """Run everything in an empty folder, print the results, and return what went wrong."""
    data = SyntheticData(work / "data", SEED)
    faults = run_killed(data, work / "killed")
    run_stages(SMOKE, data, work / "whole", SEED)

    rows = rows_of(work / "whole" / RESULTS)
    draw(rows, work / "progress.png")
    print("\n".join(table(rows)))
    faults += find_unlearned(rows)
    faults += find_unequal(work / "whole", work / "killed")
    return faults + smoke_stage_zero(work / "stage-zero")


def run_killed(data: CurriculumData, work: Path) -> list[str]:
    """Run the first two stages, killed behind the first checkpoint of the second one and resumed.

    Return a fault where the process could not be killed there.
    """
    stages = SMOKE[:2]
    arguments = (stages, data, work, SEED)
    child = multiprocessing.get_context("fork").Process(target=run_stages, args=arguments)
    child.start()
    last = work.joinpath(*(stage.name for stage in stages))
    while child.is_alive() and not (last / CHECKPOINT).exists():
        time.sleep(0.01)
    child.kill()
    child.join()

    faults = []
    if not (last / CHECKPOINT).exists() or (last / ENDED).exists():
        faults.append(f"the process was to be killed inside {stages[-1].name}, and was not")
    run_stages(*arguments)
    return faults


def find_unlearned(rows: Sequence[Row]) -> list[str]:
    """Return what the results fail to show: falling losses, and the planted order learned."""
    chain = longest_chain(rows)
    faults = []
    for row in chain:
        first = row["loss"]["first"]
        last = row["loss"]["last"]
        if last > MAX_LOSS_SHARE * first:
            faults.append(f"{row['stage']}: loss {first:.3f} -> {last:.3f}")

    for name, bound in MIN_NDCG.items():
        value = chain[-1]["metrics"][name]["nDCG@10"]
        if value < bound:
            faults.append(f"{name}: nDCG@10 {value:.3f}, at least {bound} expected")

    first_stage = chain[-1]["given"]["texts"]
    if first_stage > MAX_GIVEN_NDCG:
        faults.append(f"the given order has nDCG@10 {first_stage:.3f}: nothing is planted")
    return faults


def find_unequal(whole: Path, killed: Path) -> list[str]:
    """Return a line for each stage of `killed` that differs from the one of `whole`."""
    faults = []
    for path in sorted(killed.rglob(ENDED)):
        ours, our_header = checkpoint.read(path)
        theirs, their_header = checkpoint.read(whole / path.relative_to(killed))
        same_weights = ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        )
        same_losses = our_header["outcome"]["losses"] == their_header["outcome"]["losses"]
        if not same_weights or not same_losses:
            faults.append(f"{path}: killed and resumed, it differs from the run in one go")
    return faults
