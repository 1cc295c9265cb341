"""Image datasets: images with the captions that people gave them. It knows no model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.files import DataFolder
from training.data.jsonl import Row


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """An image and the texts about it.

    queries: the texts that may be queries.
    about: the texts that may be candidates.
    caption: its caption; empty where it has none.
    """

    path: Path
    queries: tuple[str, ...]
    about: tuple[str, ...] = ()
    caption: str = ""

    @property
    def captions(self) -> tuple[str, ...]:
        """Every text that describes the image, each once."""
        texts = (*self.queries, self.caption, *self.about)
        return tuple(dict.fromkeys(text for text in texts if text))


def flickr(folder: DataFolder, split: str, limit: int | None = None) -> list[CaptionedImage]:
    """Return the images of Flickr8k: two captions each are queries, the other three are texts."""
    captions = {row["image"]: row["captions"] for row in folder.rows(f"flickr8k/{split}.jsonl.gz")}
    images = [
        CaptionedImage(
            path=folder.path / "flickr8k" / name,
            queries=tuple(texts[:2]),
            about=tuple(texts[2:]),
            caption=texts[-1],
        )
        for name, texts in captions.items()
    ]
    return sample_images(images, limit)


def openstax(folder: DataFolder, held_out: bool, limit: int | None = None) -> list[CaptionedImage]:
    """Return OpenStax figures with a title or alt sentence as query and the paragraphs about them.

    A figure needs a query of two words or more and a paragraph that points to it. Every tenth
    module is held out; `held_out` says which side of that split is returned.
    """
    paragraphs: dict[str, list[str]] = {}
    for row in folder.rows("openstax/paragraph_figure.jsonl.gz"):
        paragraphs.setdefault(row["image"], []).append(row["text"])

    figures = list(folder.rows("openstax/figures.jsonl.gz"))
    held_out_modules = set(sorted({_module_of(row) for row in figures})[::10])

    images: dict[str, CaptionedImage] = {}
    for row in figures:
        name = row["image"]
        queries = _figure_queries(row)
        is_in_split = (_module_of(row) in held_out_modules) == held_out
        if queries and name in paragraphs and is_in_split:
            images[name] = CaptionedImage(
                path=folder.path / "openstax" / name,
                queries=queries,
                about=tuple(paragraphs[name][:2]),
                caption=row["caption"] or "",
            )
    return sample_images(list(images.values()), limit)


def _module_of(row: Row) -> str:
    return str(row.get("module", row["image"]))


def _figure_queries(row: Row) -> tuple[str, ...]:
    """Return the title and first alt sentence of a figure, where they have two words or more."""
    texts = (row["title"], (row["alt"] or "").split(". ")[0])
    return tuple(text for text in texts if text and len(text.split()) > 1)


def sample_images(images: Sequence[CaptionedImage], limit: int | None) -> list[CaptionedImage]:
    """Return `limit` of the images in their order, the same ones at every call."""
    if limit is None or limit >= len(images):
        return list(images)
    indices = sorted(random.Random(0).sample(range(len(images)), limit))
    return [images[index] for index in indices]
