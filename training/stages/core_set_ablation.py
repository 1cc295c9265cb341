"""A core set against a random share of the same size: the same short training on each.

It knows no command line.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_index_rnx.rankers.mini import ImageConfig, ScorerConfig
from training.data import DataFolder, GradedList, mediqa, rag24
from training.engine import GradedListTask, Lists, Stage, Trainer, hashes, ndcg, record_of
from training.evaluation import Values, add_row, bootstrap, mean, rows_of, today
from training.features import QUERY_PREFIX, FeatureMapCache, TextStateCache
from training.learners import MiniLearner, begin_reader, candidate_batch
from training.mini import MiniModel, list_bm25
from training.stages import mixtures
from training.stages.rnx_mini import READER
from training.teachers import core_set, remine, utility

SOURCES = ("rag24", "dl21", "dl22", "mediqa", "scifact", "insuranceqa")

# Lists of InsuranceQA that are used, of 4,000, at random.
INSURANCE_LISTS = 1_000

# Lists a development set.
MEASURED_LISTS = 100

ARMS = ("kept", "random", "all")


@dataclass(frozen=True, kw_only=True)
class AblationSettings:
    """The subjects of the comparison and its settings.

    text: the folder of gte-small. cache: the folder of token states. work: the folder of results.
    share: of every source that the core set has. diversity: as in `core_set`.
    teachers: "bm25", "tower" or both. arms: of `ARMS`; the first one is compared with the others.
    """

    text: Path
    cache: Path
    work: Path
    share: float
    diversity: float
    steps: int
    seeds: int
    teachers: Sequence[str]
    arms: Sequence[str]

    def recorded(self) -> dict[str, object]:
        """Return the settings that the record of a run names."""
        names = ("share", "diversity", "teachers", "steps")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source: its lists, the utility of each, and the unit vectors of its queries [L, D]."""

    lists: Sequence[GradedList]
    utilities: Sequence[float]
    queries: Tensor

    def arm(self, arm: str, share: float, diversity: float, seed: int) -> list[GradedList]:
        """Return the lists of one arm: the core set, as many at random, or all."""
        if arm == "all":
            return list(self.lists)
        indices = core_set(self.utilities, self.queries, share, diversity)
        if arm == "random":
            indices = sorted(random.Random(seed).sample(range(len(self.lists)), len(indices)))
        return [self.lists[index] for index in indices]

    def mean_utility(self, indices: Sequence[int]) -> float:
        """Return the mean utility of these lists."""
        return sum(self.utilities[index] for index in indices) / len(indices)


def build_source(
    name: str, folder: DataFolder, cache: TextStateCache, teachers: Sequence[str]
) -> Source:
    """Return a source with the text encoder's hardest negatives, and its lists' utilities."""
    lists = mixtures.SOURCES[name](folder, cache)
    if name == "insuranceqa":
        lists = random.Random(0).sample(lists, INSURANCE_LISTS)
    if name in mixtures.NEGATIVES:
        lists = remine(
            lists,
            lambda graded_list: mixtures.encoder_scores(cache, graded_list),
            mixtures.NEGATIVES[name],
        )
    utilities = [list_utility(graded_list, cache, teachers) for graded_list in lists]
    queries = [mixtures.query_vector(cache, graded_list.query) for graded_list in lists]
    return Source(lists=lists, utilities=utilities, queries=torch.stack(queries))


def list_utility(graded_list: GradedList, cache: TextStateCache, teachers: Sequence[str]) -> float:
    """Return the agreement of teachers and judgments x the text encoder's distance from them.

    The text encoder's order is where the scorer begins.
    """
    config = ScorerConfig()
    encoder = mixtures.encoder_scores(cache, graded_list)  # [N]
    batch = candidate_batch(
        graded_list, cache, config, lambda states: states[:, : config.memory_width], None
    )
    # The query without [CLS] and [SEP].
    query = cache[f"{QUERY_PREFIX}{graded_list.query}"].pieces.long()[1:-1]
    scores = {"tower": encoder, "bm25": list_bm25(query, batch)}
    by_teacher = torch.stack([scores[name] for name in teachers])  # [T, N]
    return utility(by_teacher, encoder, torch.tensor(graded_list.grades))


def build_dev_sets(folder: DataFolder, cache: TextStateCache) -> dict[str, list[GradedList]]:
    """Return development sets; no training list comes from them."""
    dev_sets = {
        "rag24": rag24(folder, "dev"),
        "dl21": mixtures.dl21_split(folder)[1],
        "scifact": mixtures.scifact_dev(folder, cache, 100),
        "insuranceqa": mixtures.insurance_split(folder)[1],
        "mediqa": mediqa(folder, "dev"),
    }
    return {name: lists[:MEASURED_LISTS] for name, lists in dev_sets.items()}


