"""Lists of pictures graded through captions, joint lists, and the generated data: by hand and by
their promises.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.data import CaptionedImage, load_or_build_lists
from training.data import synthetic as generated
from training.evaluation import evaluate, first_stage_run, mean, qrels_of
from training.learners.mini import image_positions
from training.losses import softmax_kl
from training.teachers import caption_lists, image_lists, matching_noise
from training.teachers.captions import caption_grades, caption_similarity
from training.teachers.joint_lists import near_images

DOG, BEACH, CAR = (
    CaptionedImage(
        path=Path("dog.png"), queries=("a dog", "a dog runs"), about=("the dog is wet",)
    ),
    CaptionedImage(path=Path("beach.png"), queries=("a beach", "a dog on a beach")),
    CaptionedImage(path=Path("car.png"), queries=("a car",)),
)


def same_words(queries: Sequence[str], captions: Sequence[str]) -> Tensor:
    """The share of the query's words."""
    return torch.tensor(
        [
            [len(set(q.split()) & set(c.split())) / len(set(q.split())) for c in captions]
            for q in queries
        ]
    )


def test_a_picture_is_as_like_as_its_nearest_caption() -> None:
    likeness = caption_similarity(same_words, "a dog runs", [DOG, BEACH, CAR])
    assert likeness.tolist() == pytest.approx([1.0, 2 / 3, 1 / 3])


def test_soft_grades_are_the_teachers_softmax_for_the_loss() -> None:
    likeness, temperature = torch.tensor([0.9, 0.6, 0.1]), 0.2
    grades = caption_grades(likeness, temperature)
    assert grades[0] == pytest.approx(3.0)
    assert float(softmax_kl(likeness / temperature, grades)) == pytest.approx(0.0, abs=1e-6)
    assert float(softmax_kl(torch.zeros(3), grades)) > 0.1


def test_caption_lists_hold_what_the_ranker_finds_and_the_right_picture() -> None:
    def find(queries: Sequence[str], paths: Sequence[Path]) -> Tensor:
        # It takes everything for a car.
        return torch.tensor([[0.0, 1.0, 2.0]]).expand(len(queries), -1)

    lists = caption_lists([DOG, BEACH, CAR], find, same_words, source="s", count=6, depth=2, seed=0)
    for of in lists:
        right = next(picture for picture in (DOG, BEACH, CAR) if of.query in picture.queries)
        assert of.docids[0] == right.path.name
        assert len(of.docids) == 2
        assert of.docids[1] == ("beach.png" if right is CAR else "car.png")
        assert of.grades[0] == pytest.approx(3.0)
        assert of.grades[0] > of.grades[1]
        assert image_positions(of) == [0, 1]
    again = caption_lists([DOG, BEACH, CAR], find, same_words, source="s", count=6, depth=2, seed=0)
    assert again == lists


def test_development_lists_of_pictures_have_one_right_one_among_all() -> None:
    lists = image_lists([DOG, BEACH, CAR], "dev", 3)
    assert [of.grades.index(1.0) for of in lists] == [0, 1, 2]
    assert all(sum(of.grades) == 1.0 for of in lists)


def test_wrong_pictures_lie_around_the_right_ones_rank() -> None:
    scores = torch.arange(100.0)
    near = near_images(scores, owner=60, count=10, rng=random.Random(0))
    assert len(near) == 10
    assert 60 not in near
    assert min(near) < 60 < max(near)
    assert near == sorted(near, reverse=True)


def test_the_noise_makes_known_pictures_as_hard_as_new_ones() -> None:
    draw = torch.Generator().manual_seed(7)
    known = torch.eye(200) * 5 + torch.randn(200, 200, generator=draw)
    new = known + 2 * torch.randn(200, 200, generator=draw)
    assert matching_noise(known, new) == 2.0
    assert matching_noise(known, known) == 0.0


def test_mined_lists_are_kept_as_they_were(tmp_path: Path) -> None:
    lists = image_lists([DOG, BEACH, CAR], "dev", 3) + generated.text_lists(2, seed=0)
    path = tmp_path / "round" / "lists.jsonl"
    assert load_or_build_lists(path, lambda: lists) == lists
    assert load_or_build_lists(path, lambda: pytest.fail("they are there")) == lists


def test_the_given_order_of_generated_texts_is_not_the_planted_one() -> None:
    lists = generated.text_lists(40, seed=1)
    given = mean(evaluate(qrels_of(lists), first_stage_run(lists)))
    assert given < 0.5
    assert {sum(of.grades) for of in lists} == {6.0}


def test_generated_questions_share_no_word_with_their_answers() -> None:
    chance = random.Random(0)
    telling = {
        word for topic in generated.TOPICS.values() for side in topic for word in side.split()
    }
    for topic in generated.TOPICS:
        asked, answered = (
            set(made.split()) & telling
            for made in (generated.question(topic, chance), generated.answer(topic, 3, chance))
        )
        assert len(asked) == 2
        assert not asked & answered


def test_no_kind_of_generated_picture_is_both_learned_and_held_out(tmp_path: Path) -> None:
    known, new = generated.generate_images(tmp_path, 12, 5)
    assert (len(known), len(new)) == (12, 5)
    assert not {picture.caption for picture in known} & {picture.caption for picture in new}
    assert all(picture.path.is_file() for picture in (*known, *new))
