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


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture and what was written about it; `group` keeps the figures of one module on one side
    of a split.
    """

    path: Path
    name: str
    texts: tuple[str, ...]
    group: str


def pairs(data: Path, source: str) -> list[Pair]:
    """The pictures of a source in `FILES`, each once, with all its texts (credits cut, doubles
    dropped).
    """
    file = data / FILES[source]
    found: dict[str, Pair] = {}
    with gzip.open(file, "rt") as lines:
        for row in map(json.loads, lines):
            texts = row.get("captions") or [row["alt"], row["caption"], row["title"]]
            before = found[row["image"]].texts if row["image"] in found else ()
            kept = tuple(
                dict.fromkeys(
                    [*before, *(t for t in map(_without_credit, texts) if len(t.split()) > 1)]
                )
            )
            found[row["image"]] = Pair(
                path=file.parent / row["image"],
                name=row["image"],
                texts=kept,
                group=row.get("module", row["image"]),
            )
    return [pair for pair in found.values() if pair.texts]


def _without_credit(text: str | None) -> str:
    return re.sub(
        r"\((?:credit|attribution|modification)\b.*$", "", text or "", flags=re.I | re.S
    ).strip()
