"""Lists of pictures, distilled through captions: text is the bridge by which a picture's grade is
known. Trains nothing.

A caption is the query. Its candidates are the pictures that the ranker in training now finds for
it, and what a candidate is worth is how like its own captions are to the query, as a text model
sees it: so "a dog runs on the beach" gives something to every dog and every beach, where the data
name one right picture only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.data import CaptionedImage, GradedList

Similarity = Callable[
    [Sequence[str], Sequence[str]], Tensor
]  # queries [Q], captions [C] -> [Q, C], 1 = the same
Finder = Callable[
    [Sequence[str], Sequence[Path]], Tensor
]  # queries [Q], pictures [P] -> scores [Q, P]
TOP_GRADE = 3.0


def caption_lists(
    pictures: Sequence[CaptionedImage],
    find: Finder,
    teacher: Similarity,
    *,
    source: str,
    count: int,
    depth: int = 20,
    temperature: float = 0.05,
    seed: int = 0,
) -> list[GradedList]:
    """`count` lists: for one caption each, the `depth` pictures that `find` puts first and its own,
    graded by the teacher.
    """
    chance, lists = random.Random(f"{seed}-{source}"), list[GradedList]()
    owners = [chance.randrange(len(pictures)) for _ in range(count)]
    queries = [chance.choice(pictures[owner].queries) for owner in owners]
    scores = find(queries, [picture.path for picture in pictures])  # [Q, P]
    for number, (owner, query) in enumerate(zip(owners, queries, strict=True)):
        near = [
            place
            for place in scores[number].topk(min(depth, len(pictures))).indices.tolist()
            if place != owner
        ]
        places = [owner, *near[: depth - 1]]
        chosen = [pictures[place] for place in places]
        lists.append(
            GradedList(
                source=source,
                qid=f"{source}-{number}",
                query=query,
                docids=tuple(picture.path.name for picture in chosen),
                texts=("",) * len(chosen),
                images=tuple(picture.path for picture in chosen),
                grades=tuple(
                    caption_grades(caption_likeness(teacher, query, chosen), temperature).tolist()
                ),
                first=tuple(scores[number][places].tolist()),
            )
        )
    return lists


def caption_likeness(teacher: Similarity, query: str, pictures: Sequence[CaptionedImage]) -> Tensor:
    """How like each picture's nearest caption is to the query, [N]; the query's own picture has it
    among its captions.
    """
    captions = [caption for picture in pictures for caption in picture.captions]
    likeness = teacher([query], captions)[0]  # [captions]
    parts = torch.split(likeness, [len(picture.captions) for picture in pictures])
    return torch.stack([of.max() for of in parts])


def caption_grades(likeness: Tensor, temperature: float) -> Tensor:
    """Grades of which the gains 2^grade - 1 are proportional to exp(likeness / temperature), the
    best having `TOP_GRADE`.

    So `losses.softmax_kl`, whose target are the gains, distils the teacher's softmax exactly, and a
    Plackett-Luce loss reads the teacher's whole order. [N] -> [N].
    """
    top = 2**TOP_GRADE - 1
    gains: Tensor = top * ((likeness - likeness.max()) / temperature).exp()
    return gains.log1p() / math.log(2)


def picture_lists(pictures: Sequence[CaptionedImage], source: str, count: int) -> list[GradedList]:
    """Development lists: a query each, every picture of the set is a candidate, its own is right.
    They depend on no model.
    """
    lists, paths = [], tuple(picture.path for picture in pictures)
    for number in range(count):
        owner = number * len(pictures) // count
        lists.append(
            GradedList(
                source=source,
                qid=f"{source}-{number}",
                query=pictures[owner].queries[number % len(pictures[owner].queries)],
                docids=tuple(f"{place}-{path.name}" for place, path in enumerate(paths)),
                texts=("",) * len(paths),
                images=paths,
                grades=tuple(float(place == owner) for place in range(len(paths))),
            )
        )
    return lists
