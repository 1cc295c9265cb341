"""Fine-tuning rnx-mini on a user's own lists. It knows no vision-language model."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.mini import NAME, holds_mini, model_folder
from training.data import GradedList, read_user_lists
from training.engine import GradedListTask, Record, Stage, Trainer, hashes, record_of, run_lists
from training.evaluation import (
    NDCG10,
    Row,
    Run,
    add_row,
    bootstrap,
    evaluate,
    first_run,
    mean,
    qrels_of,
    read_history,
    rows_of,
    today,
    write_history,
    write_qrels,
    write_run,
)
from training.features import FeatureMapCache, TextStateCache
from training.learners import MiniLearner
from training.mini import read_mini

# None of these modules makes a memory, so an index stays as it is.
TRAINABLE = ("reader.base", "reader.joint", "reader.list", "reader.kinds", "image.late")

# Every fifth list measures, and every fifth of the others selects.
HELD_OUT = 5

# How often every list is read, unless --steps says otherwise.
READINGS = 8

# The peak of the learning rate.
RATE = 1e-4

# At least and at most so many steps, where --steps is not given.
MIN_STEPS = 60
MAX_STEPS = 2_000


@dataclass(frozen=True, kw_only=True)
class Split:
    """Lists to learn from, to select the best weights by, and to measure the gain on.

    No list is in two of them.
    """

    learn: Sequence[GradedList]
    select: Sequence[GradedList]
    measure: Sequence[GradedList]

    @property
    def lists(self) -> list[GradedList]:
        """All lists."""
        return [*self.learn, *self.select, *self.measure]


def split_lists(lists: Sequence[GradedList], dev: Sequence[GradedList]) -> Split:
    """Split by the names of the queries, so that a list stays where it is when others are added.

    dev: lists that measure the gain; where there are none, a fifth of `lists` does.

    Raises:
        SettingsError: there are too few lists.
    """
    order = sorted(lists, key=lambda graded_list: hashlib.sha256(graded_list.qid.encode()).digest())
    measured = list(dev)
    rest = order
    if not dev:
        measured = order[::HELD_OUT]
        rest = _without_held_out(order)
    learned = _without_held_out(rest)
    if not learned:
        raise SettingsError(
            f"{len(lists)} lists are too few to learn from, to select by and to measure; "
            "give 4 at least, 50 to gain."
        )
    return Split(learn=learned, select=rest[::HELD_OUT], measure=measured)


def _without_held_out(lists: Sequence[GradedList]) -> list[GradedList]:
    return [graded_list for index, graded_list in enumerate(lists) if index % HELD_OUT]


def fine_tuning_stage(lists: Sequence[GradedList], options: argparse.Namespace) -> Stage:
    """Return a short stage at a low rate: the weights are good already."""
    steps = options.steps
    if not steps:
        steps = min(MAX_STEPS, max(MIN_STEPS, READINGS * len(lists) // Stage.batch_size))
    rate = options.rate or RATE
    return Stage(
        name="own-lists",
        sources=(("own", 1.0),),
        dev_sets=("select",),
        trainable=TRAINABLE,
        steps=steps,
        loss=options.loss or Stage.loss,
        ema_decay=0.95,
        evaluate_every=max(1, steps // 6),
        learning_rate=rate,
        scalar_learning_rate=10 * rate,
    )


def base_folder(base: str) -> Path | None:
    """Return the folder of an rnx-mini's weights; None where `base` names something else."""
    if base == NAME:
        return model_folder()
    return Path(base) if holds_mini(Path(base)) else None


def load_learner(folder: Path, work: Path) -> MiniLearner:
    """Load the rnx-mini of a folder to tune it.

    It keeps its digest, so its memories stay valid.
    """
    model, config = read_mini(folder)
    about = {name: value for name, value in config.items() if name not in ("image", "reader")}
    texts = TextStateCache(work / "tokens", model.reader.weights.clone(), model.reader.config)
    return MiniLearner(model, texts, FeatureMapCache(work / "maps"), about)


def tune(options: argparse.Namespace, folder: Path) -> None:
    """Tune the rnx-mini of a folder on the user's lists, print and record what it gained, save it.

    Raises:
        RNXError: the lists, the weights or the checkpoint in the work folder do not fit.
    """
    split = read_split(options.lists, options.dev)
    learner = load_learner(folder, options.work)
    learner.remember(split.lists, "reading")
    before = run_lists(learner, split.measure)

    stage = fine_tuning_stage(split.learn, options)
    files = [options.lists, options.dev, folder / "model.safetensors"]
    record = record_of(asdict(stage), options.seed, data_hashes(files, split))
    lists = {"own": split.learn}
    task = GradedListTask(learner, stage, lambda _: lists, {"select": split.select}, options.seed)
    Trainer(task, options.work, record).train()

    after = run_lists(learner, split.measure)
    row = report(options.work, split.measure, before, after, record)
    target = options.to or options.work / "model"
    learner.save(target)
    write_history(target, [*read_history(folder), row])
    print(f"saved; use it by RNXRerank(model={str(target)!r})", flush=True)


def read_split(lists: Path, dev: Path | None) -> Split:
    """Read the user's files, print what was read and dropped, and split the lists."""
    training = read_user_lists(lists)
    print(training, flush=True)
    held_out: Sequence[GradedList] = ()
    if dev:
        measuring = read_user_lists(dev)
        print(measuring, flush=True)
        held_out = measuring.lists

    split = split_lists(training.lists, held_out)
    print(
        f"{len(split.learn)} lists to learn from, {len(split.select)} to select by, "
        f"{len(split.measure)} to measure",
        flush=True,
    )
    return split


def report(work: Path, lists: Sequence[GradedList], before: Run, after: Run, record: Record) -> Row:
    """Print the gain on lists that nothing was selected by, and return it as a row of results.

    The runs, the judgments and the row are written into the work folder.
    """
    qrels = qrels_of(lists)
    runs = {"before": before, "after": after}
    values = {name: evaluate(qrels, run, NDCG10) for name, run in runs.items()}
    gain = bootstrap(values["after"], values["before"])
    ndcg = {name: mean(of_run) for name, of_run in values.items()}
    if all(graded_list.first for graded_list in lists):
        ndcg["given"] = mean(evaluate(qrels, first_run(lists), NDCG10))

    line = "  ".join(f"{name} {value:.4f}" for name, value in ndcg.items())
    print(
        f"nDCG@10 on {len(lists)} measured lists: {line}  gain {gain} (95 %, paired bootstrap)",
        flush=True,
    )

    for name, run in runs.items():
        write_run(work / f"{name}.trec", run, f"rnx-{name}")
    write_qrels(work / "measured.qrels", qrels)
    row = {"kind": "own", "date": today(), "nDCG@10": ndcg, "gain": asdict(gain), **asdict(record)}
    results = work / "results.jsonl"
    # A finished run that is called again adds no second row: all but the date is equal.
    if not any(earlier == row | {"date": earlier["date"]} for earlier in rows_of(results)):
        add_row(results, row)
    return row


def data_hashes(files: Sequence[Path | None], split: Split) -> dict[str, str]:
    """Return the sha256 of every file by its name, and one of all images together."""
    images = {path for graded_list in split.lists for path in graded_list.images if path}
    digest = hashlib.sha256()
    for path in sorted(images):
        digest.update(path.read_bytes())
    return {**hashes(path for path in files if path), "pictures": digest.hexdigest()}
