"""Shows the progress of long work: a bar on a terminal, or lines of JSON for another program. It
knows no nodes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from llama_index_rnx.console.safe_console import SafeConsole
from llama_index_rnx.console.streams import print_json_line, print_note


class Bar(Protocol):
    """The progress of one piece of work, in units of it."""

    def __call__(self, count: int) -> None:
        """Mark `count` units as done."""
        ...

    def add_total(self, count: int) -> None:
        """Raise the expected total by `count` units."""
        ...


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="dim")


class _TerminalBar:
    """A bar that rich draws."""

    def __init__(self, progress: Progress, task: TaskID, total: int) -> None:
        self._progress = progress
        self._task = task
        self._total = total

    def __call__(self, count: int) -> None:
        self._progress.update(self._task, advance=count)

    def add_total(self, count: int) -> None:
        self._total += count
        self._progress.update(self._task, total=self._total)


class JsonLines:
    """A bar for a program that reads stdout: lines as {"expect": n} and {"done": n}."""

    def __call__(self, count: int) -> None:
        self.send(done=count)

    def add_total(self, count: int) -> None:
        self.send(expect=count)

    def send(self, **fields: object) -> None:
        """Print one line of JSON with these fields."""
        print_json_line(fields)


@contextmanager
def note_if_slow(text: str, after: float = 1.0) -> Iterator[None]:
    """Print a line on stderr if the block takes longer than `after` seconds, while it runs."""
    timer = Timer(after, print_note, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def progress_bar(title: str, total: int, unit: str, show: bool | None = None) -> Iterator[Bar]:
    """Yield a bar, drawn on stderr.

    Args:
        title: stands before the bar.
        total: how many units are expected.
        unit: what is counted, in the plural.
        show: whether to draw it; by default only on a terminal.
    """
    is_visible = sys.stderr.isatty() if show is None else show
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=SafeConsole(stderr=True), disable=not is_visible) as progress:
        yield _TerminalBar(progress, progress.add_task(title, total=total), total)
