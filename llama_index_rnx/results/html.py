"""A result as people see it: a page in a browser, a cell in a notebook. It knows no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from llama_index_rnx.candidates import ImageSource, image_of
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results.hits import ARROWS, Hit, direction, movement, with_bars
from llama_index_rnx.results.table import format_score, plain_table
from llama_index_rnx.results.thumbnails import image_tag, thumbnail_uri
from llama_index_rnx.text import clean, marked_excerpts, query_terms

# CSS pixels, as in report.css.
CARD = 124  # height of a card
GAP = 12  # below a card
LINKS = 72  # between the two columns

# The longest side of an image in pixels: twice what is shown, for dense screens.
THUMBNAIL = 300
QUERY_IMAGE = 420

EXCERPT = 190  # characters of a text on a card

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
WORDLESS_QUERY = "Find this image"
LEGEND = (
    "<p>Left: what the retriever found first. "
    "Right: the whole list after reranking, its first places. "
    "Dashed: came from further down.</p>"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One query and its hits: `before` as the retriever ordered them, `after` as they were
    returned.

    `seconds` is what retrieving and reranking took together. `image` is that of the query.
    """

    query: str
    before: Sequence[Hit]
    after: Sequence[Hit]
    seconds: float
    image: ImageSource | None = None

    @property
    def is_reranked(self) -> bool:
        """Whether the two lists differ."""
        return list(self.before) != list(self.after)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return html_cell(html_comparison("", self))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print what IPython shows where there is no HTML: the table of the terminal."""
        printer.text(plain_table(self.after, self.query or WORDLESS_QUERY))


def html_page(sections: Sequence[Comparison], title: str) -> str:
    """Return one page that needs nothing else: styles and small images inside, no script, no
    network, light and dark.

    Whatever comes from the data is escaped. An image that cannot be read shows as a placeholder.

    Args:
        sections: one for each query.
        title: of the page; it stands in the page, too, unless it repeats the only query.
    """
    names = ["Query"]
    if len(sections) > 1:
        names = [f"Query {number}" for number in range(1, len(sections) + 1)]
    body = "\n".join(map(html_comparison, names, sections))

    is_only_query = [title] == [comparison.query for comparison in sections]
    heading = "" if is_only_query else f"<h1>{escape_text(title)}</h1>"
    legend = LEGEND if any(comparison.is_reranked for comparison in sections) else ""

    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape_text(title)}</title>
<style>
{style_sheet()}</style>
</head>
<body class="rnx">
<main>
<header>{heading}{legend}</header>
{body or '<p class="empty">There is no query to show.</p>'}
</main>
</body>
</html>
"""


def html_cell(content: str) -> str:
    """Return a part of a page with its styles, which reach nothing around it: what `_repr_html_`
    returns.
    """
    return f'<div class="rnx cell"><style>{style_sheet()}</style>{content}</div>'


def style_sheet() -> str:
    """Return the styles of everything here, all inside `.rnx`. The sizes that Python computes with
    are custom properties in front, for report.css and for the page of `rnx ui`.
    """
    sizes = f"--card-height: {CARD}px; --card-gap: {GAP}px; --link-width: {LINKS}px;"
    styles = files("llama_index_rnx").joinpath("results", "report.css").read_text(encoding="utf-8")
    return f".rnx {{ {sizes} }}\n{styles}"


def excerpt_of(hit: Hit, query: str) -> list[tuple[str, bool]]:
    """Return what a card shows of a text: the stretch that says most about the query, in pieces,
    each with whether it is one of the query's words.
    """
    return marked_excerpts([hit.text], query_terms(query), EXCERPT)[0]


def html_comparison(name: str, comparison: Comparison) -> str:
    """Return the query above and the lists below it."""
    return f"<section>{_query_header(name, comparison)}{html_lists(comparison)}</section>"


def html_lists(comparison: Comparison) -> str:
    """Return both lists and the curves between them, or one list where nothing was reranked."""
    before = list(comparison.before)
    after = list(comparison.after)
    if not before and not after:
        return '<p class="empty">Nothing was found.</p>'

    query = comparison.query
    images = _thumbnails([*before, *after])
    if not comparison.is_reranked:
        cards = [_card(hit, images, query, "", share) for hit, share in with_bars(before)]
        return f'<div class="lists single">{_list("Retrieved", cards)}</div>'

    new_ranks = {hit.id: hit.rank for hit in after}
    old_cards = [
        _card(hit, images, query, _rank_after(hit, new_ranks.get(hit.id)), share)
        for hit, share in with_bars(before)
    ]
    new_cards = [
        _card(hit, images, query, _rank_before(hit), share) for hit, share in with_bars(after)
    ]
    lists = _list("Retrieved", old_cards) + _links(before, after) + _list("Reranked", new_cards)
    return f'<div class="lists">{lists}</div>'


