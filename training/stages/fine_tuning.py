"""Fine-tuning rnx-mini on a user's own lists."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import NAME, holds_mini, model_folder, read_mini
from training.data import GradedList, read_own
from training.engine import GradedListTask, Record, Stage, Trainer, hashes, record_of, run_lists
from training.evaluation import (
    NDCG10,
    Row,
    Run,
    add_row,
    bootstrap,
    evaluate,
    first_run,
    history_of,
    mean,
    qrels_of,
    rows_of,
    today,
    write_history,
    write_qrels,
    write_run,
)
from training.features import FeatureMapCache, TextStateCache
from training.learners import MiniLearner

TRAINED = (
    "reader.base",
    "reader.joint",
    "reader.list",
    "reader.kinds",
    "image.late",
)  # none of them makes a memory


HELD_OUT = 5  # every fifth list measures, every fifth of the others selects


READINGS = 8  # how often every list is read, unless --steps says otherwise


RATE = 1e-4


STEPS = (60, 2_000)  # at least and at most, by that


@dataclass(frozen=True, kw_only=True)
class Split:
    """Lists to learn from, to choose the best weights by, and to measure the gain on; no list is in
    two of them.
    """

    learn: Sequence[GradedList]
    select: Sequence[GradedList]
    measure: Sequence[GradedList]


def split_lists(lists: Sequence[GradedList], dev: Sequence[GradedList]) -> Split:
    """By the names of the queries, so that a list stays where it is when others are added.

    Raises:
        RNXError: there are too few lists for three parts.
    """
    order = sorted(lists, key=lambda of: hashlib.sha256(of.qid.encode()).digest())
    measure = list(dev) or order[::HELD_OUT]
    rest = order if dev else [of for place, of in enumerate(order) if place % HELD_OUT]
    learn, select = [of for place, of in enumerate(rest) if place % HELD_OUT], rest[::HELD_OUT]
    if not learn:
        raise RNXError(
            f"{len(lists)} lists are too few to learn from, to select by and to measure; give 4 at least, 50 to gain."
        )
    return Split(learn=learn, select=select, measure=measure)


def fine_tuning_stage(lists: Sequence[GradedList], asked: argparse.Namespace) -> Stage:
    """A short run at a low rate: the weights are good already."""
    plain = Stage(
        name="own-lists", sources=(("own", 1.0),), dev_sets=("select",), trainable=TRAINED, steps=0
    )
    low, high = STEPS
    count = asked.steps or min(high, max(low, READINGS * len(lists) // plain.batch_size))
    rate, loss = asked.rate or RATE, asked.loss or Stage.loss
    return replace(
        plain,
        steps=count,
        loss=loss,
        ema_decay=0.95,
        evaluate_every=max(1, count // 6),
        learning_rate=rate,
        scalar_learning_rate=10 * rate,
    )


def base_folder(base: str) -> Path | None:
    """Where the weights of an rnx-mini are; None for the name of something else."""
    if base == NAME:
        return model_folder()
    return Path(base) if holds_mini(Path(base)) else None


def mini_learner(folder: Path, work: Path) -> MiniLearner:
    """The rnx-mini of a folder, ready to be tuned. It keeps its digest: its memories stay as they
    are.
    """
    model, config = read_mini(folder)
    about = {name: value for name, value in config.items() if name not in ("image", "reader")}
    texts = TextStateCache(work / "tokens", model.reader.weights.clone(), model.reader.config)
    return MiniLearner(model, texts, FeatureMapCache(work / "maps"), about)


def tune(asked: argparse.Namespace, folder: Path) -> None:
    """From the user's files to the tuned folder, and what it gained."""
    own = read_own(asked.lists)
    dev = read_own(asked.dev) if asked.dev else None
    print(*(found for found in (own, dev) if found), sep="\n", flush=True)
    parts = split_lists(own.lists, dev.lists if dev else [])
    print(
        f"{len(parts.learn)} lists to learn from, {len(parts.select)} to select by, {len(parts.measure)} to measure",
        flush=True,
    )
    learner = mini_learner(folder, asked.work)
    learner.remember([*parts.learn, *parts.select, *parts.measure], "reading")
    before = run_lists(learner, parts.measure)
    stage = fine_tuning_stage(parts.learn, asked)
    files = [asked.lists, asked.dev, folder / "model.safetensors"]
    record = record_of(asdict(stage), asked.seed, data_hashes(files, parts))
    own_lists, dev_sets = {"own": parts.learn}, {"select": parts.select}
    task = GradedListTask(learner, stage, lambda _: own_lists, dev_sets, asked.seed)
    Trainer(task, asked.work, record).train()
    row = report(asked.work, parts.measure, before, run_lists(learner, parts.measure), record)
    to = asked.to or asked.work / "model"
    learner.save(to)
    write_history(to, [*history_of(folder), row])
    print(f"saved; use it by RNXRerank(model={str(to)!r})", flush=True)


def report(work: Path, lists: Sequence[GradedList], before: Run, after: Run, record: Record) -> Row:
    """The gain on lists that nothing was chosen by: printed, as runs and judgments, and as a row of
    results.
    """
    qrels = qrels_of(lists)
    values = {
        name: evaluate(qrels, run, NDCG10) for name, run in (("before", before), ("after", after))
    }
    gain = bootstrap(values["after"], values["before"])
    marks = {name: mean(of) for name, of in values.items()}
    if all(of.first for of in lists):
        marks["given"] = mean(evaluate(qrels, first_run(lists), NDCG10))
    found = "  ".join(f"{name} {value:.4f}" for name, value in marks.items())
    print(
        f"nDCG@10 on {len(lists)} measured lists: {found}  gain {gain} (95 %, paired bootstrap)",
        flush=True,
    )
    for name, run in (("before", before), ("after", after)):
        write_run(work / f"{name}.trec", run, f"rnx-{name}")
    write_qrels(work / "measured.qrels", qrels)
    row = {"kind": "own", "date": today(), "nDCG@10": marks, "gain": asdict(gain), **asdict(record)}
    if not any(
        before == row | {"date": before["date"]} for before in rows_of(work / "results.jsonl")
    ):
        add_row(work / "results.jsonl", row)
    return row


def data_hashes(files: Sequence[Path | None], parts: Split) -> dict[str, str]:
    """The sha256 of the files, and one of all pictures together."""
    found = hashes(path for path in files if path)
    digest = hashlib.sha256()
    for path in sorted(
        {
            path
            for part in (parts.learn, parts.select, parts.measure)
            for of in part
            for path in of.images
            if path
        }
    ):
        digest.update(path.read_bytes())
    return {**found, "pictures": digest.hexdigest()}
