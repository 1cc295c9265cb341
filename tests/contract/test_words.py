"""Names that say nothing do not come back: a list of banned names, and a count that may only fall.

`words.json` has both. A banned word is no fault in prose; it is one as the name of a variable or a
parameter, where it says nothing of what the thing is. The glossary in docs/contributing has better
ones.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = Path(__file__).with_name("words.json")
FILES = [
    path for folder in ("llama_index_rnx", "training") for path in (ROOT / folder).rglob("*.py")
]


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names that are assigned, or are parameters, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def test_banned_names_only_become_fewer() -> None:
    words = json.loads(WORDS.read_text(encoding="utf-8"))
    banned = set(words["banned"])
    uses = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(FILES)
        for name, line in bound_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in banned
    ]
    assert len(uses) <= words["bindings"], "\n".join(["name these for what they are:", *uses])
    assert len(uses) == words["bindings"], f"fewer than before: write {len(uses)} into words.json"


def test_what_counts_as_bound() -> None:
    source = "def f(part, *, of=1):\n    found = part\n    return [x for x in found]"
    names = [name for name, _ in bound_names(ast.parse(source))]
    assert sorted(names) == ["found", "of", "part", "x"]
