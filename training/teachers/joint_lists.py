"""Joint lists that mix texts and images, for the last stage: the calibration of modalities and the
attention across them.

Right candidates are the image, another text about it (a caption, the paragraph that points to it),
or the image with its caption; wrong ones are the most similar others. It knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.data import CaptionedImage, GradedList
from training.features import QUERY_PREFIX, TextStateCache
from training.teachers.captions import Finder

SHAPES = ("image", "text", "both", "image+text", "images only")
NOISES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)

# In lists of texts and images, this share of the wrong images comes with its caption.
CAPTION_SHARE = 0.3

# A candidate: its text ("" for none), the index of its image (None for none), its grade.
Row = tuple[str, int | None, float]


@dataclass(frozen=True, kw_only=True)
class JointSet:
    """Images and the texts about them, to draw lists from.

    texts: (index of its image, text).
    vectors: the unit vectors of the texts, [texts, 384].
    """

    name: str
    images: Sequence[CaptionedImage]
    texts: Sequence[tuple[int, str]]
    vectors: Tensor


def joint_set(name: str, images: Sequence[CaptionedImage], cache: TextStateCache) -> JointSet:
    """Return the images with the vectors that the frozen text encoder gives to their texts."""
    texts = [(owner, text) for owner, image in enumerate(images) for text in image.about]
    vectors = torch.stack([cache[text].chunks.float().mean(0) for _, text in texts])
    return JointSet(name=name, images=images, texts=texts, vectors=normalize(vectors, dim=-1))


def joint_lists(
    data: JointSet,
    cache: TextStateCache,
    find: Finder,
    *,
    count: int,
    negatives: int,
    seed: int,
    noise: float | None = None,
) -> list[GradedList]:
    """Return `count` lists, one a query: right candidates in one of the `SHAPES`, and wrong ones.

    find: scores of the images, by which wrong ones are chosen.
    negatives: about how many wrong candidates a list has.
    noise: with it, the scores of `find` are the image part's logits and go into the lists with
        normal noise of this deviation (see `matching_noise`); without it, the lists name images.
    """
    rng = random.Random(f"{seed}-{data.name}")
    owners = [rng.randrange(len(data.images)) for _ in range(count)]
    queries = [rng.choice(data.images[owner].queries) for owner in owners]
    scores = find(queries, [image.path for image in data.images])  # [Q, P]
    if noise:
        scores = scores + noise * _normal(scores, seed)

    lists = []
    for number, (owner, query) in enumerate(zip(owners, queries, strict=True)):
        shape = rng.choice(SHAPES)
        images = near_images(scores[number], owner, negatives, rng)
        rows = _relevant_rows(data, owner, shape, rng)
        texts = near_texts(data, cache, query, owner, negatives)
        rows += _negative_rows(data, texts, images, shape, negatives, rng)
        logits = None if noise is None else scores[number]
        lists.append(_list(data, f"{data.name}-{number}", query, rows, logits))
    return lists


def near_texts(
    data: JointSet, cache: TextStateCache, query: str, owner: int, count: int
) -> list[str]:
    """Return the `count` texts most similar to the query that belong to other images."""
    vector = normalize(cache[f"{QUERY_PREFIX}{query}"].chunks[0].float(), dim=0)
    similarity = data.vectors @ vector  # [texts]
    # Eight more, because some of the nearest belong to the owner itself.
    nearest = similarity.topk(min(len(data.texts), count + 8)).indices.tolist()
    texts = [data.texts[index] for index in nearest]
    return [text for image, text in texts if image != owner and text != query][:count]


def near_images(scores: Tensor, owner: int, count: int, rng: random.Random) -> list[int]:
    """Return `count` wrong images around the right one's rank, best first. scores: [P].

    The right image must not stand out as the only one with a low score: with the wrong ones taken
    from the top, OpenStax lists rose from .264 to .606 by that alone.
    """
    rank = int((scores > scores[owner]).sum())
    pool_size = min(len(scores), max(count, 2 * rank) + 1)
    pool = [index for index in scores.topk(pool_size).indices.tolist() if index != owner]
    return sorted(rng.sample(pool, min(count, len(pool))), key=pool.index)


def matching_noise(training: Tensor, held_out: Tensor) -> float:
    """Return the noise that makes R@1 on training images equal to R@1 on held-out images.

    Otherwise the joint stage would learn to trust memorized image scores too much. Both are logits
    [P, P] with the right images on the diagonal; the noise is one of `NOISES`.
    """
    target = _recall_at_1(held_out, 0.0)
    recalls = {noise: _recall_at_1(training, noise) for noise in NOISES}
    print(
        f"R@1 among {len(held_out)}: new images {target:.3f}, training images {recalls}", flush=True
    )
    return min(NOISES, key=lambda noise: abs(recalls[noise] - target))


def _recall_at_1(logits: Tensor, noise: float) -> float:
    noisy = logits + noise * _normal(logits, seed=0)
    return float((noisy.argmax(1) == torch.arange(len(logits))).float().mean())


def _normal(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def _relevant_rows(data: JointSet, owner: int, shape: str, rng: random.Random) -> list[Row]:
    image = data.images[owner]
    text = rng.choice(image.about)
    if shape == "text":
        return [(text, None, 2.0)]
    if shape == "both":
        return [(image.caption or text, owner, 2.0)]
    if shape == "image+text":
        return [("", owner, 2.0), (text, None, 2.0)]
    return [("", owner, 2.0)]


def _negative_rows(
    data: JointSet,
    texts: Sequence[str],
    images: Sequence[int],
    shape: str,
    count: int,
    rng: random.Random,
) -> list[Row]:
    if shape == "images only":
        return [("", index, 0.0) for index in images[:count]]
    half = count // 2
    rows: list[Row] = []
    for index in images[:half]:
        caption = data.images[index].caption if rng.random() < CAPTION_SHARE else ""
        rows.append((caption, index, 0.0))
    return rows + [(text, None, 0.0) for text in texts[: count - half]]


def _list(
    data: JointSet, qid: str, query: str, rows: list[Row], logits: Tensor | None
) -> GradedList:
    """Return the candidates as a graded list, with images or, where there are any, with logits."""
    texts, indices, grades = zip(*rows, strict=True)
    images: tuple[Path | None, ...] = ()
    image_logits: tuple[float | None, ...] = ()
    if logits is None:
        images = tuple(None if index is None else data.images[index].path for index in indices)
    else:
        image_logits = tuple(None if index is None else float(logits[index]) for index in indices)
    return GradedList(
        source=data.name,
        qid=qid,
        query=query,
        docids=tuple(f"{qid}-{position}" for position in range(len(rows))),
        texts=texts,
        grades=grades,
        images=images,
        image_logits=image_logits,
    )
