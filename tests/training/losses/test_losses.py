"""Closed-form cases of the listwise losses."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses import hard_triplet, infonce, lambdarank, listmle, ranknet, softmax_kl
from training.losses.listwise import plackett_luce


def test_plackett_luce_of_equal_scores_is_log_of_the_number_of_orders() -> None:
    loss = plackett_luce(torch.zeros(4), torch.tensor([2, 0, 3, 1]))
    assert loss.item() == pytest.approx(math.log(24), abs=1e-5)


def test_plackett_luce_of_two_is_the_logistic_loss() -> None:
    scores = torch.tensor([1.0, 3.0])
    assert plackett_luce(scores, torch.tensor([1, 0])).item() == pytest.approx(
        math.log1p(math.exp(-2)), abs=1e-6
    )
    assert plackett_luce(scores, torch.tensor([0, 1])).item() == pytest.approx(
        math.log1p(math.exp(2)), abs=1e-6
    )


def test_plackett_luce_temperature_divides_the_scores() -> None:
    scores, order = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2, 0, 1])
    assert torch.allclose(
        plackett_luce(scores, order, temperature=2.0), plackett_luce(scores / 2.0, order)
    )


def test_plackett_luce_is_smallest_for_the_order_of_the_scores() -> None:
    scores = torch.tensor([0.1, 2.0, -1.0])
    orders = torch.cartesian_prod(*[torch.arange(3)] * 3)
    orders = orders[[len(set(row.tolist())) == 3 for row in orders]]
    losses = torch.stack([plackett_luce(scores, order) for order in orders])
    assert orders[losses.argmin()].tolist() == [1, 0, 2]
    # The probabilities of all orders add up to 1.
    assert (-losses).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_listmle_without_ties_is_plackett_luce_a_position() -> None:
    scores, grades = torch.tensor([0.3, -0.2, 1.0]), torch.tensor([1.0, 3.0, 0.0])
    expected = plackett_luce(scores, torch.tensor([1, 0, 2])) / 2
    assert torch.allclose(listmle(scores, grades), expected)


def test_listmle_does_not_order_ties() -> None:
    grades = torch.tensor([1.0, 1.0, 0.0])
    assert torch.allclose(
        listmle(torch.tensor([2.0, 1.0, 0.0]), grades),
        listmle(torch.tensor([1.0, 2.0, 0.0]), grades),
    )
    assert listmle(torch.tensor([2.0, 1.0, 0.0]), torch.ones(3)).item() == 0.0


def test_softmax_kl_is_zero_at_the_target_and_for_lists_without_gain() -> None:
    grades = torch.tensor([1.0, 2.0])  # gains 1 and 3
    assert softmax_kl(torch.tensor([1.0, 3.0]).log(), grades).item() == pytest.approx(0.0, abs=1e-6)
    assert softmax_kl(torch.zeros(2), grades).item() == pytest.approx(
        0.25 * math.log(0.25) + 0.75 * math.log(0.75) + math.log(2), abs=1e-6
    )
    assert softmax_kl(torch.randn(3), torch.zeros(3)).item() == 0.0


def test_ranknet_weighs_pairs_by_their_difference() -> None:
    scores, grades = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    pairs = 2 * math.log1p(math.exp(1)) + 3 * math.log(2) + 1 * math.log1p(math.exp(-1))
    assert ranknet(scores, grades).item() == pytest.approx(pairs / 6, abs=1e-6)


def test_lambdarank_weighs_a_pair_by_its_swap() -> None:
    # The relevant one stands second.
    scores, grades = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 0.0]),
    )
    change = 1.0 - 1.0 / math.log2(3)
    assert lambdarank(scores, grades).item() == pytest.approx(
        change * math.log1p(math.exp(1)), abs=1e-6
    )


def test_lambdarank_ignores_what_lies_below_the_cutoff() -> None:
    scores = torch.tensor([3.0, 2.0, 1.0])
    assert lambdarank(scores, torch.tensor([0.0, 0.0, 0.0])).item() == 0.0
    assert lambdarank(scores, torch.tensor([2.0, 0.0, 1.0]), cutoff=1).item() == pytest.approx(
        (3 * math.log1p(math.exp(-1)) + 2 * math.log1p(math.exp(-2))) / 3, abs=1e-6
    )


@pytest.mark.parametrize("loss", [listmle, softmax_kl, ranknet, lambdarank])
def test_every_loss_pushes_the_better_candidate_up(loss) -> None:  # type: ignore[no-untyped-def]
    scores = torch.zeros(3, requires_grad=True)
    loss(scores, torch.tensor([0.0, 3.0, 1.0])).backward()
    assert scores.grad is not None
    assert scores.grad[1] < 0 < scores.grad[0]


def test_infonce_of_equal_scores_is_the_log_of_the_number_of_choices() -> None:
    target = torch.eye(4)
    assert infonce(torch.zeros(4, 4), target).item() == pytest.approx(math.log(4), abs=1e-6)


def test_infonce_is_the_mean_of_both_directions() -> None:
    scores = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    to_image = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    to_text = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-1))) / 2
    assert infonce(scores, torch.eye(2)).item() == pytest.approx((to_image + to_text) / 2, abs=1e-6)


def test_infonce_lets_the_captions_of_a_picture_share_it() -> None:
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two captions of the first picture
    to_text = (
        math.log(3) + math.log(3)
    ) / 2  # each column: the mean over its own captions of log 3
    assert infonce(torch.zeros(3, 2), target).item() == pytest.approx(
        (math.log(2) + to_text) / 2, abs=1e-6
    )


def test_hard_triplet_takes_the_hardest_wrong_picture_and_caption() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.3, 0.5, 0.0], [0.6, 0.2, 0.7]])
    first = (0.2 + 0.8 - 0.9) + 0.0  # its picture's hardest wrong caption has .6: .2 + .6 - .9 < 0
    second = 0.0 + (0.2 + 0.8 - 0.5)  # picture .2 + .3 - .5 = 0
    third = (0.2 + 0.6 - 0.7) + 0.0
    assert hard_triplet(scores, torch.arange(3)).item() == pytest.approx(
        (first + second + third) / 3, abs=1e-6
    )


def test_hard_triplet_never_takes_a_picture_s_own_captions_for_wrong() -> None:
    scores = torch.tensor([[0.9, 0.0], [0.5, 0.0], [0.0, 0.9]])
    # .9 does not count against the sister's .5.
    assert hard_triplet(scores, torch.tensor([0, 0, 1])).item() == 0.0
