"""The image half of rnx-mini without its weights: maps of several towers, and heads that share one
vector.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from llama_index_rnx.rankers.mini import ImageConfig
from training.mini import ImageEncoder, ImageScorer, ImageTower, ImageVectors, grid

SMALL = ImageConfig(
    dim=4, text_width=4, text_heads=1, word_dim=2, heads=2, head_dim=3, bank=3, others=("lite1",)
)


@torch.inference_mode()
def test_every_head_has_its_own_map() -> None:
    torch.manual_seed(0)
    eyes, x = ImageEncoder(("lite2", "lite1")).eval(), torch.randn(1, 3, 64, 64)
    first, plain, second = eyes(x).unbind(1)
    assert first.shape == plain.shape == second.shape == (1, 1280, 2, 2)
    middle = eyes.tower.middle(x)
    assert torch.equal(first, eyes.tower.end(middle))
    assert torch.equal(plain, eyes.others[0](middle))  # the trunk is shared, the end is not
    assert not torch.allclose(first, plain)


def test_another_end_costs_no_second_trunk() -> None:
    def count(*others: str) -> int:
        return sum(p.numel() for p in ImageEncoder(others).parameters())

    end = sum(p.numel() for p in ImageTower("lite2").end.parameters())
    assert count("lite2") == count() + end
    assert count("lite1") == count() + sum(p.numel() for p in ImageTower("lite1").parameters())


def test_a_grid_is_means_of_four_cells_normed() -> None:
    maps = torch.randn(2, 1280, 8, 8)
    cells = grid(maps)
    assert cells.shape == (2, 16, 1280)
    four = maps[1, :, 2:4, 6:8].mean((1, 2))  # the second row's last cell of 4 x 4
    assert torch.allclose(
        cells[1, 7], (four - four.mean()) / (four.var(unbiased=False) + 1e-5).sqrt(), atol=1e-4
    )


@torch.inference_mode()
def test_joined_vectors_have_the_mean_of_the_heads_cosines() -> None:
    """As far as the basis holds their directions: here two of each head's four, and vectors that
    need no more.
    """
    torch.manual_seed(0)
    part = ImageScorer(SMALL).eval()
    part.basis.zero_()
    for place, direction in enumerate((0, 1, 4, 5)):
        part.basis[direction, place] = 1.0
    # The vectors of the first head, and of the second.
    one, other = (normalize(torch.randn(3, 2), dim=-1) for _ in range(2))
    pad = torch.zeros(3, 2)
    joined = part._joined([torch.cat([one, pad], -1), torch.cat([other, pad], -1)])
    assert torch.allclose(joined @ joined.T, (one @ one.T + other @ other.T) / 2, atol=1e-6)


@torch.inference_mode()
def test_one_head_alone_is_left_as_it_is() -> None:
    part = ImageScorer(
        ImageConfig(dim=4, text_width=4, text_heads=1, word_dim=2, heads=2, head_dim=3, bank=3)
    ).eval()
    maps = torch.randn(2, 1, 1280, 8, 8)
    assert torch.equal(part.images(maps).vector, part.projector(maps[:, 0]).vector)


@torch.inference_mode()
def test_cached_cells_and_maps_give_the_same_vectors() -> None:
    torch.manual_seed(0)
    part = ImageScorer(SMALL).eval()
    maps = torch.randn(2, 2, 1280, 8, 8)
    seen: ImageVectors = part.images(maps)
    cached = part.joined_images(part.projector(maps[:, 0]), [grid(maps[:, 1])])
    assert torch.equal(seen.vector, cached.vector)
    assert seen.vector.shape == (2, 4)
    assert torch.allclose(seen.vector.norm(dim=-1), torch.ones(2))
