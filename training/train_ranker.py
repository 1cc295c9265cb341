"""Tune a ranker on your own graded lists: rnx-mini on any machine, or a vision-language model (`--base`) by LoRA.

    python -m training.train_ranker --lists my.jsonl --work DIR                      # a fifth of the lists measures the gain
    python -m training.train_ranker --lists my.jsonl --dev dev.jsonl --work DIR --to my-ranker
    python -m training.train_ranker --base Qwen/Qwen2-VL-2B-Instruct --lists my.jsonl --work DIR --to my-adapter

Rows are those of `rnx rerank` with a "grade" in every candidate (`own_lists.py`). What comes out is a folder for
`RNXRerank(model="my-ranker")`. A killed run goes on from `--work` with the same result. What rnx-mini remembers of a node is
not trained, so an index made before serves the tuned ranker as it is. Further options of a --base: training/train_vlm.py.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import NAME, holds_mini, model_folder, read_mini
from training.data import GradedList, read_own
from training.engine import LOSSES, Record, Stage, Trainer, hashes, record_of, run_lists, train
from training.evaluate import NDCG10, Run, bootstrap, evaluate, first_run, mean, qrels_of, write_qrels, write_run
from training.features import PictureCache, TokenCache
from training.learners import MiniLearner
from training.progress import Row, add_row, history_of, rows_of, today, write_history

TRAINED = ("reader.base", "reader.joint", "reader.list", "reader.kinds", "image.late")  # none of them makes a memory
HELD_OUT = 5  # every fifth list measures, every fifth of the others selects
READINGS = 8  # how often every list is read, unless --steps says otherwise
RATE = 1e-4
STEPS = (60, 2_000)  # at least and at most, by that


@dataclass(frozen=True, kw_only=True)
class Split:
    """Lists to learn from, to choose the best weights by, and to measure the gain on; no list is in two of them."""

    learn: Sequence[GradedList]
    select: Sequence[GradedList]
    measure: Sequence[GradedList]


def split(lists: Sequence[GradedList], dev: Sequence[GradedList]) -> Split:
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


def stage_of(lists: Sequence[GradedList], asked: argparse.Namespace) -> Stage:
    """A short run at a low rate: the weights are good already."""
    plain = Stage(name="own-lists", mix=(("own", 1.0),), development=("select",), trained=TRAINED, steps=0)
    low, high = STEPS
    count = asked.steps or min(high, max(low, READINGS * len(lists) // plain.lists_a_step))
    rate, loss = asked.rate or RATE, asked.loss or Stage.loss
    return replace(
        plain, steps=count, loss=loss, average=0.95, evaluate_every=max(1, count // 6), rate=rate, scalar_rate=10 * rate
    )


def base_folder(base: str) -> Path | None:
    """Where the weights of an rnx-mini are; None for the name of something else."""
    if base == NAME:
        return model_folder()
    return Path(base) if holds_mini(Path(base)) else None


def mini_learner(folder: Path, work: Path) -> MiniLearner:
    """The rnx-mini of a folder, ready to be tuned. It keeps its digest: its memories stay as they are."""
    model, config = read_mini(folder)
    about = {name: value for name, value in config.items() if name not in ("image", "reader")}
    texts = TokenCache(work / "tokens", model.reader.weights.clone(), model.reader.config)
    return MiniLearner(model, texts, PictureCache(work / "maps"), about)


def tune(asked: argparse.Namespace, folder: Path) -> None:
    """From the user's files to the tuned folder, and what it gained."""
    own = read_own(asked.lists)
    dev = read_own(asked.dev) if asked.dev else None
    print(*(found for found in (own, dev) if found), sep="\n", flush=True)
    parts = split(own.lists, dev.lists if dev else [])
    print(
        f"{len(parts.learn)} lists to learn from, {len(parts.select)} to select by, {len(parts.measure)} to measure", flush=True
    )
    learner = mini_learner(folder, asked.work)
    learner.remember([*parts.learn, *parts.select, *parts.measure], "reading")
    before = run_lists(learner, parts.measure)
    stage = stage_of(parts.learn, asked)
    files = [asked.lists, asked.dev, folder / "model.safetensors"]
    record = record_of(asdict(stage), asked.seed, data_hashes(files, parts))
    trainer = Trainer(learner, stage, asked.work, record)
    train(trainer, lambda _: {"own": parts.learn}, {"select": parts.select})
    row = report(asked.work, parts.measure, before, run_lists(learner, parts.measure), record)
    to = asked.to or asked.work / "model"
    learner.save(to)
    write_history(to, [*history_of(folder), row])
    print(f"saved; use it by RNXRerank(model={str(to)!r})", flush=True)


