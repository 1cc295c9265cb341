"""Why A stands above B, as a record and as HTML. It computes no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.results.html import escape_text, html_cell
from llama_index_rnx.results.thumbnails import image_tag, thumbnail_uri
from llama_index_rnx.text import Span, lines

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of width and height

SHADES = 5  # of what speaks for or against a candidate
IMAGE_SIDE = 900  # longest side of an image in pixels: twice what is shown, for dense screens
KEY = '<span class="key for3">speaks for it</span><span class="key against3">against it</span>'


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """A piece of a text (`span`) or of an image (`box`), and by how many logits the candidate's
    lead falls without it.
    """

    weight: float
    span: Span = (0, 0)
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One candidate with its score, the pieces of its text and the regions of its image: what
    speaks for it has a weight above 0, what speaks against it one below.
    """

    candidate: Candidate
    score: float
    words: Sequence[Attribution] = ()
    regions: Sequence[Attribution] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why `better` leads `worse` by `lead` logits under `query`; `reads` lists were scored for it
    in `seconds`.
    """

    query: Query
    better: Side
    worse: Side
    lead: float
    reads: int
    seconds: float = field(compare=False)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return html_cell(html_explanation(self))

    def __str__(self) -> str:
        """Return one line: what speaks most for the better one."""
        candidate = self.better.candidate
        heaviest = max(self.better.words, key=lambda piece: piece.weight, default=None)
        reason = ""
        if heaviest is not None:
            words = candidate.text[slice(*heaviest.span)]
            reason = f'; without "{words}" {heaviest.weight:.2f} less'
        names = f"{candidate.id} above {self.worse.candidate.id}"
        return f"{names}: a lead of {self.lead:+.2f} logits{reason} ({self.reads} readings)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print what IPython shows where there is no HTML."""
        printer.text(str(self))


def html_explanation(explanation: Explanation) -> str:
    """Return both candidates, side by side.

    What speaks for a candidate is green, what speaks against it is orange; the more it weighs, the
    darker it is.
    """
    better = explanation.better
    worse = explanation.worse
    pieces = [*better.words, *better.regions, *worse.words, *worse.regions]
    greatest = max((abs(piece.weight) for piece in pieces), default=0.0)

    sides = _side(better, "why it is above", greatest)
    sides += _side(worse, "what it has instead", greatest)
    about = (
        f"a lead of {explanation.lead:+.2f} logits, "
        f"{explanation.reads} readings in {explanation.seconds:.1f} s"
    )
    return (
        f'<section class="why"><p class="eyebrow">Left out, one by one<span>{about}</span>{KEY}</p>'
        f'<div class="sides">{sides}</div></section>'
    )


def _side(side: Side, heading: str, greatest: float) -> str:
    name = escape_text(side.candidate.id)
    head = f'<h3 title="{name}">{name} <span>{heading}</span></h3>'
    image = _shaded_image(side, greatest)
    text = _shaded_text(side.candidate.text, side.words, greatest)
    paragraph = f"<p>{text}</p>" if text else ""
    return f'<div class="side">{head}{image}{paragraph}</div>'


def _shaded_image(side: Side, greatest: float) -> str:
    """Return the image with its regions shaded, or nothing where there is none."""
    image = side.candidate.image
    if image is None:
        return ""
    fields = "".join(_field(region, greatest) for region in side.regions)
    overlay = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{fields}</svg>'
    tag = image_tag(thumbnail_uri(image, IMAGE_SIDE), "", "seen")
    return f'<div class="drawn">{tag}{overlay}</div>'


def _shaded_text(text: str, pieces: Sequence[Attribution], greatest: float) -> str:
    """Return the text with its pieces shaded."""
    html: list[str] = []
    done = 0
    for piece in pieces:
        start, end = piece.span
        shade = _shade(piece, greatest)
        words = _escape_lines(text[start:end])
        html.append(_escape_lines(text[done:start]))
        html.append(f'<span class="{shade}" title="{piece.weight:+.2f}">{words}</span>')
        done = end
    return "".join([*html, _escape_lines(text[done:])])


def _escape_lines(text: str) -> str:
    return escape(lines(text))


def _field(region: Attribution, greatest: float) -> str:
    x0, y0, x1, y1 = (round(100 * edge, 2) for edge in region.box or (0, 0, 0, 0))
    corner = f'x="{x0}" y="{y0}"'
    size = f'width="{x1 - x0:.2f}" height="{y1 - y0:.2f}"'
    title = f"<title>{region.weight:+.2f}</title>"
    return f'<rect class="{_shade(region, greatest)}" {corner} {size}>{title}</rect>'


def _shade(piece: Attribution, greatest: float) -> str:
    """Return the class of a piece: `for3`, `against5`, ...; `none` for what hardly weighs."""
    level = round(SHADES * abs(piece.weight) / greatest) if greatest else 0
    if not level:
        return "none"
    return f"{'for' if piece.weight > 0 else 'against'}{level}"
