"""Collections of a test in memory, in a folder and on a server."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fakes.embeddings import FakeEmbedding
from llama_index_rnx import NodeCollection

_names = itertools.count()
PLACES = ("memory", "folder", pytest.param("server", marks=pytest.mark.server))


@dataclass
class Place:
    """Where a test's collections are; `open()` twice opens the same one twice."""

    kind: str
    location: Any
    name: str
    opened: list[NodeCollection]

    def open(self, **options: Any) -> NodeCollection:
        settings = {"name": self.name, "embedding": FakeEmbedding(), **options}
        collection = NodeCollection(self.location, **settings)
        self.opened.append(collection)
        return collection

    def close_all(self) -> None:
        while self.opened:
            self.opened.pop().close()


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if kind == "server":
        location: Any = request.getfixturevalue("qdrant_server").url
    else:
        location = tmp_path / "index" if kind == "folder" else ":memory:"
    return Place(kind, location, new_name(), [])


def new_name() -> str:
    """Return a name for a collection that no other test uses."""
    return f"test-{next(_names)}"


def ids(hits: Any) -> list[str]:
    return [hit.node_id for hit in hits]
