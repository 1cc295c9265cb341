"""Sparse vectors of BM25: which words of a text count, and how much."""

from __future__ import annotations

import pytest

from llama_index_rnx.text import bm25

ACCENTED = "é"


def test_weights_are_those_of_the_equation() -> None:
    """Two stems in three words: one occurs twice."""
    indices, weights = bm25.document_vector("The bees and a bee in honey")
    norm = bm25.K1 * (1 - bm25.B + bm25.B * 3 / bm25.AVERAGE_WORDS)
    assert indices == [bm25.query_vector(word)[0][0] for word in ("bee", "honey")]
    expected = [2 * (bm25.K1 + 1) / (2 + norm), (bm25.K1 + 1) / (1 + norm)]
    assert weights == pytest.approx(expected, abs=0)


@pytest.mark.parametrize("code", range(128))
def test_ascii_has_the_same_words_beside_other_letters(code: int) -> None:
    """An ASCII text is split in another way than one with a single other letter."""
    text = f"bees{chr(code)}wax {chr(code)}"
    (accented,) = bm25.document_vector(ACCENTED)[0]
    indices, _ = bm25.document_vector(f"{text} {ACCENTED}")
    assert [index for index in indices if index != accented] == bm25.document_vector(text)[0]


@pytest.mark.parametrize("text", ["", "the and of", " ?! "])
def test_a_text_without_words_has_no_vector(text: str) -> None:
    assert bm25.document_vector(text) == ([], [])
    assert bm25.query_vector(text) == ([], [])
