"""Hits as a table in a terminal. It knows no page and no model."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llama_index_rnx.console import SafeConsole, is_unicode
from llama_index_rnx.results.hits import ARROWS, Hit, movement
from llama_index_rnx.text import marked_excerpts, printable_lines, query_terms

OTHER_COLUMNS = 30  # characters of a terminal's width that all columns but the last one take
MIN_TEXT_WIDTH = 20  # characters of the last column, however narrow the terminal is

_ASCII_ARROWS = {"up": "^", "down": "v", "same": "="}
_COLORS = {"up": "green", "down": "yellow", "same": "dim"}


def print_table(
    hits: Sequence[Hit], console: Console, title: str, query: str | None = None
) -> None:
    """Print hits as a table, best first; `was` is the rank that the retriever gave.

    Texts are printed as they are: markup in them stays text, control characters and terminal
    escapes are taken out.

    Args:
        hits: in the order of the table.
        console: where the table goes; its width and its encoding are kept to.
        title: above the table.
        query: its words are set off in the texts; by default those of the title are.
    """
    heading, *docids = printable_lines([title, *(hit.docid for hit in hits)], console.encoding)
    if not hits:
        console.print(Text(f"{heading}: nothing was found."))
        return

    width = max(MIN_TEXT_WIDTH, console.width - OTHER_COLUMNS)
    excerpts = marked_excerpts(
        [hit.text for hit in hits],
        query_terms(title if query is None else query),
        length=2 * width - 6,
        encoding=console.encoding,
    )

    table = _empty_table(heading)
    arrows = ARROWS if is_unicode(console.encoding) else _ASCII_ARROWS
    for hit, docid, excerpt in zip(hits, docids, excerpts, strict=True):
        move = movement(hit)
        table.add_row(
            Text(str(hit.rank)),
            Text(f"{arrows[move]} {hit.retrieval_rank}", _COLORS[move]),
            Text(format_score(hit.score)),
            Text(hit.kind, "dim"),
            _source_and_text(shorten_middle(docid, width), excerpt),
        )
    console.print(table)


def plain_table(hits: Sequence[Hit], title: str, width: int = 100) -> str:
    """Return hits as `rnx search` prints them, without colors, in lines of at most `width`
    characters.
    """
    console = SafeConsole(
        file=io.StringIO(),
        width=width,
        color_system=None,
        legacy_windows=False,
        force_jupyter=False,
    )
    with console.capture() as captured:
        print_table(hits, console, title)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def format_score(score: float) -> str:
    """Return a score with three decimals, or four where it is small."""
    return f"{score:.3f}" if abs(score) >= 0.1 or score == 0 else f"{score:.4f}"


def shorten_middle(text: str, length: int) -> str:
    """Return a text of at most `length` characters: a long path loses its middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def _empty_table(heading: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(heading, "bold"), title_justify="left", pad_edge=False
    )
    for name in ("#", "was", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("source, text", overflow="fold")
    return table


def _source_and_text(source: str, excerpt: Sequence[tuple[str, bool]]) -> Text:
    """Return the last cell of a row: the source, and below it the excerpt with the query's words
    set off.
    """
    cell = Text(source, "bold")
    if excerpt:
        cell.append("\n")
    for piece, is_query_word in excerpt:
        cell.append(piece, "underline cyan" if is_query_word else "not bold")
    return cell
