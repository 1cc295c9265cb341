"""Image datasets: images with the captions that people gave them. It knows no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.files import data_folder, rows


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """A picture and the texts about it: those that may be queries, those that may be candidates,
    and its caption if any.
    """

    path: Path
    queries: tuple[str, ...]
    about: tuple[str, ...] = ()
    caption: str = ""

    @property
    def captions(self) -> tuple[str, ...]:
        """Everything that says what is to be seen on it."""
        return tuple(
            dict.fromkeys(text for text in (*self.queries, self.caption, *self.about) if text)
        )


def flickr(split: str, limit: int | None = None) -> list[CaptionedImage]:
    """Flickr8k: two captions are queries, the other three texts."""
    folder = data_folder() / "flickr8k"
    captions = {row["image"]: row["captions"] for row in rows(folder / f"{split}.jsonl.gz")}
    made = [
        CaptionedImage(
            path=folder / name, queries=tuple(of[:2]), about=tuple(of[2:]), caption=of[-1]
        )
        for name, of in captions.items()
    ]
    return sampled(made, limit)


def openstax(held_out: bool, limit: int | None = None) -> list[CaptionedImage]:
    """OpenStax figures whose title or alt sentence asks for them, with the paragraphs that point to
    them; every tenth module is held out."""
    folder = data_folder() / "openstax"
    about: dict[str, list[str]] = {}
    for row in rows(folder / "paragraph_figure.jsonl.gz"):
        about.setdefault(row["image"], []).append(row["text"])
    figures = list(rows(folder / "figures.jsonl.gz"))
    held = set(sorted({str(row.get("module", row["image"])) for row in figures})[::10])
    made: dict[str, CaptionedImage] = {}
    for row in figures:
        queries = tuple(
            text
            for text in (row["title"], (row["alt"] or "").split(". ")[0])
            if text and len(text.split()) > 1
        )
        if (
            queries
            and row["image"] in about
            and (str(row.get("module", row["image"])) in held) == held_out
        ):
            texts = tuple(about[row["image"]][:2])
            made[row["image"]] = CaptionedImage(
                path=folder / row["image"],
                queries=queries,
                about=texts,
                caption=row["caption"] or "",
            )
    return sampled(list(made.values()), limit)


def sampled(pictures: Sequence[CaptionedImage], limit: int | None) -> list[CaptionedImage]:
    """`limit` of them in their order, always the same ones."""
    if limit is None or limit >= len(pictures):
        return list(pictures)
    return [
        pictures[place] for place in sorted(random.Random(0).sample(range(len(pictures)), limit))
    ]
