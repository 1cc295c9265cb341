"""An index that local mode made is data: a folder that somebody else made cannot run anything, and
a damaged one says so in a line.
"""

from __future__ import annotations

import os
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEmbedding
from llama_index.core.schema import TextNode
from qdrant_client import QdrantClient

from llama_index_rnx import NodeCollection
from llama_index_rnx.collection.local_mode import UnsafePickleError, restricted_loads
from llama_index_rnx.errors import RNXError

POINTS = Path("collection") / "rnx" / "storage.sqlite"


class Evil:
    """What an attacker stores: loading it makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_a_point_that_would_call_something_is_refused(index: Path, tmp_path: Path) -> None:
    with sqlite3.connect(index / POINTS) as connection:
        connection.execute("UPDATE points SET point = ?", (pickle.dumps(Evil(tmp_path / "made")),))
    connection.close()
    with pytest.raises(
        RNXError, match=r"cannot be opened \(a point in it names posix.mkdir, which is no data"
    ):
        opened(index)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data", [b"", b"rubbish", pickle.dumps({"a": 1})[:-2], b"\x80\x04.", b"\x80\x04h\x05."]
)
def test_a_damaged_point(data: bytes) -> None:
    with pytest.raises(UnsafePickleError, match="damaged"):
        restricted_loads(data)


def test_points_come_back_whole_and_the_old_files_go(index: Path) -> None:
    collection = opened(index)
    assert [node.get_content() for node in collection.get(["b", "a"])] == [
        "Rust is iron.",
        "Bees make honey.",
    ]
    collection.close()
    assert sorted(path.name for path in index.iterdir()) == [".lock", "edge", "memories"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no database at all" * 90, "not a database"), (b"", "no such table")],
)
def test_a_damaged_file_of_points(index: Path, content: bytes, reason: str) -> None:
    (index / POINTS).write_bytes(content)
    with pytest.raises(
        RNXError, match=f"cannot be opened .*{reason}.*index again into a new folder"
    ):
        opened(index)
    assert (index / "meta.json").is_file()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"collections": {"rnx": 1}}', '{"collections": []}', '{"aliases": {}}'],
)
def test_a_damaged_description(index: Path, content: str) -> None:
    (index / "meta.json").write_text(content)
    with pytest.raises(RNXError, match="cannot be opened") as caught:
        opened(index)
    assert "\n" not in str(caught.value)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two points in a closed folder, as earlier versions wrote them."""
    client = QdrantClient(path=str(tmp_path / "index"))
    collection = NodeCollection(client, embedding=FakeEmbedding(), ranker=None)
    collection.add(
        [TextNode(id_="a", text="Bees make honey."), TextNode(id_="b", text="Rust is iron.")]
    )
    collection.close()
    client.close()
    return tmp_path / "index"


def opened(folder: Path) -> NodeCollection:
    return NodeCollection(folder, embedding=FakeEmbedding(), ranker=None)
