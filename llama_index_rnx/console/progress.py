"""One progress bar for all long work: how far, how fast, how much longer. Or lines of JSON, for a
program that watches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from llama_index_rnx.console.streams import print_json_line


class Bar(Protocol):
    """`bar(n)`: so many are done. `bar.expect(n)`: so many more than were known are to come."""

    def __call__(self, count: int) -> None: ...

    def expect(self, count: int) -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="dim")


class _Drawn:
    def __init__(self, progress: Progress, task: TaskID, total: int) -> None:
        self._progress, self._task, self._total = progress, task, total

    def __call__(self, count: int) -> None:
        self._progress.update(self._task, advance=count)

    def expect(self, count: int) -> None:
        self._total += count
        self._progress.update(self._task, total=self._total)


class JsonLines:
    """Tells a program on stdout: {"expect": n}, {"done": n}."""

    def __call__(self, count: int) -> None:
        self.tell(done=count)

    def expect(self, count: int) -> None:
        self.tell(expect=count)

    def tell(self, **fact: object) -> None:
        print_json_line(fact)


@contextmanager
def progress_bar(title: str, total: int, unit: str, show: bool | None = None) -> Iterator[Bar]:
    """Yields `advance(n)`. Drawn on stderr, and by default only where somebody can see it."""
    visible = sys.stderr.isatty() if show is None else show
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=SafeConsole(stderr=True), disable=not visible) as progress:
        yield _Drawn(progress, progress.add_task(title, total=total), total)