def report(work: Path, lists: Sequence[GradedList], before: Run, after: Run, record: Record) -> Row:
    """The gain on lists that nothing was chosen by: printed, as runs and judgments, and as a row of results."""
    qrels = qrels_of(lists)
    values = {name: evaluate(qrels, run, NDCG10) for name, run in (("before", before), ("after", after))}
    gain = bootstrap(values["after"], values["before"])
    marks = {name: mean(of) for name, of in values.items()}
    if all(of.first for of in lists):
        marks["given"] = mean(evaluate(qrels, first_run(lists), NDCG10))
    found = "  ".join(f"{name} {value:.4f}" for name, value in marks.items())
    print(f"nDCG@10 on {len(lists)} measured lists: {found}  gain {gain} (95 %, paired bootstrap)", flush=True)
    for name, run in (("before", before), ("after", after)):
        write_run(work / f"{name}.trec", run, f"rnx-{name}")
    write_qrels(work / "measured.qrels", qrels)
    row = {"kind": "own", "date": today(), "nDCG@10": marks, "gain": asdict(gain), **asdict(record)}
    if not any(before == row | {"date": before["date"]} for before in rows_of(work / "results.jsonl")):
        add_row(work / "results.jsonl", row)
    return row


def data_hashes(files: Sequence[Path | None], parts: Split) -> dict[str, str]:
    """The sha256 of the files, and one of all pictures together."""
    found = hashes(path for path in files if path)
    digest = hashlib.sha256()
    for path in sorted(
        {path for part in (parts.learn, parts.select, parts.measure) for of in part for path in of.images if path}
    ):
        digest.update(path.read_bytes())
    return {**found, "pictures": digest.hexdigest()}


def hand_over(asked: argparse.Namespace, more: Sequence[str]) -> None:
    """A vision-language model has a command of its own, with more to choose."""
    from training import train_vlm  # peft and accelerate are extras

    given = {"base": asked.base, "lists": asked.lists, "work": asked.work, "to": asked.to or asked.work / "adapter"}
    given |= {name: value for name in ("dev", "steps", "rate", "loss", "seed") if (value := getattr(asked, name)) is not None}
    train_vlm.main([*(word for name, value in given.items() for word in (f"--{name}", str(value))), *more])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=Path, required=True, help="JSONL rows of `rnx rerank`, with grades")
    parser.add_argument("--dev", type=Path, help="other lists to measure the gain on; else a fifth of --lists")
    parser.add_argument("--work", type=Path, required=True, help="caches, checkpoint, runs, results.jsonl")
    parser.add_argument("--to", type=Path, help="the folder of the tuned ranker (default: WORK/model)")
    parser.add_argument("--base", default=NAME, help="rnx-mini, a tuned one's folder, or a vision-language model")
    parser.add_argument("--steps", type=int, help=f"of the optimiser (default: every list {READINGS} times)")
    parser.add_argument("--rate", type=float, help=f"the peak of the learning rate (default: {RATE})")
    parser.add_argument("--loss", choices=LOSSES, help=f"default: {Stage.loss}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked, more = parser.parse_known_args(arguments)
    torch.set_num_threads(asked.threads)
    folder = base_folder(asked.base)
    if folder is None:
        return hand_over(asked, more)
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        tune(asked, folder)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
