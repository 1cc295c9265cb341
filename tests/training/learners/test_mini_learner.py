"""rnx-mini as a learner: parameter groups, views, what it encodes once, and what it saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.data import GradedList, synthetic
from training.engine import Stage
from training.features import FeatureMapCache, TextStateCache, idf
from training.learners import MiniLearner, begin_reader
from training.learners.mini import image_positions
from training.mini import ImageVectors
from training.stages.tiny_mini import tiny_model

TEXTS = ("yeast oven flour", "queen pollen brood", "")


@pytest.fixture
def graded_list(tmp_path: Path) -> GradedList:
    """A text, a text with an image, and an image."""
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        synthetic.draw_shape("large", colour, "circle", "left").save(path)
    return GradedList(
        source="s",
        qid="q",
        query="loaf crust",
        docids=("1", "2", "3"),
        texts=TEXTS,
        grades=(2.0, 1.0, 0.0),
        images=(None, paths[0], paths[1]),
    )


@pytest.fixture
def learner(graded_list: GradedList, tmp_path: Path) -> MiniLearner:
    model = tiny_model(0)
    others = synthetic.text_lists(24, seed=0)
    words = [text for graded_list in others for text in graded_list.texts]
    texts = TextStateCache(tmp_path / "texts", idf(model.text, words), model.reader.config)
    maps = FeatureMapCache(tmp_path / "maps", views=2)
    learner = MiniLearner(model, texts, maps, {}, torch.float32)
    learner.remember([graded_list, *others], "lists")
    begin_reader(learner, words)
    return learner


def stage_of(*trainable: str) -> Stage:
    return Stage(name="s", sources=(), dev_sets=(), trainable=trainable, steps=1)


def test_scalars_matrices_and_vectors_move_at_their_own_rates(learner: MiniLearner) -> None:
    stage = stage_of("image")
    groups = learner.groups(stage)
    rates = [(group["lr"], group["weight_decay"]) for group in groups]
    assert rates == [
        (stage.scalar_learning_rate, 0.0),
        (stage.learning_rate, stage.weight_decay),
        (stage.learning_rate, 0.0),
    ]
    assert {parameter.ndim for parameter in groups[1]["params"]} == {2, 3}
    assert all(parameter.requires_grad for group in groups for parameter in group["params"])
    assert not any(parameter.requires_grad for parameter in learner.reader.parameters())


def test_a_stage_names_modules_not_prefixes(learner: MiniLearner) -> None:
    (group,) = learner.groups(stage_of("image.late"))
    assert group["params"] == [learner.image.late]


def test_training_draws_views_and_evaluation_does_not(
    learner: MiniLearner, graded_list: GradedList
) -> None:
    with torch.inference_mode():
        first, second = learner.scores(graded_list), learner.scores(graded_list)
    assert torch.equal(first, second)
    assert first.shape == (3,)

    drawn = set()
    for seed in range(6):
        torch.manual_seed(seed)
        drawn.add(tuple(learner.scores(graded_list).tolist()))
    assert len(drawn) > 1


def test_images_are_encoded_once_between_two_steps(
    learner: MiniLearner, graded_list: GradedList, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, calls = learner.vectors, list[int]()

    def counted(paths: list[Path]) -> ImageVectors:
        calls.append(len(paths))
        return vectors(paths)

    monkeypatch.setattr(learner, "vectors", counted)
    with torch.inference_mode():
        learner.scores(graded_list)
        learner.scores(graded_list)
    assert calls == [2]

    learner.scores(graded_list)  # a training step follows
    with torch.inference_mode():
        learner.scores(graded_list)
    learner.load({name: weight.clone() for name, weight in learner.weights().items()})
    with torch.inference_mode():
        learner.scores(graded_list)
    assert calls == [2, 2, 2]


def test_candidates_with_images_are_known_by_image_or_logit(graded_list: GradedList) -> None:
    assert image_positions(graded_list) == [1, 2]


def test_what_a_learner_loads_is_what_it_had(learner: MiniLearner) -> None:
    before = {name: weight.clone() for name, weight in learner.weights().items()}
    with torch.no_grad():
        for parameter in learner.reader.parameters():
            parameter.add_(1.0)
    learner.load(before)
    assert all(torch.equal(weight, before[name]) for name, weight in learner.weights().items())
    assert {name.split(".")[0] for name in before} == {"reader", "image"}
