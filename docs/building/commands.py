"""`{rnx-commands}`: every command of `rnx` with its arguments and options, read off the program
itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llama_index_rnx.cli import app


def commands() -> dict[str, Any]:
    """The commands by name, in the order of `rnx --help`."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def options_of(command: Any) -> set[str]:
    """All that may stand on its line with a dash: `--to`, `-k`, `--no-rerank`, `--help`."""
    named = (name for one in command.params for name in (*one.opts, *one.secondary_opts))
    return {name for name in named if name.startswith("-")} | {"--help"}


def described(name: str, command: Any) -> str:
    """One command as Markdown."""
    return "\n".join(
        [
            f"## rnx {name}",
            "",
            "```text",
            _usage(name, command),
            "```",
            "",
            command.help,
            "",
            *_table(command),
            "",
        ]
    )


def _usage(name: str, command: Any) -> str:
    parts = ["rnx", name]
    for one in command.params:
        shown = one.metavar or one.name.upper()
        if one.param_type_name == "argument":
            parts.append(
                (shown if one.required else f"[{shown}]") + ("..." if one.nargs == -1 else "")
            )
        elif one.required:
            parts.append(f"{one.opts[0]} {one.name.strip('_').upper()}")
    optional = any(one.param_type_name == "option" and not one.required for one in command.params)
    return " ".join([*parts, *(["[OPTIONS]"] if optional else [])])


def _table(command: Any) -> Iterator[str]:
    if command.params:
        yield from ("| | | default |", "|---|---|---|")
    for one in command.params:
        names = [f"`{name}`" for name in (*one.opts, *one.secondary_opts)]
        if one.param_type_name == "argument":
            names = [f"`{one.metavar or one.name.upper()}`"]
        yield f"| {' / '.join(names)} | {_escaped(_help(one))} | {_default(one)} |"


def _help(one: Any) -> str:
    kind = one.type_descriptor.annotation
    choices = (
        [f"`{choice.value}`" for choice in kind]
        if isinstance(kind, type) and issubclass(kind, Enum)
        else []
    )
    also = [f"One of {', '.join(choices)}."] if choices else []
    also += [f"Also by the environment's `{one.envvar}`."] if one.envvar else []
    return " ".join([one.help or "", *also])


def _default(one: Any) -> str:
    if one.required:
        return "required"
    value = one.default.value if isinstance(one.default, Enum) else one.default
    return "" if value in (None, "") else f"`{value}`"


def _escaped(text: str) -> str:
    """Rows of JSON and options in a help text as code; a bar would end its cell."""
    return re.sub(r"\{.*\}|--[a-z-]+", lambda found: f"`{found.group()}`", text).replace("|", r"\|")


class Commands(SphinxDirective):
    """The whole reference, where the directive stands."""

    def run(self) -> list[nodes.Node]:
        text = "\n".join(described(name, command) for name, command in commands().items())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(sphinx: Sphinx) -> dict[str, bool]:
    sphinx.add_directive("rnx-commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
