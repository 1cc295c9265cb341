"""One progress bar for all long work: how far, how fast, how much longer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="dim")


@contextmanager
def progress_bar(title: str, total: int | None, unit: str, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`. Drawn on stderr, and by default only where somebody can see it."""
    visible = sys.stderr.isatty() if show is None else show
    columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _Rate(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not visible) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.update(task, advance=count)
