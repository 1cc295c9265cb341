"""Core set against a random share of the same size: the same short training on each."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_index_rnx.rankers.mini import ImageConfig, MiniModel, ScorerConfig, list_bm25
from training.data import GradedList, data_folder, files_read, mediqa, rag24
from training.engine import GradedListTask, Lists, Stage, Trainer, hashes, ndcg, record_of
from training.evaluation import Values, add_row, bootstrap, mean, rows_of, today
from training.features import FeatureMapCache, TextStateCache
from training.learners import MiniLearner, begin_reader, candidate_batch
from training.stages import mixtures as mixes
from training.stages.rnx_mini import READER
from training.teachers import core_set, remined, worth

SOURCES = ("rag24", "dl21", "dl22", "mediqa", "scifact", "insuranceqa")


INSURANCE = 1_000  # lists of 4,000, by chance


MEASURED = 100  # lists a development set


ARMS = ("kept", "random", "all")


SETTINGS = ("share", "diversity", "teachers", "steps")


@dataclass(frozen=True, kw_only=True)
class Worths:
    """A source: its lists, what each is worth, and the unit vectors of its queries [L, D]."""

    lists: Sequence[GradedList]
    worths: Sequence[float]
    queries: Tensor

    def share(self, arm: str, share: float, diversity: float, seed: int) -> list[GradedList]:
        """The lists of one arm: the kept share, as many by chance, or all."""
        if arm == "all":
            return list(self.lists)
        kept = core_set(self.worths, self.queries, share, diversity)
        places = (
            kept
            if arm == "kept"
            else sorted(random.Random(seed).sample(range(len(self.lists)), len(kept)))
        )
        return [self.lists[place] for place in places]


def source_of(name: str, cache: TextStateCache, teachers: Sequence[str]) -> Worths:
    """A source with the negatives that the text tower finds hardest, and its worth by these
    teachers and the judgments.
    """
    lists = mixes.SOURCES[name](cache)
    if name == "insuranceqa":
        lists = random.Random(0).sample(lists, INSURANCE)
    if name in mixes.NEGATIVES:
        lists = remined(lists, lambda of: mixes.tower_scores(cache, of), mixes.NEGATIVES[name])
    found = [worth_of(of, cache, teachers) for of in lists]
    queries = torch.stack([mixes.query_vector(cache, of.query) for of in lists])
    return Worths(lists=lists, worths=found, queries=queries)


def worth_of(of: GradedList, cache: TextStateCache, teachers: Sequence[str]) -> float:
    """Agreement of the teachers and the judgments x what the text tower's order, where the reader
    begins, lacks.
    """
    tower = mixes.tower_scores(cache, of)  # [N]
    batch = candidate_batch(
        of, cache, ScorerConfig(), lambda states: states[:, : ScorerConfig().memory_width], None
    )
    words = list_bm25(
        cache[f"query:{of.query}"].pieces.long()[1:-1], batch
    )  # without [CLS] and [SEP]
    said = {"tower": tower, "bm25": words}
    return worth(torch.stack([said[name] for name in teachers]), tower, torch.tensor(of.grades))


def development(cache: TextStateCache) -> dict[str, list[GradedList]]:
    """What no training list comes from."""
    found = {
        "rag24": rag24("dev"),
        "dl21": mixes.dl21_split()[1],
        "scifact": mixes.scifact_dev(cache, 100),
    }
    found |= {"insuranceqa": mixes.insurance_split()[1], "mediqa": mediqa("dev")}
    return {name: lists[:MEASURED] for name, lists in found.items()}


def begun(
    text: Path, cache: TextStateCache, lists: Sequence[GradedList], seed: int, work: Path
) -> MiniLearner:
    """A reader that orders as the text tower does; the tower itself is not needed, the cache holds
    what it says.
    """
    torch.manual_seed(seed)
    model = MiniModel.untrained(text, ImageConfig(), ScorerConfig())
    learner = MiniLearner(model, cache, FeatureMapCache(work / "maps"), {})
    begin_reader(learner, [text for of in lists for text in of.texts[:10]])
    return learner


def trained(
    learner: MiniLearner, lists: Lists, sets: Lists, steps: int, seed: int, work: Path
) -> dict[str, Values]:
    """nDCG@10 of every development list after `steps`, by the moving average: nothing is selected."""
    mix = tuple((name, mixes.WEIGHTS[name]) for name in lists)
    stage = Stage(name="text-lists", sources=mix, dev_sets=(), trainable=READER, steps=steps)
    task = GradedListTask(learner, stage, lambda _: lists, {}, seed)
    trainer = Trainer(task, None, record_of(asdict(stage), seed, {}))
    for _ in range(steps):
        trainer.step()
    learner.load(trainer.average)
    return {name: ndcg(learner, of) for name, of in sets.items()}


def compare_arms(results: Path, ours: str, theirs: str, seeds: Sequence[int]) -> list[str]:
    """A line for each development set: the means of both arms, and their difference over queries,
    seeds averaged first.
    """
    found = {(row["arm"], row["seed"]): row["values"] for row in rows_of(results)}
    sets, lines, marks = found[ours, seeds[0]], list[str](), list[tuple[float, float]]()
    for name in sets:
        one, other = (
            averaged([found[arm, seed][name] for seed in seeds]) for arm in (ours, theirs)
        )
        marks.append((mean(one), mean(other)))
        lines.append(f"| {name} | {mean(one):.4f} | {mean(other):.4f} | {bootstrap(one, other)} |")
    means = [sum(column) / len(marks) for column in zip(*marks, strict=True)]
    return [*lines, f"| mean | {means[0]:.4f} | {means[1]:.4f} | {means[0] - means[1]:+.4f} |"]


def averaged(values: Sequence[Mapping[str, float]]) -> Values:
    """Each query's mean over the seeds."""
    return {qid: sum(of[qid] for of in values) / len(values) for qid in values[0]}


