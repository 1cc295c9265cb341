"""Help pages as typer writes them without rich, which takes longer than all the rest, with options
under headings. It knows no command.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# Typer converts the value of every option by pydantic, which takes longer to import than typer
# itself; even that of a `--help` that was not given. A default that is a bool needs no converting.
CONTEXT_SETTINGS: dict[str, Any] = {"default_map": {"help": False}}


class CommandWithPanels(TyperCommand):
    """A command whose help shows the options of each `rich_help_panel` under a heading."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(_panel_of(parameter), []).append(record)

        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def _panel_of(parameter: Any) -> str:
    # `--help` may be an option of a class without panels.
    panel = getattr(parameter, "rich_help_panel", None)
    return panel or ("Arguments" if parameter.param_type_name == "argument" else "Options")
