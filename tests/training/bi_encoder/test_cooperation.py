"""Bi-encoder and cross-encoder together: mining, lists, resumption, and the table."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.bi_encoder import CooperationSettings, EncoderInputs, compare_cooperation
from training.bi_encoder.cooperation import (
    CooperationTask,
    encode_split,
    mine_hard_negatives,
    new_encoder,
)
from training.bi_encoder.cooperation_table import cross_scores, format_recall
from training.bi_encoder.source import CachedPairs
from training.engine import Trainer, record_of

SETTINGS = CooperationSettings(
    rounds=6,
    pictures=16,
    lists=6,
    length=4,
    nearest=8,
    mine_every=4,
    queries=10,
    width=32,
    layers=1,
)


def trained(task: CooperationTask, work: Path | None = None) -> Trainer:
    trainer = Trainer(task, work, record_of({}, 0, {}))
    trainer.train()
    return trainer


def test_recall_counts_the_first_k() -> None:
    order = torch.tensor([[2, 0], [1, 3]])
    assert format_recall(order, torch.tensor([0, 1])) == "50.0 / 100.0 / 100.0"


def test_mined_negatives_are_the_nearest_wrong_images(grid: dict[str, CachedPairs]) -> None:
    source, miner = grid["flickr_train"], new_encoder(SETTINGS)
    hard = mine_hard_negatives(miner, source, nearest=3)
    captions, images, owner = encode_split(miner, source)
    assert hard.shape == (len(captions), 3)

    cosine = captions @ images.T
    for text in (0, 50, len(captions) - 1):
        right = source.rows[int(owner[text])]
        order = [source.rows[i] for i in cosine[text].argsort(descending=True).tolist()]
        assert hard[text].tolist() == [row for row in order if row != right][:3]


def test_a_list_has_its_image_and_no_second_copy_of_it(grid: dict[str, CachedPairs]) -> None:
    source = grid["flickr_train"]
    task = CooperationTask(new_encoder(SETTINGS), source, SETTINGS, ("cross",))
    next(task.losses(0))  # mines
    for row in source.rows[:5]:
        text = source.texts[row][0]
        negatives = task._negatives(row, text, np.random.default_rng(row))
        assert len(negatives) == SETTINGS.length - 1
        assert row not in negatives
        assert set(negatives[: SETTINGS.hard]) <= set(task.state()["hard_negatives"][text].tolist())


def test_together_scores_depend_on_both(grid: dict[str, CachedPairs]) -> None:
    source, encoder = grid["flickr_dev"], new_encoder(SETTINGS).eval()
    texts = [source.texts[row][0] for row in source.rows[:3]]
    candidates = torch.arange(4).expand(3, -1)
    scores = cross_scores(encoder, source, candidates, texts)
    assert scores.shape == (3, 4)
    assert len(set(scores.flatten().tolist())) == 12


@pytest.mark.parametrize("loss", ["infonce", "hard_triplet"])
def test_the_bi_encoder_learns(loss: str, grid: dict[str, CachedPairs]) -> None:
    settings = replace(SETTINGS, rounds=20, loss=loss)
    encoder = new_encoder(settings)
    trainer = trained(CooperationTask(encoder, grid["flickr_train"], settings, ("bi",)))
    assert sum(trainer.losses[-5:]) < sum(trainer.losses[:5])


def test_every_turn_moves_the_weights(grid: dict[str, CachedPairs]) -> None:
    source, encoder = grid["flickr_train"], new_encoder(SETTINGS)
    task = CooperationTask(encoder, source, SETTINGS, ("bi", "cross"))
    trainer = Trainer(task, None, record_of({}, 0, {}))
    states = [encoder.vector.weight.detach().clone() for _ in task.losses(0)]
    assert torch.equal(*states), "losses alone move nothing"
    trainer.step()
    steps = {int(state["step"]) for state in trainer.optimizer.state.values()}
    # `score` is no part of the bi-encoder, `temperature` none of the cross-encoder.
    assert steps == {1, 2}


def test_a_killed_run_keeps_the_negatives_it_had_mined(
    grid: dict[str, CachedPairs], tmp_path: Path
) -> None:
    source = grid["flickr_train"]

    def task() -> CooperationTask:
        return CooperationTask(new_encoder(SETTINGS), source, SETTINGS, ("bi", "cross"))

    whole = trained(task(), tmp_path / "whole")
    killed = Trainer(task(), tmp_path / "killed", record_of({}, 0, {}))
    for _ in range(2):
        killed.step()
    killed.save_checkpoint()  # between two minings

    resumed = trained(task(), tmp_path / "killed")
    assert resumed.losses == whole.losses
    ours, theirs = resumed.task.weights(), whole.task.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_without_a_folder_writes_nothing(
    grid: dict[str, CachedPairs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = new_encoder(SETTINGS)
    miner = copy.deepcopy(encoder)
    trained(CooperationTask(encoder, grid["flickr_train"], SETTINGS, ("cross",), miner))
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_row_for_every_cut(inputs: EncoderInputs) -> None:
    rows = compare_cooperation(inputs, replace(SETTINGS, rounds=2), ["SEP", "JOINT"])
    names = [row.split("|")[1].strip() for row in rows]
    kinds = [
        "bi-encoder",
        "k = 10",
        "k = 20",
        "k = 50",
        "cross-encoder over all, 10 captions",
    ]
    assert names == [f"{name}: {kind}" for name in ("SEP", "JOINT") for kind in kinds]
