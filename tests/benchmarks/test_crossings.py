"""How often control goes from one room into another on the two journeys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The engine of a folder is a room of its own, which asks for its lock, its files and their whole
# writing: that is twenty of those of an index.
MOST = {"index": 138, "search": 166}


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    """Return what the script prints, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.crossings"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return {name.rstrip(":"): int(number) for name, number, _ in lines}


@pytest.mark.parametrize("journey", MOST)
def test_a_journey_crosses_few_thresholds(journey: str, counted: dict[str, int]) -> None:
    assert 20 < counted[journey] <= MOST[journey]
