"""Hits as a table in a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llama_index_rnx.console import SafeConsole, is_unicode
from llama_index_rnx.results.hits import ARROWS, Hit, movement
from llama_index_rnx.text import clean, encodable, excerpt, prose, query_terms, split_at_terms

COLUMNS = 30  # of a terminal, taken by all but the last column of the table


_PLAIN_ARROWS = {"up": "^", "down": "v", "same": "="}


_COLOURS = {"up": "green", "down": "yellow", "same": "dim"}


def print_table(
    hits: Sequence[Hit], console: Console, title: str, query: str | None = None
) -> None:
    """Hits as a table, best first; `was` is the rank that the retriever gave. The words of `query`
    (or `title`) are set off.

    Texts are printed as they are: markup in them stays text, control characters and terminal
    escapes are taken out.
    """
    heading = _for_console(title, console)
    if not hits:
        console.print(Text(f"{heading}: nothing was found."))
        return
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(heading, "bold"), title_justify="left", pad_edge=False
    )
    for name in ("#", "was", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("source, text", overflow="fold")
    terms = query_terms(title if query is None else query)
    for hit in hits:
        table.add_row(*_row(hit, console, terms))
    console.print(table)


def plain_table(hits: Sequence[Hit], title: str, width: int = 100) -> str:
    """Return hits as `rnx search` prints them, without colours, in lines of at most `width`
    characters.
    """
    console = SafeConsole(
        file=io.StringIO(),
        width=width,
        color_system=None,
        legacy_windows=False,
        force_jupyter=False,
    )
    with console.capture() as written:
        print_table(hits, console, title)
    return "\n".join(line.rstrip() for line in written.get().splitlines())


def _row(hit: Hit, console: Console, terms: frozenset[int]) -> list[Text]:
    arrows = ARROWS if is_unicode(console.encoding) else _PLAIN_ARROWS
    moved, width = movement(hit), max(20, console.width - COLUMNS)
    cell = Text(_middle(_for_console(hit.docid, console), width), "bold")
    text = excerpt(_for_console(prose(hit.text), console), terms, 2 * width - 6)
    if text:
        cell.append("\n")
    for piece, marked in split_at_terms(text, terms):
        cell.append(piece, "underline cyan" if marked else "not bold")
    was = Text(f"{arrows[moved]} {hit.retrieval_rank}", _COLOURS[moved])
    return [Text(str(hit.rank)), was, Text(format_score(hit.score)), Text(hit.kind, "dim"), cell]


def format_score(score: float) -> str:
    return f"{score:.3f}" if abs(score) >= 0.1 or score == 0 else f"{score:.4f}"


def _middle(text: str, length: int) -> str:
    """A long path without its middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def _for_console(text: str, console: Console) -> str:
    """Cleaned, and with a ? for what the terminal's encoding cannot show."""
    return encodable(clean(text), console.encoding)
