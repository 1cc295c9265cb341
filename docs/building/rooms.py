"""`{rnx-room} collection`: what a room hands out, and its modules, read off the folder.

A page therefore stays complete when a module is added, divided or renamed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import llama_index_rnx

PACKAGE = Path(llama_index_rnx.__file__).parent


def modules_of(room: str) -> Iterator[str]:
    """Yield the modules of a room by their dotted names; a single file is a room of one module."""
    folder = PACKAGE / room.replace(".", "/")
    if not folder.is_dir():
        yield f"llama_index_rnx.{room}"
        return
    for path in sorted(folder.glob("[a-z]*.py")):
        yield f"llama_index_rnx.{room}.{path.stem}"


def described(room: str) -> str:
    """Return one room as Markdown: what it is, what may be imported from it, its modules."""
    face = importlib.import_module(f"llama_index_rnx.{room}")
    names = ", ".join(f"`{name}`" for name in getattr(face, "__all__", []))
    parts = [str(face.__doc__).strip()]
    if names:
        parts.append(f"`from llama_index_rnx.{room} import ...`: {names}.")
    parts += [f"```{{eval-rst}}\n.. automodule:: {module}\n```" for module in modules_of(room)]
    return "\n\n".join(parts)


class Room(SphinxDirective):
    """The reference of one room, where the directive stands."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the parsed room."""
        return self.parse_text_to_nodes(described(self.arguments[0]), allow_section_headings=True)


def setup(sphinx: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    sphinx.add_directive("rnx-room", Room)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
