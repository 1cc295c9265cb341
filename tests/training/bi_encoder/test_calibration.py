"""After stage 0: fits in closed form, tables, the joined heads, and what an export holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llama_index_rnx.rankers.mini import ImageConfig
from training.bi_encoder import (
    BiEncoderSettings,
    EncoderInputs,
    HeadSettings,
    calibrate_images,
    fit_logistic,
    train_head,
    train_stage_zero,
)
from training.bi_encoder.calibration import (
    ScoreParts,
    calibrate,
    calibration_table,
    quantize_regions,
    recall_gain,
    rerank_matrix,
    top_lists,
)
from training.bi_encoder.source import CachedPairs
from training.mini import ImageEncoder, ImageScorer

SETTINGS = BiEncoderSettings(steps=3, batch=8, frozen_steps=1, captions=1)


@pytest.fixture(scope="module")
def stage_zero(inputs: EncoderInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, `final` and `losses.json` of stage 0."""
    folder = tmp_path_factory.mktemp("stage-zero")
    losses = train_stage_zero(inputs, SETTINGS, folder / "run", folder / "final")
    (folder / "losses.json").write_text(json.dumps(losses))
    return folder


def planted(captions: int = 60, images: int = 30) -> ScoreParts:
    """Scores in which cosine and late interaction both know the right image, with noise."""
    rng = torch.Generator().manual_seed(0)
    owner = torch.arange(captions) % images
    right = torch.nn.functional.one_hot(owner, images).float()

    def noise() -> torch.Tensor:
        return torch.randn(captions, images, generator=rng)

    return ScoreParts(
        cosine=0.3 * right + 0.15 * noise(),
        late=0.3 * right + 0.15 * noise(),
        hub=0.1 * torch.randn(images, generator=rng),
        owner=owner,
    )


def test_a_logistic_fit_in_closed_form() -> None:
    """Of two values, one is right in 3 of 4 cases and the other in 1 of 4: logits +-log 3."""
    values = torch.tensor([1.0] * 4 + [0.0] * 4)
    labels = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    scale, bias = fit_logistic(values, labels)
    assert bias == pytest.approx(-math.log(3), abs=0.01)
    assert scale == pytest.approx(2 * math.log(3), abs=0.02)


def test_a_logistic_fit_runs_in_inference_mode() -> None:
    with torch.inference_mode():
        values = torch.tensor([1.0, 0.0, 1.0, 0.0])
        labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
        scale, bias = fit_logistic(values, labels)
    assert (scale, bias) == pytest.approx((0.0, 0.0), abs=0.01)


def test_regions_lose_little_as_int8() -> None:
    regions = torch.nn.functional.normalize(torch.randn(4, 16, 32), dim=-1)
    quantized = quantize_regions(regions)
    assert (quantized * regions).sum(-1).min() > 0.999
    assert not torch.equal(quantized, regions)


def test_lists_know_where_the_right_image_is() -> None:
    scores = torch.arange(25.0).expand(2, 25)
    top, index = top_lists(scores, torch.tensor([23, 2]))
    assert top[0].tolist() == list(range(24, 4, -1))
    assert index.tolist() == [1, -1]


def test_reranking_moves_the_first_twenty_only() -> None:
    base = torch.arange(25.0)[None]
    scores = -base
    order = rerank_matrix(base, scores).argsort(descending=True)[0].tolist()
    assert order == [*range(5, 25), 4, 3, 2, 1, 0]


def test_a_gain_of_every_second_image() -> None:
    owner = torch.arange(4)
    before = torch.zeros(4, 4)
    before[:, 3] = 1.0
    after = before.clone()
    after[0, 0] = 2.0
    assert recall_gain(before, before, owner) == "+0.0 [+0.0, +0.0]"
    assert recall_gain(before, after, owner).startswith("+25.0 [+0.0, ")


def test_calibration_finds_that_both_scores_count() -> None:
    part, scores = ImageScorer(ImageConfig(bank=20)), planted()
    scale, late, _, _ = calibrate(part, scores).tolist()
    assert scale > 0
    assert late > 0
    assert part.log_scale.exp().item() == pytest.approx(scale, rel=1e-4)
    assert part.late.item() == pytest.approx(late / scale, rel=1e-4)

    rows = calibration_table(part, scores)
    cosine, joint = rows["cosine"], rows["+ late, all"]
    assert isinstance(cosine, dict)
    assert isinstance(joint, dict)
    assert joint["R@1"] > cosine["R@1"] + 10
    assert rows["pictures"] == 30


def test_stage_zero_exports_what_the_next_stages_read(
    stage_zero: Path, middle: dict[str, CachedPairs]
) -> None:
    final = stage_zero / "final"
    losses = json.loads((stage_zero / "losses.json").read_text())

    about = json.loads((final / "image.json").read_text())
    assert about["losses"] == losses
    assert len(losses) == 3
    assert about["config"]["others"] == []
    assert len(about["retrieval"]) == 2
    assert set(about["results"]) == {"scalars", "flickr_dev", "openstax_dev"}

    weights = load_file(final / "image.safetensors")
    prefixes = {name.split(".")[0] for name in weights}
    assert prefixes == {"eyes", "part"}
    encoder, scorer = ImageEncoder(), ImageScorer(ImageConfig())
    for module, prefix in ((encoder, "eyes."), (scorer, "part.")):
        module.load_state_dict(
            {
                name.removeprefix(prefix): tensor
                for name, tensor in weights.items()
                if name.startswith(prefix)
            }
        )
    assert int((scorer.bank.norm(dim=1) > 0).sum()) == 40 + 180, "as many captions as images"

    cached = np.load(final / "cache" / "openstax.npz")
    assert int(cached["dev"].sum()) == len(middle["openstax_dev"].rows)
    assert cached["vector"].shape == (200, 382)


def test_more_heads_share_a_vector_by_the_basis(
    stage_zero: Path, inputs: EncoderInputs, tmp_path: Path
) -> None:
    train_head(inputs, HeadSettings(steps=2, batch=16, figures=16), tmp_path / "head")

    heads = [(tmp_path / "head", inputs.tower)]
    final = tmp_path / "final"
    rows = calibrate_images(inputs, stage_zero / "run", heads, final)
    assert isinstance(rows["scalars"], list)

    weights = load_file(final / "image.safetensors")
    config = json.loads((final / "image.json").read_text())["config"]
    assert config["others"] == ["lite2"]
    basis = weights["part.basis"]
    assert basis.shape == (382 + 384, 382)
    assert torch.allclose(basis.T @ basis, torch.eye(382), atol=1e-4)

    trained = load_file(tmp_path / "head" / "head.safetensors")
    for name, tensor in trained.items():
        assert torch.equal(weights[f"part.more.0.{name}"], tensor)
