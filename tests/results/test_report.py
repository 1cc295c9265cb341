"""What people see: nothing from the data gets out of its place, a broken picture costs nothing,
movements are right.
"""

from __future__ import annotations

import io
import re

import pytest
from fakes import image_base64
from fakes.results import Page, hit, section
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import ImageNode, TextNode
from PIL import Image
from rich.console import Console

from llama_index_rnx.candidates import base64_source, bytes_source
from llama_index_rnx.results import (
    Hit,
    excerpt_of,
    html_page,
    movement,
    print_table,
    thumbnail,
)
from llama_index_rnx.text import clean, query_terms
from llama_index_rnx.text.snippets import _richness, excerpt

NASTY = (
    "<script>alert(1)</script> [red]not red[/red] \x1b[31mred\x1b[0m \x1b]0;title\x07 "
    '"quoted" \u202eback \x00 \ud800'
)


def printed(
    hits: list[Hit], title: str = "found", query: str | None = None, **options: object
) -> str:
    stream = io.StringIO()
    print_table(hits, Console(file=stream, width=80, **options), title=title, query=query)  # type: ignore[arg-type]
    return stream.getvalue()


def test_a_table_shows_texts_as_they_are() -> None:
    out = printed([hit(1, text=NASTY, source=f"a/{NASTY}.md")], title=NASTY)
    assert "[red]not red[/red]" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\x00" not in out


def test_a_table_on_a_terminal_has_only_its_own_escapes() -> None:
    out = printed([hit(1, text=NASTY)], query="red", force_terminal=True, color_system="standard")
    assert "\x1b]0" not in out
    assert "\x1b[31m" not in out  # the text's red
    assert "\x1b[1;4;36mred\x1b[0m" in out  # the query's word, set off


def test_a_table_fits_into_80_columns_and_has_two_lines_of_text() -> None:
    out = printed(
        [
            hit(
                i,
                100 + i,
                text="many words of text " * 40,
                source="folder/" * 30 + "name.pdf",
                page=7,
            )
            for i in (1, 2)
        ]
    )
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80
    assert out.count("name.pdf#7") == 2
    assert out.count("many words") <= 2 * 2 * 5


def test_arrows_show_where_a_hit_came_from() -> None:
    out = printed([hit(1, 7, text="up"), hit(2, 1, text="down"), hit(3, 3, text="same")])
    assert [part in out for part in ("↑ 7", "↓ 1", "= 3")] == [True] * 3
    assert [movement(one) for one in (hit(1, 7), hit(2, 1), hit(3, 3))] == ["up", "down", "same"]


def test_a_table_prints_in_a_terminal_without_unicode() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_table([hit(1, 7, text="Käse 日本")], Console(file=stream, width=80), title="für")
    stream.flush()
    assert b"^ 7" in raw.getvalue()
    assert b"K?se" in raw.getvalue()


def test_an_empty_list_is_said_to_be_empty() -> None:
    assert "nothing was found" in printed([])
    assert "Nothing was found" in html_page([section([], [])], title="t")
    assert "no query" in html_page([], title="t")


def test_a_page_escapes_everything() -> None:
    nasty = hit(1, 2, text=NASTY, source=f'"><script>{NASTY}', id='"><b>', kind='<i>"')
    page = Page(text := html_page([section([nasty], [hit(1), nasty], query=NASTY)], title=NASTY))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.words
    assert page.all("i") == []
    text.encode("utf-8")
    assert "\x1b" not in text


def test_a_page_needs_no_network() -> None:
    picture = ImageNode(id_="p", image=image_base64())
    text = html_page(
        [
            section(
                [hit(1, node=picture)],
                [hit(1, 2, node=picture)],
                image=base64_source(image_base64(), "q"),
            )
        ],
        title="t",
    )
    page = Page(text)
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in page.all("img"))  # type: ignore[union-attr]
    assert len(page.all("img")) == 3
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert page.all("script") == page.all("link") == []


@pytest.mark.parametrize("data", ["%%%", image_base64()[:40], "", "aGVsbG8="])
def test_a_broken_picture_shows_a_placeholder(data: str) -> None:
    node = ImageNode(id_="p", image=data or None, image_path=None if data else "/nowhere/x.png")
    text = html_page(
        [section([hit(1)], [hit(1, node=node)], image=bytes_source(b"no", "q"))], title="t"
    )
    assert text.count("no image") == 2
    assert "<img" not in text


