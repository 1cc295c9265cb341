"""A stress test in two sizes: a small one that runs always, and the full one, marked `stress`, for
`make stress`.
"""

from __future__ import annotations

from typing import Any

import pytest


def sizes(small: Any, full: Any) -> list[Any]:
    """The two parameters of one test.

    Example:
        @pytest.mark.parametrize("kills", sizes(3, 50))
        def test_killed(kills: int) -> None: ...
    """
    return [
        pytest.param(small, id=f"small-{small}"),
        pytest.param(full, id=f"full-{full}", marks=pytest.mark.stress),
    ]