def build_learner(
    text: Path, cache: TextStateCache, lists: Sequence[GradedList], seed: int, work: Path
) -> MiniLearner:
    """Return a scorer that orders as the text encoder does.

    The encoder itself is not needed: the cache holds its states.
    """
    torch.manual_seed(seed)
    model = MiniModel.untrained(text, ImageConfig(), ScorerConfig())
    learner = MiniLearner(model, cache, FeatureMapCache(work / "maps"), {})
    begin_reader(learner, [text for graded_list in lists for text in graded_list.texts[:10]])
    return learner


def train_and_measure(
    learner: MiniLearner, lists: Lists, dev_sets: Lists, steps: int, seed: int
) -> dict[str, Values]:
    """Return nDCG@10 of every development list after `steps`, by the moving average.

    No weights are selected.
    """
    stage = Stage(
        name="text-lists",
        sources=tuple((name, mixtures.WEIGHTS[name]) for name in lists),
        dev_sets=(),
        trainable=READER,
        steps=steps,
    )
    task = GradedListTask(learner, stage, lambda _: lists, {}, seed)
    trainer = Trainer(task, None, record_of(asdict(stage), seed, {}))
    for _ in range(steps):
        trainer.step()
    learner.load(trainer.average)
    return {name: ndcg(learner, dev_set) for name, dev_set in dev_sets.items()}


def compare_arms(results: Path, ours: str, theirs: str, seeds: Sequence[int]) -> list[str]:
    """Return a line for each development set: the means of both arms, and their difference.

    The difference is over queries, seeds averaged first. The last line has the means of all sets.
    """
    values = {(row["arm"], row["seed"]): row["values"] for row in rows_of(results)}
    lines = []
    means = []
    for name in values[ours, seeds[0]]:
        our_values = average_seeds([values[ours, seed][name] for seed in seeds])
        their_values = average_seeds([values[theirs, seed][name] for seed in seeds])
        difference = bootstrap(our_values, their_values)
        means.append((mean(our_values), mean(their_values)))
        lines.append(f"| {name} | {means[-1][0]:.4f} | {means[-1][1]:.4f} | {difference} |")
    our_mean, their_mean = (sum(column) / len(means) for column in zip(*means, strict=True))
    return [*lines, f"| mean | {our_mean:.4f} | {their_mean:.4f} | {our_mean - their_mean:+.4f} |"]


def average_seeds(values: Sequence[Mapping[str, float]]) -> Values:
    """Return each query's mean over the seeds."""
    return {qid: sum(of_seed[qid] for of_seed in values) / len(values) for qid in values[0]}


def run_core_set_ablation(settings: AblationSettings) -> None:
    """Train every arm and seed that is not in the results yet; then print the tables.

    Raises:
        SettingsError: RNX_DATA names no folder.
    """
    folder = DataFolder.from_environment()
    weights = load_file(settings.cache / "idf.safetensors")["weights"]
    cache = TextStateCache(settings.cache, weights)
    sources = {name: build_source(name, folder, cache, settings.teachers) for name in SOURCES}
    dev_sets = build_dev_sets(folder, cache)
    data = hashes(folder.files_read, folder.path)

    results = settings.work / "results.jsonl"
    for seed in range(settings.seeds):
        for arm in settings.arms:
            if any(row["arm"] == arm and row["seed"] == seed for row in rows_of(results)):
                continue
            values = _run_arm(settings, arm, seed, sources, dev_sets, cache)
            ndcg_means = {name: mean(of_set) for name, of_set in values.items()}
            row = {"arm": arm, "date": today(), "marks": ndcg_means, "values": values}
            add_row(results, row | asdict(record_of(settings.recorded(), seed, data)))
            line = "  ".join(f"{name} {value:.4f}" for name, value in ndcg_means.items())
            print(arm, seed, line, flush=True)
    _print_sources(settings, sources)
    _print_comparisons(settings, results)


def _run_arm(
    settings: AblationSettings,
    arm: str,
    seed: int,
    sources: Mapping[str, Source],
    dev_sets: Lists,
    cache: TextStateCache,
) -> dict[str, Values]:
    lists = {
        name: source.arm(arm, settings.share, settings.diversity, seed)
        for name, source in sources.items()
    }
    first_lists = lists["rag24"][:20] + lists["dl21"]
    learner = build_learner(settings.text, cache, first_lists, seed, settings.work)
    return train_and_measure(learner, lists, dev_sets, settings.steps, seed)


def _print_sources(settings: AblationSettings, sources: Mapping[str, Source]) -> None:
    """Print the size of every core set, and the mean utility of all lists and of its own."""
    for name, source in sources.items():
        indices = core_set(source.utilities, source.queries, settings.share, settings.diversity)
        count = len(source.lists)
        before = source.mean_utility(range(count))
        after = source.mean_utility(indices)
        print(f"{name}: {len(indices)} of {count} lists, utility {before:.3f} -> {after:.3f}")


def _print_comparisons(settings: AblationSettings, results: Path) -> None:
    first, *others = settings.arms
    for arm in others:
        print(f"| | {first} | {arm} | difference |\n|---|---|---|---|")
        print("\n".join(compare_arms(results, first, arm, range(settings.seeds))), flush=True)
