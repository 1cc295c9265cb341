"""Cached maps of images: computed once, in blocks, of the views that were asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from llama_index_rnx.errors import ImageError
from training.features import FeatureMapCache, feature_maps
from training.features.views import views


def draw(folder: Path, count: int) -> list[Path]:
    """Images of plain colours."""
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", (40, 30), (10 * number, 100, 200)).save(path)
        paths.append(path)
    return paths


class MeanTower:
    """Two maps [B, 2, 3, 1, 1] of an image: its mean colour, and minus that."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        mean = pixels.mean((2, 3))[:, None, :, None, None]  # [B, 1, 3, 1, 1]
        return torch.cat([mean, -mean], 1)


def test_images_are_encoded_once_and_read_by_path(tmp_path: Path) -> None:
    paths, tower = draw(tmp_path, 3), MeanTower()
    cache = FeatureMapCache(tmp_path / "cache")
    cache.fill(tower, [*paths, paths[0]], "images")
    cache.fill(tower, paths, "images")
    assert tower.images == 3

    maps = cache.maps([paths[2], paths[0]])
    assert maps.shape == (2, 2, 3, 1, 1)
    assert torch.equal(maps[:, 0], -maps[:, 1])
    assert maps[0, 0, 0] > maps[1, 0, 0], "the third image is redder than the first"


def test_a_new_cache_of_the_same_folder_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BLOCK", 2)
    paths, tower = draw(tmp_path, 5), MeanTower()
    first = FeatureMapCache(tmp_path / "cache")
    first.fill(tower, paths[:3], "images")
    second = FeatureMapCache(tmp_path / "cache")
    assert [path in second for path in paths] == [True, True, True, False, False]
    second.fill(tower, paths, "images")
    assert tower.images == 5
    assert len(list((tmp_path / "cache").glob("block-*.safetensors"))) == 3
    assert not list((tmp_path / "cache").glob("*.part"))


def test_an_image_that_changed_is_a_new_one(tmp_path: Path) -> None:
    (path,) = draw(tmp_path, 1)
    cache = FeatureMapCache(tmp_path / "cache")
    cache.fill(MeanTower(), [path], "images")
    Image.new("RGB", (64, 64), "white").save(path)
    assert path not in cache


def test_every_view_is_kept(tmp_path: Path) -> None:
    (path,) = draw(tmp_path, 1)
    tower = MeanTower()
    cache = FeatureMapCache(tmp_path / "cache", views=3, flip=True)
    cache.fill(tower, [path], "images")
    assert tower.images == 3
    assert cache.maps([path], [2]).shape == (1, 2, 3, 1, 1)


def test_a_file_that_is_no_image_is_named_and_the_blocks_before_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "BLOCK", 1)
    paths = draw(tmp_path, 1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    cache = FeatureMapCache(tmp_path / "cache")
    with pytest.raises(ImageError, match=r"broken\.png"):
        cache.fill(MeanTower(), [*paths, broken], "images")
    assert paths[0] in FeatureMapCache(tmp_path / "cache")


def test_views_are_the_whole_then_crops() -> None:
    image = Image.new("RGB", (100, 80), "white")
    image.paste("black", (0, 0, 50, 80))
    whole, mirrored, crop = views(image, 3, seed=1, flip=True)
    assert whole.shape == crop.shape == (3, 256, 256)
    assert torch.equal(mirrored, whole.flip(-1))
    assert not torch.equal(crop, whole)
    again = views(image, 3, seed=1, flip=True)
    assert torch.equal(again[2], crop), "a function of the seed"
    assert len(views(image, 1, seed=1, flip=True)) == 1