def _query_header(name: str, comparison: Comparison) -> str:
    image = ""
    if comparison.image is not None:
        uri = thumbnail_uri(comparison.image, QUERY_IMAGE)
        image = image_tag(uri, "the image of the query", "asked")

    words = f'<h2 class="wordless">{WORDLESS_QUERY}</h2>'
    if comparison.query.strip():
        words = f"<h2>{escape_text(comparison.query)}</h2>"

    seconds = comparison.seconds
    duration = f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
    about = f'<p class="eyebrow">{name}<span>answered in {duration}</span></p>'
    return f'<div class="ask">{image}<div>{about}{words}</div></div>'


def _list(name: str, cards: Sequence[str]) -> str:
    items = "".join(cards) or '<li class="empty">Nothing was found.</li>'
    return f'<div class="list {name.lower()}"><h3>{name}</h3><ol>{items}</ol></div>'


def _card(hit: Hit, images: dict[str, str | None], query: str, move: str, share: float) -> str:
    image = image_tag(images[hit.id], "", "thumb") if hit.id in images else ""
    text = "".join(
        f"<mark>{escape(piece)}</mark>" if is_query_word else escape(piece)
        for piece, is_query_word in excerpt_of(hit, query)
    )
    kind = escape_text(hit.kind)
    return (
        f'<li class="card {kind}">'
        f'<div class="rank"><b>{hit.rank}</b>{move}</div>{image}<div class="body">'
        f'<p class="source" title="{escape_text(hit.docid)}">{_source(hit)}</p>'
        f'<p class="text">{text}</p>'
        f'<p class="foot"><span class="kind">{kind}</span>{_bar(share)}'
        f"<span>{format_score(hit.score)}</span></p></div></li>"
    )


def _source(hit: Hit) -> str:
    """Return the source, which the page cuts where it is too long; its page number stays."""
    page = f"#{hit.page}" if hit.page is not None else ""
    return f"<span>{escape_text(hit.docid.removesuffix(page))}</span>{page}"


def _bar(share: float) -> str:
    """Return a bar that is drawn, not styled: a page may forbid styles in attributes."""
    rectangle = f'<rect width="{share:.0%}" height="4" rx="2"/>'
    return f'<svg class="bar" aria-hidden="true">{rectangle}</svg>'


def _rank_before(hit: Hit) -> str:
    """Return, for a hit of the reranked list, where it comes from."""
    move = movement(hit)
    rank = hit.retrieval_rank
    return (
        f'<span class="{move}" title="the retriever had it at {rank}">{ARROWS[move]} {rank}</span>'
    )


def _rank_after(hit: Hit, rank: int | None) -> str:
    """Return, for a hit of the retrieved list, where it goes to."""
    if rank is None:
        return '<span class="gone" title="not among the best any more">&ndash;</span>'
    move = direction(hit.rank, rank)
    return f'<span class="{move}" title="the reranker has it at {rank}">→ {rank}</span>'


def _links(before: Sequence[Hit], after: Sequence[Hit]) -> str:
    """Return the curves from the old places to the new ones, and a stub where a hit goes nowhere.

    The curve of a hit that was further down begins at the lower edge.
    """
    height = (CARD + GAP) * max(len(before), len(after))
    old_rows = {hit.id: row for row, hit in enumerate(before)}
    after_ids = {hit.id for hit in after}

    stubs = [
        f'<path class="gone" d="M0 {_middle_of(row)}h12"/>'
        for hit_id, row in old_rows.items()
        if hit_id not in after_ids
    ]
    curves = [_curve(hit, row, old_rows.get(hit.id), height) for row, hit in enumerate(after)]
    size = f'width="{LINKS}" height="{height}" viewBox="0 0 {LINKS} {height}"'
    paths = "".join(stubs + curves)
    return f'<div class="links"><svg {size} aria-hidden="true">{paths}</svg></div>'


def _curve(hit: Hit, row: int, old_row: int | None, height: int) -> str:
    start = height if old_row is None else _middle_of(old_row)
    end = _middle_of(row)
    half = LINKS // 2
    css_class = movement(hit) + (" far" if old_row is None else "")
    return f'<path class="{css_class}" d="M0 {start}C{half} {start} {half} {end} {LINKS} {end}"/>'


def _middle_of(row: int) -> int:
    return row * (CARD + GAP) + CARD // 2


def _thumbnails(hits: Sequence[Hit]) -> dict[str, str | None]:
    """Return by node id the thumbnails of those hits that have an image; None where it cannot be
    read.
    """
    with_image = {hit.id: hit for hit in hits if hit.kind != "text"}
    return {hit_id: _thumbnail_of(hit) for hit_id, hit in with_image.items()}


def _thumbnail_of(hit: Hit) -> str | None:
    try:
        image = image_of(hit.node)
    except RNXError:
        return None
    return None if image is None else thumbnail_uri(image, THUMBNAIL)


def escape_text(text: str) -> str:
    """Return foreign text as one clean line, escaped for HTML."""
    return escape(clean(text))
