"""A rich console that shows foreign text as text, whoever prints it: tables, answers, progress
bars. It knows no hits and no commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from llama_index_rnx.console.streams import is_unicode
from llama_index_rnx.text import UNSAFE_IN_LINES, encodable, lines


class SafeConsole(Console):
    """A console that cleans all text which it renders, and shows a `?` for what its encoding lacks.

    rich's own codes for colours and cursor are no text, and stay. The console is a safety net: rich
    measures a text before the console cleans it, so a long line with control characters in it may
    lose its last characters. Callers that lay out foreign text clean it first.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Return the segments of a renderable, cleaned."""
        segments = list(super().render(renderable, options))
        if self._can_show(segments):
            return segments
        return [segment if segment.control else self._clean(segment) for segment in segments]

    def _can_show(self, segments: Sequence[Segment]) -> bool:
        """Whether all these texts can leave as they are.

        rich renders every cell of a table on its own and then the table once more. One search over
        the joined texts is all that clean ones cost.
        """
        text = "".join(segment.text for segment in segments if not segment.control)
        if UNSAFE_IN_LINES.search(text):
            return False
        return text.isascii() or is_unicode(self.encoding)

    def _clean(self, segment: Segment) -> Segment:
        return Segment(encodable(lines(segment.text), self.encoding), segment.style)
