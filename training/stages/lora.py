"""A vision-language model taught to rank lists by its labels, by LoRA."""

from __future__ import annotations

import json
import warnings
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.vlm import ListPrompt, RankerConfig, diagnose, fit, load_vlm
from training.data import GradedList, OwnLists, read_own, take
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

Sets = Mapping[str, Sequence[GradedList]]


HELD_OUT = 10  # every tenth list where no --dev is given


EXAMINED = 50  # development lists that calibrate the adapter and show how it treats slots


RECORD = "record.json"


def run_lora(asked: Namespace) -> Trainer:
    """One stage, from its lists to its adapter.

    Raises:
        RNXError: a list, the model, an option, or a checkpoint in the work folder is wrong.
    """
    team = processes()
    lists, sets = read_sets(asked.lists, asked.dev, team)
    learner = lora_learner(asked, team)
    stage = lora_stage(asked, lists, sets)
    task = GradedListTask(learner, stage, lambda _: lists, sets, asked.seed, team)
    trainer = Trainer(task, asked.work, _record(asked, stage, learner))
    if team.is_main_process and not trainer.history:
        print(f"{_given(sets)}\nbefore training:\n{_examined(learner, sets)}", flush=True)
    trainer.train()
    if team.is_main_process:
        finish(trainer, learner, sets, asked.to)
    return trainer


def read_sets(paths: Sequence[Path], dev: Sequence[Path], team: SingleProcess) -> tuple[Sets, Sets]:
    """The lists to learn from and those to choose by, by the names of their files; says what was
    read and dropped.
    """
    own = [read_own(path) for path in paths]
    held = [read_own(path) for path in dev]
    if team.is_main_process:
        print(*own, *held, sep="\n", flush=True)
    if held:
        return _by_name(own), _by_name(held)
    every = [(name, of) for name, lists in _by_name(own).items() for of in lists]
    kept, out = (
        [row for place, row in enumerate(every) if (place % HELD_OUT == 0) is chosen]
        for chosen in (False, True)
    )
    if not kept:
        raise RNXError(
            f"{paths[0]} holds one list; give more, or a file of others to choose by with --dev."
        )
    if team.is_main_process:
        print(
            f"no --dev: {len(out)} of {len(every)} lists are held out to choose the best weights by",
            flush=True,
        )
    lists: dict[str, list[GradedList]] = {}
    for name, of in kept:
        lists.setdefault(name, []).append(of)
    return lists, {"held-out": [of for _, of in out]}


def lora_learner(asked: Namespace, team: SingleProcess) -> VLMLearner:
    """The ranker with a fresh adapter, or with the one to start from."""
    prompt = (
        ListPrompt(**json.loads(asked.prompt.read_text(encoding="utf-8"))) if asked.prompt else None
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*was not trained to answer with labels"
        )  # that is what happens now
        ranker = load_vlm(
            asked.base,
            device=str(team.device) if isinstance(team, Distributed) else asked.device,
            dtype=asked.dtype,
            readout="labels",
            window=asked.window,
            max_text_tokens=asked.max_text_tokens,
            max_pixels=asked.max_pixels,
            list_prompt=prompt,
        )
    recipe = RankerConfig(
        readout="labels",
        list_prompt=ranker.list_prompt,
        window=asked.window,
        max_text_tokens=asked.max_text_tokens,
        max_pixels=asked.max_pixels,
    )
    store = MemoryStore(asked.work / "memories")
    lora = Lora(rank=asked.rank, alpha=2 * asked.rank, dropout=asked.dropout, seed=asked.seed)
    learner = VLMLearner(
        ranker, store, recipe, lora, checkpointing=not asked.keep_activations, half=asked.autocast
    )
    if asked.init is not None:
        learner.start_from(asked.init)
    return learner


def lora_stage(asked: Namespace, lists: Sets, sets: Sets) -> Stage:
    """What is asked, as a stage: lists of 8 to 20 candidates for a window of 20."""
    return Stage(
        name=asked.name,
        sources=tuple((name, 1.0) for name in lists),
        dev_sets=tuple(sets),
        trainable=(PART,),
        steps=asked.steps,
        list_length=4 * asked.window // 5,
        max_list_length=asked.window,
        batch_size=asked.lists_a_step,
        loss=asked.loss,
        learning_rate=asked.rate,
        warmup=0.05,
        weight_decay=0.0,
        ema_decay=asked.average,
        evaluate_every=asked.evaluate_every,
    )


def finish(trainer: Trainer, learner: VLMLearner, sets: Sets, to: Path) -> None:
    """Saves the adapter with its record, says how it treats slots, and calibrates it on development
    lists.
    """
    learner.save(to)
    record = {**asdict(trainer.record), "history": trainer.history}
    (to / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"after training:\n{_examined(learner, sets)}", flush=True)
    asks, grades = _examples(learner, sets)
    replace(learner.recipe, calibration=fit(learner.ranker, asks, grades)).save(to)
    print(f"saved; use it by load_ranker({learner.ranker.name!r}, adapter={str(to)!r})", flush=True)


def _examined(learner: VLMLearner, sets: Sets) -> str:
    return str(diagnose(learner.ranker, _examples(learner, sets)[0]))


def _examples(learner: VLMLearner, sets: Sets) -> tuple[list[Any], list[Sequence[float]]]:
    """The first candidates, a window of them, of some development lists, and their grades."""
    learner.rest()
    every = [of for lists in sets.values() for of in lists][:EXAMINED]
    first = [take(of, range(min(len(of.docids), learner.ranker.window))) for of in every]
    return [learner.ask(of) for of in first], [of.grades for of in first]


def _given(sets: Sets) -> str:
    """How good the order is in which the lists came, where they say so."""
    known = {name: lists for name, lists in sets.items() if all(of.first for of in lists)}
    found = {
        name: mean(evaluate(qrels_of(lists), first_run(lists), NDCG10))
        for name, lists in known.items()
    }
    return "as given: " + (
        "  ".join(f"{name} {value:.4f}" for name, value in found.items()) or "no scores"
    )


def _by_name(own: Sequence[OwnLists]) -> dict[str, list[GradedList]]:
    names = [of.path.stem for of in own]
    if len(set(names)) < len(names):
        raise RNXError(
            f"got files named {', '.join(names)}; lists are told apart by the names of their files, rename one."
        )
    return {of.path.stem: list(of.lists) for of in own}


def _record(asked: Namespace, stage: Stage, learner: VLMLearner) -> Record:
    names = (
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
    settings = (
        {name: str(getattr(asked, name)) for name in names}
        | asdict(stage)
        | asdict(learner.ranker.list_prompt)
    )
    folders = [Path(name) for name in (asked.base, asked.init) if name and Path(name).is_dir()]
    weights = [path for folder in folders for path in folder.glob("*.safetensors")]
    return record_of(settings, asked.seed, hashes([*asked.lists, *asked.dev, *weights]))
