"""The last stage of `rnx-mini`: one order for texts and pictures. Trains the calibration of kinds (and the list attention).

`python -m training.train_joint --reader DIR --image DIR --cache DIR --tower DIR --work DIR --steps 60`

--reader holds `reader.safetensors` (training/train_ranker.py), --image `image.safetensors`, `image.json` and `cache/`
(training/train_retriever.py, evaluate_images.py). Text lists stay in the mix, so that they are not unlearned.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from llama_index_rnx.rankers.mini.image import ImageConfig, ImagePart
from llama_index_rnx.rankers.mini.reader import Reader
from llama_index_rnx.rankers.mini.towers import TextTower
from training.joint import PictureSet, flickr, joint_lists, openstax, picture_logits
from training.lists import GradedList
from training.mixes import Mix, development, training_mixes
from training.token_cache import TokenCache
from training.train_ranker import TrainConfig, Trainer, train

PARTS = ("kinds",)  # with the list attention too, joint lists gained .03 to .07 and SciFact lost .10
TEXT_SHARE = 0.2  # of the lists drawn: texts alone
PICTURES, HELD_OUT, LISTS, HELD_OUT_LISTS = 600, 300, 800, 60
NOISES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def image_part(folder: Path) -> ImagePart:
    """The trained image part, without its tower: the exported vectors stand for the pictures."""
    about = json.loads((folder / "image.json").read_text())["config"]
    part = ImagePart(ImageConfig(**{f.name: about[f.name] for f in fields(ImageConfig) if f.name in about}))
    weights = load_file(folder / "image.safetensors")
    part.load_state_dict({name[5:]: value for name, value in weights.items() if name.startswith("part.")})
    return part.eval()


def matching_noise(part: ImagePart, cache: TokenCache, seen: PictureSet, unseen: PictureSet) -> float:
    """The noise under which the image part is as unsure of pictures it was trained on as it is of new ones (R@1 among
    as many pictures); otherwise the list attention would learn to trust it too much."""
    count = min(len(seen.pictures), len(unseen.pictures), HELD_OUT)
    target = _first_places(part, cache, unseen, count, 0.0)
    found = [_first_places(part, cache, seen, count, noise) for noise in NOISES]
    best = min(range(len(NOISES)), key=lambda place: abs(found[place] - target))
    print(f"{seen.name}: R@1 of new pictures {target:.3f}, of known ones {dict(zip(NOISES, found, strict=True))}")
    return NOISES[best]


def _first_places(part: ImagePart, cache: TokenCache, of: PictureSet, count: int, noise: float) -> float:
    draw = torch.Generator().manual_seed(0)
    hits = 0
    for owner in range(count):
        logits: Tensor = picture_logits(part, cache, of, of.pictures[owner].queries[0])[:count]
        hits += int((logits + noise * torch.randn(count, generator=draw)).argmax()) == owner
    return hits / count


def picture_sets(folder: Path) -> tuple[list[PictureSet], list[PictureSet]]:
    """(training, held out): Flickr8k train and dev, OpenStax by module."""
    seen = [flickr(folder, "train", PICTURES), openstax(folder, False, PICTURES)]
    return seen, [flickr(folder, "dev", HELD_OUT), openstax(folder, True, HELD_OUT)]


def held_out_lists(part: ImagePart, cache: TokenCache, sets: list[PictureSet], count: int) -> dict[str, list[GradedList]]:
    """Joint development lists by source."""
    return {f"joint-{of.name}": joint_lists(part, cache, of, count, wrong=20, seed=1) for of in sets}


def joint_mixes(part: ImagePart, cache: TokenCache, seen: list[PictureSet], unseen: list[PictureSet]) -> list[Mix]:
    """Noise-matched joint lists of every training set."""
    mixes = []
    for of, new in zip(seen, unseen, strict=True):
        noisy = replace(of, noise=matching_noise(part, cache, of, new))
        mixes.append(Mix(name=of.name, lists=joint_lists(part, cache, noisy, LISTS, wrong=20, seed=0), weight=1.0))
    return mixes


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("reader", "image", "cache", "tower", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=("kinds", "list"))
    parser.add_argument("--steps", type=int, default=60)
    found = parser.parse_args()
    torch.set_num_threads(1)
    cache = TokenCache(found.cache, load_file(found.cache / "idf.safetensors")["weights"])
    part = image_part(found.image)
    seen, unseen = picture_sets(found.image / "cache")
    cache.fill(_tower(found.tower), [text for of in (*seen, *unseen) for text in of.texts], "joint")
    reader = Reader()
    reader.load_state_dict(load_file(found.reader / "reader.safetensors"))
    mixes, texts = joint_mixes(part, cache, seen, unseen), training_mixes(cache)
    share = TEXT_SHARE / (1 - TEXT_SHARE) * sum(mix.weight for mix in mixes) / sum(mix.weight for mix in texts)
    mixes += [replace(mix, weight=mix.weight * share) for mix in texts]
    config = TrainConfig(steps=found.steps, parts=tuple(found.parts), base_rate=3e-2, average=0.95, evaluate_every=30)
    sets = {**held_out_lists(part, cache, unseen, HELD_OUT_LISTS), **development(cache)}
    train(Trainer(reader, cache, config, found.work), mixes, sets)
    (found.work / "reader.json").write_text(json.dumps({**asdict(reader.config), "training": asdict(config)}, indent=1))


def _tower(folder: Path) -> TextTower:
    tower = TextTower(TextTower.tokenizer_from(folder)).eval()
    tower.load_state_dict(load_file(folder / "model.safetensors"))
    return tower.bfloat16()


if __name__ == "__main__":
    main()
