"""A rich console that shows foreign text as text, whoever prints it: tables, answers, progress
bars.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from llama_index_rnx.text import encodable, lines


class SafeConsole(Console):
    """A console that cleans all text which it renders, and shows a `?` for what its encoding lacks.

    rich's own codes for colours and cursor are no text, and stay. It is a safety net: what is
    cleaned only here was measured with its control characters, so a long line may lose its last
    ones.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                text = encodable(lines(segment.text), self.encoding)
                yield Segment(text, segment.style)
