"""Joint lists that mix texts and pictures, for the last stage: the calibration of kinds and the attention across them.

Queries are Flickr captions and the titles or alt sentences of OpenStax figures. Right candidates are the picture, another
text about it (a caption, the paragraph that points to it), or the picture with its caption; wrong ones are those that
the frozen parts find most alike. The image part's logits come from its exported vectors.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.rankers.mini.image import ImagePart
from training.lists import GradedList, data_folder, rows
from training.token_cache import TokenCache

SHAPES = ("image", "text", "both", "image+text", "images only")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of a set: the texts about it that may be queries and those that may be candidates."""

    queries: tuple[str, ...]
    about: tuple[str, ...]
    caption: str


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """P pictures with their vectors. vector: [P, D]; regions: [P, 16, W]; hub: [P]; noise: the standard deviation
    that is added to the logits in training, where the image part knows its own pictures too well."""

    name: str
    pictures: tuple[Picture, ...]
    vector: Tensor
    regions: Tensor
    hub: Tensor
    noise: float = 0.0

    @property
    def texts(self) -> list[str]:
        """All texts that lists of this set may need in the cache (queries with their own prefix)."""
        found = [f"query:{text}" for picture in self.pictures for text in picture.queries]
        return found + [text for picture in self.pictures for text in (*picture.about, picture.caption) if text]


def flickr(folder: Path, split: str, limit: int, noise: float = 0.0) -> PictureSet:
    """Flickr8k: two captions are queries, the other three texts."""
    captions = {row["image"]: row["captions"] for row in rows(data_folder() / "flickr8k" / f"{split}.jsonl.gz")}
    made = {name: Picture(queries=tuple(of[:2]), about=tuple(of[2:]), caption=of[-1]) for name, of in captions.items()}
    return _with_vectors(f"flickr-{split}", folder / f"flickr_{split}.npz", made, limit, noise, held=None)


def openstax(folder: Path, held: bool, limit: int, noise: float = 0.0) -> PictureSet:
    """OpenStax figures whose title or alt sentence asks for them, with the paragraphs that point to them."""
    data = data_folder() / "openstax"
    about: dict[str, list[str]] = {}
    for row in rows(data / "paragraph_figure.jsonl.gz"):
        about.setdefault(row["image"], []).append(row["text"])
    made = {}
    for row in rows(data / "figures.jsonl.gz"):
        queries = tuple(text for text in (row["title"], (row["alt"] or "").split(". ")[0]) if text and len(text.split()) > 1)
        if queries and row["image"] in about:
            made[row["image"]] = Picture(queries=queries, about=tuple(about[row["image"]][:2]), caption=row["caption"] or "")
    return _with_vectors("openstax", folder / "openstax.npz", made, limit, noise, held)


def joint_lists(part: ImagePart, cache: TokenCache, of: PictureSet, count: int, wrong: int, seed: int) -> list[GradedList]:
    """`count` lists, one a query: its right candidates in one of the `SHAPES`, and about `wrong` others."""
    chance = random.Random(f"{seed}-{of.name}")
    texts = [(owner, text) for owner, picture in enumerate(of.pictures) for text in picture.about]
    vectors = normalize(torch.stack([cache[text].chunks.float().mean(0) for _, text in texts]), dim=-1)  # [texts, 384]
    lists = []
    for number in range(count):
        owner = chance.randrange(len(of.pictures))
        query = chance.choice(of.pictures[owner].queries)
        logits = picture_logits(part, cache, of, query)  # [P]
        logits = logits + of.noise * torch.randn(len(logits), generator=torch.Generator().manual_seed(number))
        near = (vectors @ normalize(cache[f"query:{query}"].chunks[0].float(), dim=0)).topk(wrong + 8).indices.tolist()
        pool = [texts[place] for place in near if texts[place][0] != owner and texts[place][1] != query]
        rank = int((logits > logits[owner]).sum())  # the right one must not stand out as the only one that scores low
        images = [place for place in logits.topk(min(len(logits), max(wrong, 2 * rank) + 1)).indices.tolist() if place != owner]
        images = sorted(chance.sample(images, min(wrong, len(images))), key=images.index)
        shape = chance.choice(SHAPES)
        rows_of = _right(of, owner, shape, chance) + _wrong(of, pool, images, shape, wrong, chance)
        lists.append(_list(f"{of.name}-{number}", query, rows_of, logits))
    return lists


@torch.inference_mode()
def picture_logits(part: ImagePart, cache: TokenCache, of: PictureSet, query: str) -> Tensor:
    """The image part's logits of all pictures of a set, [P]."""
    entry = cache[f"query:{query}"]
    states = entry.states.float().unsqueeze(0)  # [1, T, 384]
    caption = part.caption(states, torch.ones(states.shape[:2]), normalize(entry.chunks[:1].float(), dim=-1))
    return part.score(caption.vector[0], caption.words[0], caption.weights[0], of.vector, of.regions, of.hub)


Row = tuple[str, int | None, float]  # text ("" = none), picture (None = none), grade


def _right(of: PictureSet, owner: int, shape: str, chance: random.Random) -> list[Row]:
    picture = of.pictures[owner]
    text = chance.choice(picture.about)
    if shape == "text":
        return [(text, None, 2.0)]
    if shape == "both":
        return [(picture.caption or text, owner, 2.0)]
    return [("", owner, 2.0), (text, None, 2.0)] if shape == "image+text" else [("", owner, 2.0)]


def _wrong(
    of: PictureSet, pool: Sequence[tuple[int, str]], images: Sequence[int], shape: str, wrong: int, chance: random.Random
) -> list[Row]:
    if shape == "images only":
        return [("", place, 0.0) for place in images[:wrong]]
    half = wrong // 2
    shown: list[Row] = [(of.pictures[place].caption if chance.random() < 0.3 else "", place, 0.0) for place in images[:half]]
    return shown + [(text, None, 0.0) for _, text in pool[: wrong - half]]


def _list(qid: str, query: str, found: list[Row], logits: Tensor) -> GradedList:
    texts, places, grades = zip(*found, strict=True)
    return GradedList(
        source="joint",
        qid=qid,
        query=query,
        docids=tuple(f"{qid}-{place}" for place in range(len(found))),
        texts=texts,
        grades=grades,
        image_logits=tuple(None if place is None else float(logits[place]) for place in places),
    )


def _with_vectors(name: str, path: Path, made: dict[str, Picture], limit: int, noise: float, held: bool | None) -> PictureSet:
    stored = np.load(path)
    places = [
        place
        for place, image in enumerate(stored["name"].tolist())
        if image in made and (held is None or bool(stored["dev"][place]) == held)
    ]
    places = sorted(random.Random(0).sample(places, min(limit, len(places))))
    return PictureSet(
        name=name,
        pictures=tuple(made[str(stored["name"][place])] for place in places),
        vector=torch.from_numpy(stored["vector"][places]).float(),
        regions=torch.from_numpy(stored["regions"][places]).float(),
        hub=torch.from_numpy(stored["hub"][places]).float(),
        noise=noise,
    )
