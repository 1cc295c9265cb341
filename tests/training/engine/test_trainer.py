"""The training loop on a learner of two weights: it learns a planted order, resumes bit by bit, and
refuses another run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llama_index_rnx.errors import RNXError
from training.data import GradedList
from training.engine import (
    GradedListTask,
    Lists,
    SingleProcess,
    Stage,
    Trainer,
    checkpoint,
    ndcg,
)
from training.engine.graded_lists import round_of, sample_candidates, starts_round

STAGE = Stage(
    name="lengths",
    sources=(("all", 1.0),),
    dev_sets=("held-out",),
    trainable=("line",),
    steps=40,
    list_length=6,
    batch_size=2,
    learning_rate=0.1,
    evaluate_every=10,
    ema_decay=0.5,
)


class LineLearner:
    """A text's score is a line over its length and its number of spaces; the longest is planted as
    the best.
    """

    def __init__(self) -> None:
        self.line = nn.Linear(2, 1, bias=False)
        nn.init.constant_(self.line.weight, -0.1)
        self.calls = 0

    def scores(self, of: GradedList) -> Tensor:
        self.calls += 1
        features = torch.tensor([[len(text) / 10, text.count(" ")] for text in of.texts])
        if torch.is_grad_enabled():
            # This stands for dropout: it draws from the global generator.
            features = features + 0.01 * torch.randn_like(features)
        found: Tensor = self.line(features).squeeze(1)
        return found

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        return [
            {
                "params": [self.line.weight],
                "lr": stage.learning_rate,
                "weight_decay": stage.weight_decay,
            }
        ]

    def weights(self) -> dict[str, Tensor]:
        return {"line": self.line.weight.data}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.line.weight.data.copy_(weights["line"])

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def lists(count: int, seed: int) -> list[GradedList]:
    chance, made = random.Random(seed), []
    for number in range(count):
        texts = tuple("x" * chance.randint(1, 40) for _ in range(8))
        grades = tuple(float(len(text) > 30) + float(len(text) > 20) for text in texts)
        made.append(
            GradedList(
                source="all",
                qid=f"q{number}",
                query="?",
                docids=tuple("abcdefgh"),
                texts=texts,
                grades=grades,
            )
        )
    return made


SETS: Lists = {"held-out": [of for of in lists(12, seed=1) if max(of.grades) > 0]}


def task_of(
    learner: LineLearner,
    stage: Stage = STAGE,
    seed: int = 0,
    processes: SingleProcess = SingleProcess(),
) -> GradedListTask:
    """Lists of a mining round are drawn by the number of the round."""
    return GradedListTask(
        learner,
        stage,
        lambda number: {"all": lists(20, seed=number)},
        SETS,
        seed,
        processes,
    )


def run(work: Path, steps: int = STAGE.steps, seed: int = 0, data: str = "1") -> Trainer:
    """A run; fewer `steps` than the stage has stop it there, as a kill would."""
    record = checkpoint.record_of({"steps": STAGE.steps}, seed, {"lists": data})
    trainer = Trainer(task_of(LineLearner(), seed=seed), work, record)
    if steps == STAGE.steps:
        trainer.train()
        return trainer

    trainer.evaluate()
    while trainer.done < steps:
        trainer.step()
        if trainer.done % STAGE.evaluate_every == 0:
            trainer.evaluate()
            trainer.save_checkpoint()
    return trainer


def learner_of(trainer: Trainer) -> LineLearner:
    assert isinstance(trainer.task, GradedListTask)
    assert isinstance(trainer.task.learner, LineLearner)
    return trainer.task.learner


def test_a_planted_order_is_learned_and_the_loss_falls(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    assert trainer.history[0]["held-out"] < 0.6 < 0.95 < trainer.history[-1]["held-out"]
    assert sum(trainer.losses[-10:]) < 0.5 * sum(trainer.losses[:10])


def test_the_learner_ends_with_the_best_weights(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    best = max(row["mean"] for row in trainer.history)
    found = ndcg(learner_of(trainer), SETS["held-out"])
    assert sum(found.values()) / len(found) == best


def test_a_killed_run_goes_on_with_the_same_result_bit_by_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "killed", steps=27)  # dies seven steps after its last checkpoint
    resumed = run(tmp_path / "killed")
    assert resumed.done == STAGE.steps
    assert torch.equal(learner_of(resumed).weights()["line"], learner_of(whole).weights()["line"])
    assert resumed.losses == whole.losses
    assert resumed.history == whole.history


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert learner_of(again).calls == 0
    assert torch.equal(learner_of(again).weights()["line"], learner_of(first).weights()["line"])


@pytest.mark.parametrize(("other", "named"), [({"seed": 1}, "seed"), ({"data": "2"}, "data.lists")])
def test_a_folder_of_another_run_is_refused(
    tmp_path: Path, other: dict[str, Any], named: str
) -> None:
    run(tmp_path)
    with pytest.raises(RNXError, match=named):
        run(tmp_path, **other)


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(RNXError, match="delete it to begin anew"):
        run(tmp_path)


def test_a_checkpoint_says_what_the_run_was(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    assert trainer.path is not None
    tensors, header = checkpoint.read(trainer.path)
    assert {name.split("/")[0] for name in tensors} == {"weights", "average", "best", "optimiser"}
    assert header["record"]["seed"] == 0
    assert header["record"]["data"] == {"lists": "1"}
    assert {"python", "torch", "transformers", "cpu"} <= set(header["record"]["environment"])


def test_rounds_are_equal_parts_of_the_steps() -> None:
    stage = Stage(name="s", sources=(), dev_sets=(), trainable=(), steps=10, mining_rounds=3)
    assert [round_of(step, stage) for step in range(10)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [step for step in range(10) if starts_round(step, stage)] == [0, 4, 7]


def test_the_rate_warms_up_and_falls() -> None:
    task = task_of(LineLearner())
    factors = [task.learning_rate_factor(step) for step in range(STAGE.steps)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0.02 <= factors[-1] < 0.03


def test_a_draw_keeps_half_for_what_is_to_be_beaten() -> None:
    of = lists(1, seed=0)[0]
    relevant = {place for place, grade in enumerate(of.grades) if grade > 0}
    found = sample_candidates(of, 4, random.Random(0))
    assert len(set(found)) == 4
    assert len(set(found) & relevant) == min(2, len(relevant))


def test_hashes_name_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("abc")
    assert checkpoint.hashes([tmp_path / "a.jsonl"], tmp_path) == {
        "a.jsonl": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }


class Half(SingleProcess):
    """One of two processes, whose other half has already told its gradients and its loss."""

    world_size = 2

    def __init__(self, rank: int, sent: list[list[Tensor]]) -> None:
        self.rank = rank
        self.sent = sent

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        if self.rank == 1:
            self.sent.append([tensor.clone() for tensor in tensors])
            return
        for tensor, received in zip(tensors, self.sent.pop(), strict=True):
            tensor.add_(received)


def test_two_processes_make_the_step_of_one(tmp_path: Path) -> None:
    record = checkpoint.record_of({}, 0, {})
    sent: list[list[Tensor]] = []
    single = Trainer(task_of(LineLearner()), tmp_path, record)
    second = Trainer(task_of(LineLearner(), processes=Half(1, sent)), tmp_path, record)
    first = Trainer(task_of(LineLearner(), processes=Half(0, sent)), tmp_path, record)

    second.step()
    assert first.step() == pytest.approx(single.step())
    assert learner_of(first).weights()["line"].tolist() == [
        pytest.approx(row) for row in learner_of(single).weights()["line"].tolist()
    ]
    assert learner_of(second).calls == learner_of(first).calls == STAGE.batch_size // 2


def test_no_more_candidates_than_a_window_are_drawn(tmp_path: Path) -> None:
    stage = replace(STAGE, list_length=8, max_list_length=3)
    task = task_of(LineLearner(), stage)
    lengths = {len(task.sample_list(of, random.Random(0))[0].texts) for of in lists(20, seed=0)}
    assert lengths == {3}
