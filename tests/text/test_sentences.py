"""Where sentences begin and end, in prose and on pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_rnx.text import grouped, sentences
from llama_index_rnx.text.sentence_splitter import MAX_WORDS


def pieces(text: str) -> list[str]:
    return [text[slice(*span)] for span in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.50 euros, e.g. at noon. Much", ["It costs 3.50 euros, e.g. at noon.", "Much"]),
        ('He said "Go." She went.', ['He said "Go."', "She went."]),
        ("Title\n\nText here", ["Title", "Text here"]),
        ("Do this:\n- oil it\n- turn it\n2. go", ["Do this:", "- oil it", "- turn it", "2. go"]),
        ("a line that is broken\nin its middle", ["a line that is broken\nin its middle"]),
        (
            "Heading\nThe first line of a paragraph that is much longer",
            ["Heading", "The first line of a paragraph that is much longer"],
        ),
        ("   \n ", []),
        ("", []),
    ],
)
def test_where_a_sentence_ends(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_a_table_is_cut_into_pieces() -> None:
    found = pieces(" ".join(map(str, range(2 * MAX_WORDS + 1))))
    assert len(found) == 3
    assert max(len(piece.split()) for piece in found) <= MAX_WORDS


@given(st.text(alphabet="ab .!?\n-A1(", max_size=80))
def test_no_word_is_lost_and_none_is_doubled(text: str) -> None:
    assert "".join("".join(pieces(text)).split()) == "".join(text.split())


def test_neighbours_are_joined() -> None:
    assert grouped([(0, 1), (2, 3), (4, 5)], 2) == [(0, 3), (4, 5)]
    assert grouped([], 2) == []
