"""A result as people see it: a table in a terminal, a page in a browser, a cell in a notebook. It
knows hits, not models.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from llama_index_rnx.candidates import ImageSource, image_of
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results.hits import Hit
from llama_index_rnx.results.table import plain_table
from llama_index_rnx.text import clean

if TYPE_CHECKING:  # it loads models, which nothing here needs
    pass
from llama_index_rnx.results.hits import ARROWS, movement, with_bars
from llama_index_rnx.results.table import format_score
from llama_index_rnx.text import excerpt, prose, query_terms, split_at_terms

CARD, GAP, LINKS = (
    124,
    12,
    72,
)  # CSS pixels, as in report.css: of a card, below it, and between the two columns
THUMBNAIL, QUERY_PICTURE, EXPLAINED = (
    300,
    420,
    900,
)  # longest side in pixels: twice what is shown, for dense screens
EXCERPT = 190  # characters of a text on a card

LEGEND = (
    "<p>Left: what the retriever found first. Right: the whole list after reranking, its first places. "
    "Dashed: came from further down.</p>"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One query and its hits: `before` as the retriever ordered them, `after` as they were
    returned.
    """

    query: str
    before: Sequence[Hit]
    after: Sequence[Hit]
    seconds: float
    image: ImageSource | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_cell(html_comparison("", self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows where there is no HTML: the table of the terminal."""
        printer.text(plain_table(self.after, self.query or "Find this picture"))


def html_page(sections: Sequence[Comparison], title: str) -> str:
    """One page that needs nothing else: styles and small pictures inside, no script, no network,
    light and dark.

    Whatever comes from the data is escaped. A picture that cannot be read shows as a placeholder.
    """
    names = [
        f"Query {number}" if len(sections) > 1 else "Query"
        for number in range(1, len(sections) + 1)
    ]
    body = "\n".join(map(html_comparison, names, sections))
    heading = (
        f"<h1>{escape_text(title)}</h1>"
        if [title] != [section.query for section in sections]
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{escape_text(title)}</title>
<style>
{style_sheet()}</style>
</head>
<body class="rnx">
<main>
<header>{heading}{LEGEND if any(map(_is_reranked, sections)) else ""}</header>
{body or '<p class="empty">There is no query to show.</p>'}
</main>
</body>
</html>
"""


def html_cell(inside: str) -> str:
    """A piece of a page with its styles, which reach nothing around it: what `_repr_html_` returns."""
    return f'<div class="rnx cell"><style>{style_sheet()}</style>{inside}</div>'


def style_sheet() -> str:
    """Return the styles of everything here, all inside `.rnx`. The sizes that Python computes with
    are custom properties in front, for report.css and for the page of `rnx ui`.
    """
    sizes = f"--card-height: {CARD}px; --card-gap: {GAP}px; --link-width: {LINKS}px;"
    styles = files("llama_index_rnx").joinpath("results", "report.css").read_text(encoding="utf-8")
    return f".rnx {{ {sizes} }}\n{styles}"


def excerpt_of(hit: Hit, query: str) -> list[tuple[str, bool]]:
    """What a card shows of a text: the stretch that says most about the query, in pieces, each with
    whether it is its word.
    """
    terms = query_terms(query)
    return [
        piece
        for piece in split_at_terms(excerpt(clean(prose(hit.text)), terms, EXCERPT), terms)
        if piece[0]
    ]


def thumbnail(image: ImageSource, side: int) -> bytes:
    """A small JPEG, its longer side at most `side` pixels. Raises ImageError, as `ImageSource.load`
    does.
    """
    picture = image.load(max_pixels=4 * side * side)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def html_comparison(name: str, section: Comparison) -> str:
    """The query above, the lists below it."""
    return f"<section>{_ask(name, section)}{html_lists(section)}</section>"


def html_lists(section: Comparison) -> str:
    """Both lists and the curves between them, or one list where nothing was reranked."""
    query, pictures = section.query, _pictures([*section.before, *section.after])
    before, after = list(section.before), list(section.after)
    if not before and not after:
        return '<p class="empty">Nothing was found.</p>'
    if not _is_reranked(section):
        cards = [
            _card(hit, pictures, query, moved="", share=share) for hit, share in with_bars(before)
        ]
        return f'<div class="lists single">{_list("Retrieved", cards)}</div>'
    new = {hit.id: hit.rank for hit in after}
    old_cards = [
        _card(hit, pictures, query, _moves(hit, new.get(hit.id)), share)
        for hit, share in with_bars(before)
    ]
    new_cards = [_card(hit, pictures, query, _moved(hit), share) for hit, share in with_bars(after)]
    lists = _list("Retrieved", old_cards) + _links(before, after) + _list("Reranked", new_cards)
    return f'<div class="lists">{lists}</div>'


def _is_reranked(section: Comparison) -> bool:
    return list(section.before) != list(section.after)


def _ask(name: str, section: Comparison) -> str:
    picture = ""
    if section.image is not None:
        picture = image_tag(
            thumbnail_uri(section.image, QUERY_PICTURE), "the picture that was asked with", "asked"
        )
    words = (
        f"<h2>{escape_text(section.query)}</h2>"
        if section.query.strip()
        else '<h2 class="wordless">Find this picture</h2>'
    )
    took = (
        f"{section.seconds * 1000:,.0f} ms" if section.seconds < 10 else f"{section.seconds:,.1f} s"
    )
    about = f'<p class="eyebrow">{name}<span>answered in {took}</span></p>'
    return f'<div class="ask">{picture}<div>{about}{words}</div></div>'


def _list(name: str, cards: Sequence[str]) -> str:
    inside = "".join(cards) or '<li class="empty">Nothing was found.</li>'
    return f'<div class="list {name.lower()}"><h3>{name}</h3><ol>{inside}</ol></div>'


def _card(hit: Hit, pictures: dict[str, str | None], query: str, moved: str, share: float) -> str:
    picture = image_tag(pictures[hit.id], "", "thumb") if hit.id in pictures else ""
    text = "".join(
        f"<mark>{escape(piece)}</mark>" if marked else escape(piece)
        for piece, marked in excerpt_of(hit, query)
    )
    return (
        f'<li class="card {escape_text(hit.kind)}"><div class="rank"><b>{hit.rank}</b>{moved}</div>{picture}<div class="body">'
        f'<p class="source" title="{escape_text(hit.docid)}">{_named(hit)}</p><p class="text">{text}</p>'
        f'<p class="foot"><span class="kind">{escape_text(hit.kind)}</span>{_bar(share)}'
        f"<span>{format_score(hit.score)}</span></p></div></li>"
    )


def _named(hit: Hit) -> str:
    """The source, cut where it is too long; but never its page."""
    page = f"#{hit.page}" if hit.page is not None else ""
    return f"<span>{escape_text(hit.docid.removesuffix(page))}</span>{page}"


def _bar(share: float) -> str:
    """Drawn, not styled: a page may forbid styles in attributes."""
    return (
        f'<svg class="bar" aria-hidden="true"><rect width="{share:.0%}" height="4" rx="2"/></svg>'
    )


def _moved(hit: Hit) -> str:
    """In the reranked list: where a hit comes from."""
    moved, old = movement(hit), hit.retrieval_rank
    return (
        f'<span class="{moved}" title="the retriever had it at {old}">{ARROWS[moved]} {old}</span>'
    )


def _moves(hit: Hit, new_rank: int | None) -> str:
    """In the retrieved list: where a hit goes to."""
    if new_rank is None:
        return '<span class="gone" title="not among the best any more">&ndash;</span>'
    moved = "up" if new_rank < hit.rank else "down" if new_rank > hit.rank else "same"
    return f'<span class="{moved}" title="the reranker has it at {new_rank}">→ {new_rank}</span>'


def _links(before: Sequence[Hit], after: Sequence[Hit]) -> str:
    """Curves from the old places to the new ones; from the lower edge for a hit that was further
    down.
    """
    height = (CARD + GAP) * max(len(before), len(after))
    old = {hit.id: row for row, hit in enumerate(before)}
    kept = {hit.id for hit in after}
    stubs = [
        f'<path class="gone" d="M0 {_middle_of(row)}h12"/>'
        for hit_id, row in old.items()
        if hit_id not in kept
    ]
    curves = []
    for row, hit in enumerate(after):
        known, end, half = hit.id in old, _middle_of(row), LINKS // 2
        start = _middle_of(old[hit.id]) if known else height
        name = movement(hit) + ("" if known else " far")
        curves.append(
            f'<path class="{name}" d="M0 {start}C{half} {start} {half} {end} {LINKS} {end}"/>'
        )
    picture = (
        f'<svg width="{LINKS}" height="{height}" viewBox="0 0 {LINKS} {height}" aria-hidden="true">'
    )
    return f'<div class="links">{picture}{"".join(stubs + curves)}</svg></div>'


def _middle_of(row: int) -> int:
    return row * (CARD + GAP) + CARD // 2


def _pictures(hits: Sequence[Hit]) -> dict[str, str | None]:
    """By node id, the thumbnails of those hits that have an image; None where it cannot be read."""
    found: dict[str, str | None] = {}
    for hit in hits:
        if hit.kind != "text" and hit.id not in found:
            try:
                image = image_of(hit.node)
            except RNXError:
                image = None
            found[hit.id] = thumbnail_uri(image, THUMBNAIL) if image is not None else None
    return found


def thumbnail_uri(image: ImageSource, side: int) -> str | None:
    try:
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail(image, side)).decode()
    except RNXError:
        return None


def image_tag(uri: str | None, alt: str, name: str) -> str:
    if uri is None:
        return f'<div class="{name} broken">no picture</div>'
    return f'<div class="{name}"><img src="{uri}" alt="{escape(alt)}"></div>'


def escape_text(text: str) -> str:
    return escape(clean(text))
