"""The trainer on a task of one number, where every step can be computed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.engine import ModuleTask, Trainer, checkpoint, record_of, warmup_times_cosine
from training.engine.schedules import warmup_then_cosine


class SlopeTask(ModuleTask):
    """A weight with the loss -weight: its gradient is -1, so SGD adds the learning rate."""

    name = "slope"
    steps = 4
    evaluate_every = 2
    max_grad_norm = 10.0

    def __init__(self, losses: int = 1) -> None:
        module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(module.weight)
        super().__init__(module)
        self.weight = module.weight
        self.count = losses

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)

    def learning_rate_factor(self, step: int) -> float:
        return 1.0 / (step + 1)

    def ema_decay(self, step: int) -> float:
        return 0.5

    def losses(self, step: int) -> Iterator[Tensor]:
        for _ in range(self.count):
            yield -self.weight.sum()

    def evaluate(self) -> dict[str, float]:
        return {"weight": self.weight.item()}


def trainer_of(task: ModuleTask, work: Path | None = None) -> Trainer:
    return Trainer(task, work, record_of({}, 0, {}))


def test_the_weights_and_their_average_in_closed_form() -> None:
    task = SlopeTask()
    trainer = trainer_of(task)
    expected, average = 0.0, 0.0
    for step in range(4):
        trainer.step()
        expected += 1 / (step + 1)
        average = 0.5 * average + 0.5 * expected
        assert task.weight.item() == pytest.approx(expected)
        assert trainer.average["weight"].item() == pytest.approx(average)
    assert trainer.losses == pytest.approx([0.0, -1.0, -1.5, -11 / 6])


def test_a_task_that_selects_nothing_ends_with_the_last_average() -> None:
    task = SlopeTask()
    trainer = trainer_of(task)
    trainer.train()
    assert [row["step"] for row in trainer.history] == [2, 4], "nothing before the first step"
    assert torch.equal(task.weights()["weight"], trainer.average["weight"])


def test_a_task_that_selects_ends_with_the_best_average() -> None:
    class Falling(SlopeTask):
        selects_best = True

        def evaluate(self) -> dict[str, float]:
            return {"minus": -self.weight.item()}

    task = Falling()
    trainer = trainer_of(task)
    trainer.train()
    assert [row["step"] for row in trainer.history] == [0, 2, 4]
    assert task.weight.item() == 0.0


def test_losses_are_added_up_or_move_the_weights_one_by_one() -> None:
    class OneByOne(SlopeTask):
        updates_after_each_loss = True

    together, apart = SlopeTask(losses=2), OneByOne(losses=2)
    assert trainer_of(together).step() == 0.0
    assert trainer_of(apart).step() == -1.0, "the second loss sees the first update"
    assert together.weight.item() == apart.weight.item() == 2.0


def test_gradients_are_clipped_to_their_norm() -> None:
    class Clipped(SlopeTask):
        max_grad_norm = 0.25

    task = Clipped()
    trainer_of(task).step()
    assert task.weight.item() == pytest.approx(0.25, rel=1e-4)


def test_a_resumed_run_stands_at_its_learning_rate(tmp_path: Path) -> None:
    first = trainer_of(SlopeTask(), tmp_path)
    for _ in range(2):
        first.step()
    first.save_checkpoint()

    task = SlopeTask()
    second = trainer_of(task, tmp_path)
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(1 / 3)
    second.train()
    assert second.losses == pytest.approx([0.0, -1.0, -1.5, -11 / 6])


def test_a_checkpoint_is_tensors_and_json(tmp_path: Path) -> None:
    trainer = trainer_of(SlopeTask(), tmp_path)
    trainer.train()
    assert trainer.path is not None
    tensors, header = checkpoint.read(trainer.path)
    assert set(tensors) == {"weights/weight", "average/weight", "best/weight"}
    assert header["done"] == 4
    assert header["losses"] == trainer.losses
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_progress_names_the_rate_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(SlopeTask())
    trainer.step()
    trainer.seconds = 0.5
    trainer.show()
    line = capsys.readouterr().out.strip()
    assert line == "slope: step 1/4 loss 0.0000, 2.00 steps/s, 2 s left"


def test_schedules_begin_and_end_where_they_should() -> None:
    then = [warmup_then_cosine(step, 4, 40, 0.02) for step in range(41)]
    assert then[:4] == [0.25, 0.5, 0.75, 1.0]
    assert then[40] == pytest.approx(0.02)
    times = [warmup_times_cosine(step, 4, 40) for step in range(41)]
    assert times[0] == pytest.approx(0.25)
    assert times[20] == pytest.approx(0.5)
    assert times[40] == pytest.approx(0.0)
