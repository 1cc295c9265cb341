"""Images with their captions, as the bi-encoder is trained on them. It knows no model."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

FILES = {
    "flickr_dev": "flickr8k/dev.jsonl.gz",
    "flickr_train": "flickr8k/train.jsonl.gz",
    "openstax": "openstax/figures.jsonl.gz",
}

_CREDIT = re.compile(r"\((?:credit|attribution|modification)\b.*$", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and what was written about it.

    group: keeps the figures of one module on one side of a split.
    """

    path: Path
    name: str
    texts: tuple[str, ...]
    group: str


def read_pairs(data: Path, source: str) -> list[Pair]:
    """Read the images of a source in `FILES`, each once, with all its texts: credits cut, texts of
    one word and duplicates dropped.
    """
    file = data / FILES[source]
    by_image: dict[str, Pair] = {}
    with gzip.open(file, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            name = row["image"]
            previous = by_image[name].texts if name in by_image else ()
            by_image[name] = Pair(
                path=file.parent / name,
                name=name,
                texts=tuple(dict.fromkeys([*previous, *_texts(row)])),
                group=row.get("module", name),
            )
    return [pair for pair in by_image.values() if pair.texts]


def _texts(row: dict[str, object]) -> list[str]:
    """Return the texts of a row of Flickr8k (`captions`) or of OpenStax."""
    raw = row.get("captions") or [row["alt"], row["caption"], row["title"]]
    assert isinstance(raw, list)
    texts = [_CREDIT.sub("", text or "").strip() for text in raw]
    return [text for text in texts if len(text.split()) > 1]
