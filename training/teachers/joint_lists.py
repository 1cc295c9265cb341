"""Joint lists that mix texts and pictures, for the last stage: the calibration of kinds and the
attention across them.

Right candidates are the picture, another text about it (a caption, the paragraph that points to
it), or the picture with its caption; wrong ones are those that look most alike to what finds them.
It knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.data import CaptionedImage, GradedList
from training.features import TextStateCache
from training.teachers.captions import Finder

SHAPES = ("image", "text", "both", "image+text", "images only")
NOISES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
Row = tuple[str, int | None, float]  # text ("" = none), picture (None = none), grade


@dataclass(frozen=True, kw_only=True)
class JointSet:
    """Pictures and the texts about them, to draw lists from. texts: (its picture, text); vectors:
    [texts, 384], unit length.
    """

    name: str
    pictures: Sequence[CaptionedImage]
    texts: Sequence[tuple[int, str]]
    vectors: Tensor


def joint_set(name: str, pictures: Sequence[CaptionedImage], cache: TextStateCache) -> JointSet:
    """The texts about pictures, by the frozen text tower."""
    texts = [(owner, text) for owner, picture in enumerate(pictures) for text in picture.about]
    vectors = normalize(
        torch.stack([cache[text].chunks.float().mean(0) for _, text in texts]), dim=-1
    )
    return JointSet(name=name, pictures=pictures, texts=texts, vectors=vectors)


def joint_lists(
    of: JointSet,
    cache: TextStateCache,
    find: Finder,
    *,
    count: int,
    wrong: int,
    seed: int,
    noise: float | None = None,
) -> list[GradedList]:
    """`count` lists, one a query: its right candidates in one of the `SHAPES`, and about `wrong`
    others.

    find: scores of the pictures, by which wrong ones are chosen. With `noise`, these scores are the
    image part's logits, and go into the lists with so much noise (see `matching_noise`); without,
    the lists name the pictures themselves.
    """
    chance = random.Random(f"{seed}-{of.name}")
    owners = [chance.randrange(len(of.pictures)) for _ in range(count)]
    queries = [chance.choice(of.pictures[owner].queries) for owner in owners]
    scores = find(queries, [picture.path for picture in of.pictures])  # [Q, P]
    if noise:
        scores = scores + noise * torch.randn(
            scores.shape, generator=torch.Generator().manual_seed(seed)
        )
    lists = []
    for number, (owner, query) in enumerate(zip(owners, queries, strict=True)):
        shape = chance.choice(SHAPES)
        images = near_images(scores[number], owner, wrong, chance)
        found = _right(of, owner, shape, chance) + _wrong(
            of, near_texts(of, cache, query, owner, wrong), images, shape, wrong, chance
        )
        lists.append(
            _list(
                of, f"{of.name}-{number}", query, found, None if noise is None else scores[number]
            )
        )
    return lists


def near_texts(
    of: JointSet, cache: TextStateCache, query: str, owner: int, count: int
) -> list[str]:
    """The texts most like the query that belong to other pictures."""
    likeness = of.vectors @ normalize(cache[f"query:{query}"].chunks[0].float(), dim=0)  # [texts]
    near = [
        of.texts[place] for place in likeness.topk(min(len(of.texts), count + 8)).indices.tolist()
    ]
    return [text for whose, text in near if whose != owner and text != query][:count]


def near_images(scores: Tensor, owner: int, count: int, chance: random.Random) -> list[int]:
    """Wrong pictures around the right one's rank, best first: it must not stand out as the only one
    that scores low (the wrong ones taken from the top, OpenStax lists rose from .264 to .606 by
    that alone)."""
    rank = int((scores > scores[owner]).sum())
    deep = scores.topk(min(len(scores), max(count, 2 * rank) + 1)).indices.tolist()
    others = [place for place in deep if place != owner]
    return sorted(chance.sample(others, min(count, len(others))), key=others.index)


def matching_noise(known: Tensor, new: Tensor) -> float:
    """The noise under which the image part is as unsure of pictures it was trained on as it is of
    new ones (R@1 among as many pictures); otherwise the last stage would learn to trust it too
    much. Logits [P, P], the right ones on the diagonal."""
    target = _first_places(new, 0.0)
    found = [_first_places(known, noise) for noise in NOISES]
    print(
        f"R@1 among {len(new)}: new pictures {target:.3f}, known ones {dict(zip(NOISES, found, strict=True))}",
        flush=True,
    )
    return NOISES[min(range(len(NOISES)), key=lambda place: abs(found[place] - target))]


def _first_places(logits: Tensor, noise: float) -> float:
    noisy = logits + noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return float((noisy.argmax(1) == torch.arange(len(logits))).float().mean())


def _right(of: JointSet, owner: int, shape: str, chance: random.Random) -> list[Row]:
    picture = of.pictures[owner]
    text = chance.choice(picture.about)
    if shape == "text":
        return [(text, None, 2.0)]
    if shape == "both":
        return [(picture.caption or text, owner, 2.0)]
    return [("", owner, 2.0), (text, None, 2.0)] if shape == "image+text" else [("", owner, 2.0)]


def _wrong(
    of: JointSet,
    texts: Sequence[str],
    images: Sequence[int],
    shape: str,
    wrong: int,
    chance: random.Random,
) -> list[Row]:
    if shape == "images only":
        return [("", place, 0.0) for place in images[:wrong]]
    half = wrong // 2
    shown: list[Row] = [
        (of.pictures[place].caption if chance.random() < 0.3 else "", place, 0.0)
        for place in images[:half]
    ]
    return shown + [(text, None, 0.0) for text in texts[: wrong - half]]


def _list(
    of: JointSet, qid: str, query: str, found: list[Row], logits: Tensor | None
) -> GradedList:
    texts, places, grades = zip(*found, strict=True)
    live = tuple(None if place is None else of.pictures[place].path for place in places)
    recorded = (
        ()
        if logits is None
        else tuple(None if place is None else float(logits[place]) for place in places)
    )
    return GradedList(
        source=of.name,
        qid=qid,
        query=query,
        docids=tuple(f"{qid}-{place}" for place in range(len(found))),
        texts=texts,
        grades=grades,
        images=() if recorded else live,
        image_logits=recorded,
    )
