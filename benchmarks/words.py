"""Words for generated texts: half of them content, half glue. It imports nothing heavy."""

from __future__ import annotations

import random

VOCABULARY = [
    *("river", "engine", "market", "protein", "glacier", "treaty", "violin", "harvest"),
    *("battery", "orbit", "fabric", "senate", "copper", "forest", "signal", "bridge"),
    *("vaccine", "island", "pepper", "mortgage", "turbine", "canyon", "poem", "circuit"),
    *("desert", "kidney", "harbor", "guitar", "statute", "enzyme", "railway"),
]
GLUE = [
    *("the", "of", "and", "in", "to", "is", "that", "for", "with", "as", "on", "by"),
    *("an", "from", "at", "which", "was", "are", "it", "be", "this", "has", "or", "its"),
]


def words(rng: random.Random, count: int) -> list[str]:
    """Return `count` words, about half of them content and half glue."""
    return [rng.choice(VOCABULARY if rng.random() < 0.5 else GLUE) for _ in range(count)]