def test_a_picture_behind_a_url_is_not_fetched() -> None:
    node = ImageNode(id_="p", image_url="http://127.0.0.1:1/x.png")
    assert (
        html_page([section([hit(1)], [hit(1, node=node)])], title="t").count('"thumb broken"') == 1
    )


def test_a_page_shows_both_directions() -> None:
    one, two, far = (TextNode(id_=name, text=name) for name in ("one", "two", "far"))
    before = [hit(1, node=one), hit(2, node=two)]
    after = [hit(1, 2, node=two), hit(2, 9, node=far)]
    text = html_page([section(before, after)], title="t")
    assert "→ 1" in text  # two goes to the first place
    assert "&ndash;" in text  # one is gone
    assert "↑ 2" in text
    assert "↑ 9" in text
    paths = [attrs["class"] for attrs in Page(text).all("path")]
    assert sorted(str(name) for name in paths) == ["gone", "up", "up far"]


def test_without_reranking_there_is_one_list() -> None:
    hits = [hit(1, text="a"), hit(2, text="b")]
    text = html_page([section(hits, list(hits))], title="t")
    assert "Reranked" not in text
    assert 'class="links"' not in text
    assert "= 1" not in text


def test_a_title_that_is_the_query_stands_once() -> None:
    hits = [hit(1, text="a")]
    # The text stands twice: as the title and as the heading.
    assert (
        html_page([section(hits, [], query="the query")], title="the query").count(">the query<")
        == 2
    )
    assert (
        html_page([section(hits, [], query="the query")], title="Search").count("<h1>Search</h1>")
        == 1
    )


def test_query_words_are_marked_by_stem_and_asking_words_are_not() -> None:
    text = html_page(
        [section([hit(1, text="How pumps do it: pumping.")], [], query="How do I pump?")], title="t"
    )
    assert re.findall(r"<mark>(.*?)</mark>", text) == ["pumps", "pumping"]


@pytest.mark.parametrize("scores", [[0.0, 0.0], [-3.0, -5.0], [float(2**40), 1.0]])
def test_bars_of_any_scores_stay_in_their_place(scores: list[float]) -> None:
    hits = [hit(rank, score=score) for rank, score in enumerate(scores, start=1)]
    widths = re.findall(r'rect width="(\d+)%"', html_page([section(hits, [])], title="t"))
    assert all(0 <= int(width) <= 100 for width in widths)
    assert len(widths) == 2


def test_an_excerpt_is_where_the_words_are() -> None:
    text = "filler " * 100 + "the secret pump is here. " + "filler " * 100
    found = excerpt(text, query_terms("secret pump"), 80)
    assert "secret pump" in found
    assert found.startswith("… ")
    assert found.endswith(" …")
    assert excerpt(text, query_terms(""), 80).startswith("filler")
    assert len(excerpt("x" * 500, query_terms("x"), 80)) <= 84
    assert excerpt("short", query_terms("x"), 80) == "short"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# Oil pressure\nIt is low.", "Oil pressure. It is low."),
        ("###### Deep \n\nText", "Deep. Text"),
        ("# Why?\nSo.", "Why? So."),
        ("# Parts:\n- one", "Parts. - one"),
        ("# Done. \nText", "Done. Text"),
        ("Text\n#\n# \nmore", "Text # more"),
        ("####### seven", "####### seven"),
        ("#hashtag\n # indented", "#hashtag # indented"),
    ],
)
def test_headings_are_sentences_of_their_own(text: str, shown: str) -> None:
    assert "".join(piece for piece, _ in excerpt_of(hit(1, text=text), "")) == shown


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), max_size=12), st.integers(1, 20))
def test_richness_counts_the_terms_from_each_hit_on(
    pairs: list[tuple[int, int]], width: int
) -> None:
    hits = sorted(pairs)
    expected = [
        len({term for there, term in hits[index:] if there < position + width})
        for index, (position, _) in enumerate(hits)
    ]
    assert _richness(hits, width) == expected


def test_clean_leaves_one_line_of_plain_text() -> None:
    assert clean("a\n\tb\x1b[1;31mc\x1b[0m\x1b]8;;http://x\x1b\\d\x9b31m") == "a bcd 31m"
    assert clean("\ud800") == "?"


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    data = thumbnail(base64_source(image_base64(size=(400, 100)), "wide"), 200)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (200, 50)
