"""Why A stands above B, as a record and as HTML. It computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.results.html import EXPLAINED, escape_text, image_tag, thumbnail_uri
from llama_index_rnx.text import Span, lines

SHADES = 5  # of what speaks for or against a candidate


KEY = '<span class="key for3">speaks for it</span><span class="key against3">against it</span>'


def html_explanation(found: Explanation) -> str:
    """Both candidates, side by side; what speaks for each is green, what speaks against it orange,
    the more the darker.
    """
    sides = found.better, found.worse
    most = max(
        (abs(piece.weight) for side in sides for piece in (*side.words, *side.regions)), default=0.0
    )
    names = "why it is above", "what it has instead"
    shown = "".join(_explained(name, side, most) for name, side in zip(names, sides, strict=True))
    about = f"a lead of {found.lead:+.2f} logits, {found.reads} readings in {found.seconds:.1f} s"
    return (
        f'<section class="why"><p class="eyebrow">Left out, one by one<span>{about}</span>{KEY}</p>'
        f'<div class="sides">{shown}</div></section>'
    )


def _explained(name: str, side: Side, most: float) -> str:
    head = f'<h3 title="{escape_text(side.candidate.id)}">{escape_text(side.candidate.id)} <span>{name}</span></h3>'
    image, picture = side.candidate.image, ""
    if image is not None:
        fields = "".join(_field(piece, most) for piece in side.regions)
        overlay = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{fields}</svg>'
        picture = f'<div class="drawn">{image_tag(thumbnail_uri(image, EXPLAINED), "", "seen")}{overlay}</div>'
    text = _weighed(side.candidate.text, side.words, most)
    return f'<div class="side">{head}{picture}{f"<p>{text}</p>" if text else ""}</div>'


def _weighed(text: str, pieces: Sequence[Attribution], most: float) -> str:
    """The text with its pieces shaded."""
    done, found = 0, list[str]()
    for piece in pieces:
        start, end = piece.span
        inside = f'<span class="{_shade(piece, most)}" title="{piece.weight:+.2f}">{_kept(text[start:end])}</span>'
        found += [_kept(text[done:start]), inside]
        done = end
    return "".join([*found, _kept(text[done:])])


def _kept(text: str) -> str:
    return escape(lines(text))


def _field(piece: Attribution, most: float) -> str:
    left, top, right, bottom = (round(100 * edge, 2) for edge in piece.box or (0, 0, 0, 0))
    place = f'x="{left}" y="{top}" width="{right - left:.2f}" height="{bottom - top:.2f}"'
    return f'<rect class="{_shade(piece, most)}" {place}><title>{piece.weight:+.2f}</title></rect>'


def _shade(piece: Attribution, most: float) -> str:
    """`for3`, `against5`, ...; nothing for what hardly weighs."""
    level = round(SHADES * abs(piece.weight) / most) if most else 0
    return f"{'for' if piece.weight > 0 else 'against'}{level}" if level else "none"


Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of width and height


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """A piece of a text (`span`) or of a picture (`box`), and by how much the candidate's lead
    falls without it, in logits.
    """

    weight: float
    span: Span = (0, 0)
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One candidate, the pieces of its text and the regions of its picture: what speaks for it (>
    0) and against it (< 0).
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
        """What a notebook shows."""
        from llama_index_rnx.results.html import html_cell

        return html_cell(html_explanation(self))

    def __str__(self) -> str:
        """One line: what speaks most for the better one."""
        said = max(self.better.words, key=lambda piece: piece.weight, default=None)
        most = (
            f'; without "{self.better.candidate.text[slice(*said.span)]}" {said.weight:.2f} less'
            if said
            else ""
        )
        names = f"{self.better.candidate.id} above {self.worse.candidate.id}"
        return f"{names}: a lead of {self.lead:+.2f} logits{most} ({self.reads} readings)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows where there is no HTML."""
        printer.text(str(self))
