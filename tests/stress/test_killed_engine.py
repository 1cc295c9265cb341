"""A process that is killed while it writes to the engine of a folder, builds its graphs, makes a
collection or converts an index of an earlier version: nothing acknowledged is lost, and the next
run completes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import KILLED, Forked, node_texts, write_local_index
from sizes import sizes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks are a matter of Unix")
NODES = 200


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    process = Forked()
    yield process
    process.close()


@pytest.mark.parametrize("kills", sizes(2, 40))
def test_nothing_acknowledged_is_lost(kills: int, forked: Forked, tmp_path: Path) -> None:
    rng = random.Random(kills)
    for number in range(kills):
        index, log = tmp_path / f"index{number}", tmp_path / f"log{number}"
        log.touch()
        # Early ends fall into the making of the collection.
        seconds = rng.choice([rng.uniform(0.02, 0.4), rng.uniform(0.4, 3.0)])
        code = forked.run("write", index, 0, NODES, log, kill_after=seconds).code
        assert code in (KILLED, 0)
        acknowledged = max(map(int, log.read_text().split()), default=0)
        kept = forked.run("look", index, NODES)
        assert not kept.error
        assert kept.value[:acknowledged] == [f"n{i}" for i in range(acknowledged)], seconds
        assert forked.run("write", index, 0, NODES).value == NODES
        answers = forked.run("use", index, NODES).value
        assert answers["count"] == NODES
        assert answers["texts"] == [text for _, text in node_texts(0, NODES)]


@pytest.mark.parametrize("kills", sizes(2, 40))
def test_a_killed_conversion_begins_anew(kills: int, forked: Forked, tmp_path: Path) -> None:
    rng = random.Random(kills)
    old = tmp_path / "old"
    write_local_index(old, NODES)
    whole = None
    for number in range(kills):
        index = tmp_path / f"index{number}"
        copied = forked.run("copy", old, index)
        assert copied.code == 0
        ends = [
            forked.run("look", index, NODES, kill_after=rng.uniform(0.02, 0.8)).code
            for _ in range(rng.randint(1, 3))
        ]
        assert set(ends) <= {KILLED, 0}
        answers = forked.run("use", index, NODES)
        assert not answers.error
        assert answers.value["count"] == NODES
        whole = whole or answers.value
        assert answers.value == whole
        names = {path.name for path in index.iterdir()}
        assert not names & {"meta.json", "meta.json.converted", "collection", "edge.new"}
