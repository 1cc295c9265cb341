"""A vision-language model taught to rank lists by its labels, by LoRA. It knows no rnx-mini."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.vlm import (
    ListPrompt,
    RankerConfig,
    VLMRanker,
    diagnose,
    fit,
    load_vlm,
)
from training.data import GradedList, UserLists, read_user_lists, take
from training.engine import (
    Distributed,
    GradedListTask,
    Record,
    SingleProcess,
    Stage,
    Trainer,
    hashes,
    processes,
    record_of,
)
from training.evaluation import NDCG10, evaluate, first_run, mean, qrels_of
from training.learners import PART, Lora, VLMLearner

# Lists by the name of their file.
Sets = Mapping[str, Sequence[GradedList]]

# Every tenth list where no --dev is given.
HELD_OUT = 10

# Development lists that calibrate the adapter and show its position bias.
DIAGNOSED_LISTS = 50

# The file beside the adapter that says what the run was.
RECORD = "record.json"

# The options that a run's record names, beside the fields of its stage and of its prompt.
RECORDED_OPTIONS = (
    "base",
    "window",
    "max_text_tokens",
    "max_pixels",
    "dtype",
    "rank",
    "dropout",
    "autocast",
    "init",
)


def run_lora(options: Namespace) -> Trainer:
    """Carry out one stage, from its lists to its adapter.

    Raises:
        RNXError: a list, the model, an option, or a checkpoint in the work folder is wrong.
    """
    team = processes()
    lists, dev_sets = read_sets(options.lists, options.dev, team)
    learner = build_learner(options, team)
    stage = lora_stage(options, lists, dev_sets)
    task = GradedListTask(learner, stage, lambda _: lists, dev_sets, options.seed, team)
    trainer = Trainer(task, options.work, _record(options, stage, learner))

    if team.is_main_process and not trainer.history:
        print(
            f"{_first_stage_line(dev_sets)}\nbefore training:\n{_diagnosis(learner, dev_sets)}",
            flush=True,
        )
    trainer.train()
    if team.is_main_process:
        save_adapter(trainer, learner, dev_sets, options.to)
    return trainer


def read_sets(
    paths: Sequence[Path], dev_paths: Sequence[Path], team: SingleProcess
) -> tuple[Sets, Sets]:
    """Return the lists to learn from and those to select by, by the names of their files.

    The main process prints what was read and dropped. Without a development file, every tenth list
    is held out.

    Raises:
        SettingsError: a file is wrong, two have one name, or no list is left to learn from.
    """
    training = [read_user_lists(path) for path in paths]
    development = [read_user_lists(path) for path in dev_paths]
    if team.is_main_process:
        print(*training, *development, sep="\n", flush=True)
    if development:
        return _by_file_name(training), _by_file_name(development)

    pairs = [(name, item) for name, lists in _by_file_name(training).items() for item in lists]
    held_out = [graded_list for _, graded_list in pairs[::HELD_OUT]]
    lists: dict[str, list[GradedList]] = {}
    for index, (name, graded_list) in enumerate(pairs):
        if index % HELD_OUT:
            lists.setdefault(name, []).append(graded_list)
    if not lists:
        raise SettingsError(
            f"{paths[0]} holds one list; give more, or a file of others to choose by with --dev."
        )
    if team.is_main_process:
        print(
            f"no --dev: {len(held_out)} of {len(pairs)} lists are held out "
            "to choose the best weights by",
            flush=True,
        )
    return lists, {"held-out": held_out}


def build_learner(options: Namespace, team: SingleProcess) -> VLMLearner:
    """Return the ranker with a fresh adapter, or with the one to start from."""
    ranker = _load_base(options, team)
    config = RankerConfig(
        readout="labels",
        list_prompt=ranker.list_prompt,
        window=options.window,
        max_text_tokens=options.max_text_tokens,
        max_pixels=options.max_pixels,
    )
    lora = Lora(
        rank=options.rank, alpha=2 * options.rank, dropout=options.dropout, seed=options.seed
    )
    learner = VLMLearner(
        ranker,
        MemoryStore(options.work / "memories"),
        config,
        lora,
        checkpointing=not options.keep_activations,
        half=options.autocast,
    )
    if options.init is not None:
        learner.start_from(options.init)
    return learner


def _load_base(options: Namespace, team: SingleProcess) -> VLMRanker:
    prompt = None
    if options.prompt:
        prompt = ListPrompt(**json.loads(options.prompt.read_text(encoding="utf-8")))
    device = str(team.device) if isinstance(team, Distributed) else options.device
    with warnings.catch_warnings():
        # Answering with labels is what the training will teach.
        warnings.filterwarnings("ignore", ".*was not trained to answer with labels")
        return load_vlm(
            options.base,
            device=device,
            dtype=options.dtype,
            readout="labels",
            window=options.window,
            max_text_tokens=options.max_text_tokens,
            max_pixels=options.max_pixels,
            list_prompt=prompt,
        )


def lora_stage(options: Namespace, lists: Sets, dev_sets: Sets) -> Stage:
    """Return the options as a stage: lists of 8 to 20 candidates for a window of 20."""
    return Stage(
        name=options.name,
        sources=tuple((name, 1.0) for name in lists),
        dev_sets=tuple(dev_sets),
        trainable=(PART,),
        steps=options.steps,
        list_length=4 * options.window // 5,
        max_list_length=options.window,
        batch_size=options.lists_a_step,
        loss=options.loss,
        learning_rate=options.rate,
        warmup=0.05,
        weight_decay=0.0,
        ema_decay=options.average,
        evaluate_every=options.evaluate_every,
    )


def save_adapter(trainer: Trainer, learner: VLMLearner, dev_sets: Sets, folder: Path) -> None:
    """Save the adapter with its record, print its position bias, and calibrate it.

    The calibration is fitted on development lists.
    """
    learner.save(folder)
    record = {**asdict(trainer.record), "history": trainer.history}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"after training:\n{_diagnosis(learner, dev_sets)}", flush=True)

    requests, grades = _examples(learner, dev_sets)
    calibration = fit(learner.ranker, requests, grades)
    replace(learner.recipe, calibration=calibration).save(folder)
    print(
        f"saved; use it by load_ranker({learner.ranker.name!r}, adapter={str(folder)!r})",
        flush=True,
    )


def _diagnosis(learner: VLMLearner, dev_sets: Sets) -> str:
    requests, _ = _examples(learner, dev_sets)
    return str(diagnose(learner.ranker, requests))


def _examples(learner: VLMLearner, dev_sets: Sets) -> tuple[list[Any], list[Sequence[float]]]:
    """Return the first window of some development lists as scoring requests, and their grades."""
    learner.rest()
    lists = [graded_list for dev_set in dev_sets.values() for graded_list in dev_set]
    windows = [
        take(graded_list, range(min(len(graded_list.docids), learner.ranker.window)))
        for graded_list in lists[:DIAGNOSED_LISTS]
    ]
    return [learner.ask(window) for window in windows], [window.grades for window in windows]


def _first_stage_line(dev_sets: Sets) -> str:
    """Say how good the first stage's order is, where the lists have its scores."""
    scored = {
        name: lists
        for name, lists in dev_sets.items()
        if all(graded_list.first for graded_list in lists)
    }
    ndcg = {
        name: mean(evaluate(qrels_of(lists), first_run(lists), NDCG10))
        for name, lists in scored.items()
    }
    values = "  ".join(f"{name} {value:.4f}" for name, value in ndcg.items())
    return f"as given: {values or 'no scores'}"


def _by_file_name(files: Sequence[UserLists]) -> dict[str, list[GradedList]]:
    names = [user_lists.path.stem for user_lists in files]
    if len(set(names)) < len(names):
        raise SettingsError(
            f"got files named {', '.join(names)}; "
            "lists are told apart by the names of their files, rename one."
        )
    return {user_lists.path.stem: list(user_lists.lists) for user_lists in files}


def _record(options: Namespace, stage: Stage, learner: VLMLearner) -> Record:
    settings = {name: str(getattr(options, name)) for name in RECORDED_OPTIONS}
    settings |= asdict(stage) | asdict(learner.ranker.list_prompt)
    names = (options.base, options.init)
    folders = [Path(name) for name in names if name and Path(name).is_dir()]
    weights = [path for folder in folders for path in folder.glob("*.safetensors")]
    return record_of(settings, options.seed, hashes([*options.lists, *options.dev, *weights]))
