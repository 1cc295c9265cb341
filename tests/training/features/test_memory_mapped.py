"""Memory-mapped maps and states, by a tower and a text encoder with random weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from llama_index_rnx.rankers.mini import preprocess
from training.features import TowerOutput, cache_maps, cache_texts
from training.mini import ImageTower, TextEncoder, grid, pool
from training.stages.tiny_mini import WIDTH, tiny_model


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run torch: compiling a tower takes longer than running it twice."""
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    torch.manual_seed(0)
    return ImageTower("lite1").eval()


@pytest.mark.usefixtures("without_openvino")
def test_maps_of_all_views_are_computed_once(tower: ImageTower, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for number, path in enumerate(paths):
        Image.new("RGB", (50, 40), (80 * number, 40, 200)).save(path)

    output = TowerOutput(tower, "grid")
    maps = cache_maps(output, paths, tmp_path / "maps.npy", count=2, flip=True)
    assert maps.shape == (3, 2, 16, 1280)
    assert maps.dtype == np.float16
    assert not list(tmp_path.glob(".*part*"))

    with torch.inference_mode(), Image.open(paths[2]) as image:
        expected = grid(tower(torch.from_numpy(preprocess(image))[None]))[0]
    assert np.allclose(maps[2, 0], expected.half().numpy(), atol=2e-3)

    paths[0].unlink()
    again = cache_maps(output, paths, tmp_path / "maps.npy", count=2, flip=True)
    assert np.array_equal(again, maps), "the file is read, the images are not"


def test_middle_maps_have_their_channels_last(tower: ImageTower) -> None:
    pixels = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        maps = TowerOutput(tower, "middle")(pixels)
        assert torch.equal(maps, tower.middle(pixels).permute(0, 2, 3, 1))
    assert maps.shape == (1, 16, 16, 112)


def test_states_of_texts_are_cut_and_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_model(0).text
    folder = tmp_path / "text"
    folder.mkdir()
    encoder.tokenizer.save(str(folder / "tokenizer.json"))
    save_file(encoder.state_dict(), folder / "model.safetensors")
    config = encoder.config
    monkeypatch.setattr(
        "training.features.memory_mapped.TextEncoder",
        type(
            "Tiny",
            (TextEncoder,),
            {"__init__": lambda self, tokenizer: TextEncoder.__init__(self, tokenizer, config)},
        ),
    )

    texts = ["yeast oven flour knead", "queen"]
    cache_texts(folder, texts, tmp_path / "texts.npz", longest=4)
    cached = np.load(tmp_path / "texts.npz")
    assert cached["ends"].tolist() == [4, 7], "four tokens at most, specials included"
    assert cached["states"].shape == (7, WIDTH)

    states = torch.from_numpy(cached["states"][4:7]).float()[None]
    pooled = pool(states, torch.ones(1, 3))
    assert np.allclose(cached["pooled"][1], pooled[0].numpy(), atol=5e-3)

    written = (tmp_path / "texts.npz").read_bytes()
    cache_texts(folder, ["other"], tmp_path / "texts.npz")
    assert (tmp_path / "texts.npz").read_bytes() == written