def run_core_set_ablation(asked: argparse.Namespace) -> None:
    """Every arm and seed that is not in the results yet; then the table."""
    data_folder()
    cache = TextStateCache(asked.cache, load_file(asked.cache / "idf.safetensors")["weights"])
    known, sets, seeds = (
        {name: source_of(name, cache, asked.teachers) for name in SOURCES},
        development(cache),
        range(asked.seeds),
    )
    results = asked.work / "results.jsonl"
    for seed in seeds:
        for arm in asked.arms:
            if any(row["arm"] == arm and row["seed"] == seed for row in rows_of(results)):
                continue
            lists = {
                name: of.share(arm, asked.share, asked.diversity, seed)
                for name, of in known.items()
            }
            learner = begun(
                asked.text, cache, lists["rag24"][:20] + lists["dl21"], seed, asked.work
            )
            values = trained(learner, lists, sets, asked.steps, seed, asked.work)
            marks = {name: mean(of) for name, of in values.items()}
            record = record_of({name: getattr(asked, name) for name in SETTINGS}, seed, _data())
            add_row(
                results,
                {"arm": arm, "date": today(), "marks": marks, "values": values, **asdict(record)},
            )
            print(arm, seed, *(f"{name} {mark:.4f}" for name, mark in marks.items()), flush=True)
    for name, of in known.items():
        kept = core_set(of.worths, of.queries, asked.share, asked.diversity)
        worths = [
            sum(of.worths[place] for place in places) / len(places)
            for places in (range(len(of.lists)), kept)
        ]
        print(
            f"{name}: {len(kept)} of {len(of.lists)} lists, worth {worths[0]:.3f} -> {worths[1]:.3f}"
        )
    for other in asked.arms[1:]:
        print(f"| | {asked.arms[0]} | {other} | difference |\n|---|---|---|---|")
        print("\n".join(compare_arms(results, asked.arms[0], other, seeds)), flush=True)


def _data() -> dict[str, str]:
    return hashes(files_read(), data_folder())
