"""Lists of pictures, distilled through captions: text is the bridge by which a picture's grade is known. Trains nothing.

A caption is the query. Its candidates are the pictures that the ranker in training now finds for it, and what a candidate
is worth is how like its own captions are to the query, as a text model sees it: so "a dog runs on the beach" gives something
to every dog and every beach, where the data name one right picture only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.data import GradedList, data_folder, rows

Similarity = Callable[[Sequence[str], Sequence[str]], Tensor]  # queries [Q], captions [C] -> [Q, C], 1 = the same
Finder = Callable[[Sequence[str], Sequence[Path]], Tensor]  # queries [Q], pictures [P] -> scores [Q, P]
TOP_GRADE = 3.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and the texts about it: those that may be queries, those that may be candidates, and its caption if any."""

    path: Path
    queries: tuple[str, ...]
    about: tuple[str, ...] = ()
    caption: str = ""

    @property
    def captions(self) -> tuple[str, ...]:
        """Everything that says what is to be seen on it."""
        return tuple(dict.fromkeys(text for text in (*self.queries, self.caption, *self.about) if text))


def flickr(split: str, limit: int | None = None) -> list[Picture]:
    """Flickr8k: two captions are queries, the other three texts."""
    folder = data_folder() / "flickr8k"
    captions = {row["image"]: row["captions"] for row in rows(folder / f"{split}.jsonl.gz")}
    made = [
        Picture(path=folder / name, queries=tuple(of[:2]), about=tuple(of[2:]), caption=of[-1]) for name, of in captions.items()
    ]
    return sampled(made, limit)


def openstax(held_out: bool, limit: int | None = None) -> list[Picture]:
    """OpenStax figures whose title or alt sentence asks for them, with the paragraphs that point to them; every tenth
    module is held out."""
    folder = data_folder() / "openstax"
    about: dict[str, list[str]] = {}
    for row in rows(folder / "paragraph_figure.jsonl.gz"):
        about.setdefault(row["image"], []).append(row["text"])
    figures = list(rows(folder / "figures.jsonl.gz"))
    held = set(sorted({str(row.get("module", row["image"])) for row in figures})[::10])
    made: dict[str, Picture] = {}
    for row in figures:
        queries = tuple(text for text in (row["title"], (row["alt"] or "").split(". ")[0]) if text and len(text.split()) > 1)
        if queries and row["image"] in about and (str(row.get("module", row["image"])) in held) == held_out:
            texts = tuple(about[row["image"]][:2])
            made[row["image"]] = Picture(path=folder / row["image"], queries=queries, about=texts, caption=row["caption"] or "")
    return sampled(list(made.values()), limit)


def sampled(pictures: Sequence[Picture], limit: int | None) -> list[Picture]:
    """`limit` of them in their order, always the same ones."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    return [pictures[place] for place in sorted(random.Random(0).sample(range(len(pictures)), limit))]


def caption_lists(
    pictures: Sequence[Picture],
    find: Finder,
    teacher: Similarity,
    *,
    source: str,
    count: int,
    depth: int = 20,
    temperature: float = 0.05,
    seed: int = 0,
) -> list[GradedList]:
    """`count` lists: for one caption each, the `depth` pictures that `find` puts first and its own, graded by the teacher."""
    chance, lists = random.Random(f"{seed}-{source}"), list[GradedList]()
    owners = [chance.randrange(len(pictures)) for _ in range(count)]
    queries = [chance.choice(pictures[owner].queries) for owner in owners]
    scores = find(queries, [picture.path for picture in pictures])  # [Q, P]
    for number, (owner, query) in enumerate(zip(owners, queries, strict=True)):
        near = [place for place in scores[number].topk(min(depth, len(pictures))).indices.tolist() if place != owner]
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
                grades=tuple(soft_grades(caption_likeness(teacher, query, chosen), temperature).tolist()),
                first=tuple(scores[number][places].tolist()),
            )
        )
    return lists


def caption_likeness(teacher: Similarity, query: str, pictures: Sequence[Picture]) -> Tensor:
    """How like each picture's nearest caption is to the query, [N]; the query's own picture has it among its captions."""
    captions = [caption for picture in pictures for caption in picture.captions]
    likeness = teacher([query], captions)[0]  # [captions]
    parts = torch.split(likeness, [len(picture.captions) for picture in pictures])
    return torch.stack([of.max() for of in parts])


def soft_grades(likeness: Tensor, temperature: float) -> Tensor:
    """Grades of which the gains 2^grade - 1 are proportional to exp(likeness / temperature), the best having `TOP_GRADE`.

    So `losses.softmax_kl`, whose target are the gains, distils the teacher's softmax exactly, and a Plackett-Luce loss reads
    the teacher's whole order. [N] -> [N].
    """
    top = 2**TOP_GRADE - 1
    gains: Tensor = top * ((likeness - likeness.max()) / temperature).exp()
    return gains.log1p() / math.log(2)


def picture_lists(pictures: Sequence[Picture], source: str, count: int) -> list[GradedList]:
    """Development lists: a query each, every picture of the set is a candidate, its own is right. They depend on no model."""
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
