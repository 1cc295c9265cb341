"""Lists of images, graded through their captions. It trains nothing.

A caption is the query. Its candidates are the images that the ranker in training now finds for it,
and the grade of an image is how similar its own captions are to the query, as a text model sees
it. So "a dog runs on the beach" gives something to every dog and every beach, where the data name
one right image only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.data import CaptionedImage, GradedList

# queries [Q], captions [C] -> similarities [Q, C]; 1 is the same.
Similarity = Callable[[Sequence[str], Sequence[str]], Tensor]

# queries [Q], images [P] -> scores [Q, P].
Finder = Callable[[Sequence[str], Sequence[Path]], Tensor]

TOP_GRADE = 3.0


def caption_lists(
    images: Sequence[CaptionedImage],
    find: Finder,
    teacher: Similarity,
    *,
    source: str,
    count: int,
    depth: int = 20,
    temperature: float = 0.05,
    seed: int = 0,
) -> list[GradedList]:
    """Return `count` lists, one for a caption each, graded by the teacher.

    The candidates are the caption's own image, first, and the images that `find` puts highest, up
    to `depth` in all.
    """
    rng = random.Random(f"{seed}-{source}")
    owners = [rng.randrange(len(images)) for _ in range(count)]
    queries = [rng.choice(images[owner].queries) for owner in owners]
    scores = find(queries, [image.path for image in images])  # [Q, P]

    lists = []
    for number, (owner, query) in enumerate(zip(owners, queries, strict=True)):
        indices = _own_and_nearest(scores[number], owner, depth)
        candidates = [images[index] for index in indices]
        similarity = caption_similarity(teacher, query, candidates)
        lists.append(
            GradedList(
                source=source,
                qid=f"{source}-{number}",
                query=query,
                docids=tuple(image.path.name for image in candidates),
                texts=("",) * len(candidates),
                images=tuple(image.path for image in candidates),
                grades=tuple(caption_grades(similarity, temperature).tolist()),
                first=tuple(scores[number][indices].tolist()),
            )
        )
    return lists


def _own_and_nearest(scores: Tensor, owner: int, depth: int) -> list[int]:
    """Return `owner` and the images of highest score, [P] -> `depth` indices at most."""
    nearest = scores.topk(min(depth, len(scores))).indices.tolist()
    others = [index for index in nearest if index != owner]
    return [owner, *others[: depth - 1]]


def caption_similarity(teacher: Similarity, query: str, images: Sequence[CaptionedImage]) -> Tensor:
    """Return how similar each image's nearest caption is to the query, [N].

    The query's own image has 1, because the query is one of its captions.
    """
    captions = [caption for image in images for caption in image.captions]
    similarity = teacher([query], captions)[0]  # [captions]
    per_image = torch.split(similarity, [len(image.captions) for image in images])
    return torch.stack([values.max() for values in per_image])


def caption_grades(similarity: Tensor, temperature: float) -> Tensor:
    """Return grades whose gains 2^grade - 1 are proportional to exp(similarity / temperature).

    The best has `TOP_GRADE`. So `losses.softmax_kl`, whose targets are the gains, distils the
    teacher's softmax exactly, and a Plackett-Luce loss reads the teacher's whole order. [N] -> [N].
    """
    top_gain = 2**TOP_GRADE - 1
    gains: Tensor = top_gain * ((similarity - similarity.max()) / temperature).exp()
    return gains.log1p() / math.log(2)


def image_lists(images: Sequence[CaptionedImage], source: str, count: int) -> list[GradedList]:
    """Return development lists: a query each, every image is a candidate, its own image is right.

    They depend on no model.
    """
    paths = tuple(image.path for image in images)
    docids = tuple(f"{index}-{path.name}" for index, path in enumerate(paths))
    lists = []
    for number in range(count):
        owner = number * len(images) // count
        queries = images[owner].queries
        lists.append(
            GradedList(
                source=source,
                qid=f"{source}-{number}",
                query=queries[number % len(queries)],
                docids=docids,
                texts=("",) * len(paths),
                images=paths,
                grades=tuple(float(index == owner) for index in range(len(paths))),
            )
        )
    return lists
