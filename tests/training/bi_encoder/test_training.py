"""The bi-encoder and its heads: they learn, resume bit for bit, and freeze what they should."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_index_rnx.errors import RNXError
from training.bi_encoder import (
    BiEncoderSettings,
    EncoderInputs,
    HeadSettings,
    train_head,
    train_retriever,
)
from training.bi_encoder.heads import Head, HeadTask
from training.bi_encoder.model import (
    BiEncoder,
    late_score_matrix,
    late_scores,
    recalls,
)
from training.bi_encoder.source import CachedPairs
from training.bi_encoder.training import BiEncoderTask
from training.engine import CHECKPOINT, Trainer, checkpoint
from training.mini import CaptionVectors
from training.weights import fold

SETTINGS = BiEncoderSettings(steps=4, batch=8, frozen_steps=2, captions=2)
HEAD = HeadSettings(steps=12, batch=16, figures=32, openstax=1.0)


@pytest.fixture(scope="module")
def trained(inputs: EncoderInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bi-encoder that was trained in one go."""
    out = tmp_path_factory.mktemp("retriever")
    train_retriever(inputs, SETTINGS, out)
    return out


def killed_at(step: int, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, save after every step, and die before step `step`."""
    take_step = Trainer.step
    taken = itertools.count()

    def dying(self: Trainer) -> float:
        if next(taken) == step:
            raise KeyboardInterrupt
        return take_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", dying)
        patch.setattr("training.engine.trainer.SAVE_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            run()


def model_of(inputs: EncoderInputs, settings: BiEncoderSettings) -> BiEncoder:
    torch.manual_seed(0)
    return BiEncoder(fold(torch.load(inputs.tower, weights_only=True)), settings)


def test_recalls_of_two_captions_and_two_images() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])  # [captions, images]
    values = recalls(scores, torch.tensor([0, 1]))
    assert values == {"R@1": 50.0, "R@5": 100.0, "R@10": 100.0, "i2t R@1": 100.0}


def test_late_interaction_takes_every_words_best_region() -> None:
    words = torch.eye(2).expand(1, 2, 2)  # one caption of two words
    captions = CaptionVectors(
        vector=torch.zeros(1, 2), words=words, weights=torch.tensor([[0.75, 0.25]])
    )
    regions = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])  # one image of two regions
    assert late_scores(captions, regions).item() == pytest.approx(0.75 * 1.0 + 0.25 * 0.5)
    assert torch.equal(late_score_matrix(captions, regions), late_scores(captions, regions))


def test_the_bi_encoder_learns(inputs: EncoderInputs, middle: dict[str, CachedPairs]) -> None:
    settings = replace(SETTINGS, steps=8, openstax=1.0)
    model = model_of(inputs, settings)
    task = BiEncoderTask(model, middle, settings)
    before = task.evaluate()
    trainer = Trainer(task, None, checkpoint.record_of({}, 0, {}))
    trainer.train()

    after = trainer.history[-1]
    assert trainer.losses[-1] < trainer.losses[0]
    for split in ("flickr_dev", "openstax_dev"):
        assert after[f"{split} cosine R@5"] > before[f"{split} cosine R@5"] + 20
    assert trainer.done == 8


def test_the_tower_is_frozen_at_first_and_its_filters_always(
    inputs: EncoderInputs, middle: dict[str, CachedPairs]
) -> None:
    model = model_of(inputs, SETTINGS)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(BiEncoderTask(model, middle, SETTINGS), None, checkpoint.record_of({}, 0, {}))

    def moved() -> set[str]:
        state = model.state_dict()
        return {name for name in state if not torch.equal(state[name], start[name])}

    trainer.step()
    trainer.step()
    assert not any(name.startswith("tower.") for name in moved())
    assert "part.late" in moved()
    trainer.step()
    tuned = {name for name in moved() if name.startswith("tower.")}
    assert tuned
    assert all("project" in name or "expand" in name or "head" in name for name in tuned)


def test_a_killed_bi_encoder_goes_on_to_the_same_weights(
    inputs: EncoderInputs, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(3, lambda: train_retriever(inputs, SETTINGS, tmp_path), monkeypatch)
    assert not (tmp_path / "model.safetensors").exists()
    losses = train_retriever(inputs, SETTINGS, tmp_path)

    _, header = checkpoint.read(trained / CHECKPOINT)
    assert losses == header["losses"]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, trained))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_says_what_it_was_trained_with(trained: Path) -> None:
    written = json.loads((trained / "settings.json").read_text())
    assert BiEncoderSettings(**written) == SETTINGS
    _, header = checkpoint.read(trained / CHECKPOINT)
    assert header["record"]["settings"] == written
    assert "train.jsonl.gz" in header["record"]["data"]


def test_other_settings_in_the_same_folder_are_refused(
    inputs: EncoderInputs, trained: Path
) -> None:
    with pytest.raises(RNXError, match=r"settings\.batch"):
        train_retriever(inputs, replace(SETTINGS, batch=9), trained)


def test_a_continuation_starts_from_the_weights_of_another_run(
    inputs: EncoderInputs, trained: Path, tmp_path: Path
) -> None:
    init = trained / "model.safetensors"
    settings = replace(SETTINGS, steps=1, rate=0.0, tower_rate=0.0)
    train_retriever(inputs, settings, tmp_path, init)
    ours, theirs = load_file(tmp_path / "model.safetensors"), load_file(init)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_head_learns(grid: dict[str, CachedPairs]) -> None:
    torch.manual_seed(0)
    task = HeadTask(Head(HEAD), grid, HEAD)
    before = task.evaluate()
    trainer = Trainer(task, None, checkpoint.record_of({}, 0, {}))
    trainer.train()
    after = trainer.history[-1]
    assert trainer.losses[-1] < trainer.losses[0]
    assert after["flickr_dev cosine R@5"] > before["flickr_dev cosine R@5"] + 20


def test_a_killed_head_goes_on_to_the_same_weights(
    inputs: EncoderInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_head(inputs, HEAD, whole)
    killed_at(7, lambda: train_head(inputs, HEAD, killed), monkeypatch)
    train_head(inputs, HEAD, killed)
    ours, theirs = (load_file(folder / "head.safetensors") for folder in (killed, whole))
    assert set(theirs) == {name for name, _ in Head(HEAD).pair.named_parameters()}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
