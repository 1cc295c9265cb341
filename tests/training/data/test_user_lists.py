"""Reading a user's own lists: what is learned from, and a word about everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import RED, write_image

from llama_index_rnx.errors import RNXError
from training.data import read_user_lists

GOOD = {
    "qid": "a",
    "query": "late frost",
    "candidates": [
        {"docid": "1", "text": "frost", "grade": 2},
        {"docid": "2", "text": "sun", "grade": 0},
    ],
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    )
    return path


def with_(qid: str, *candidates: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "qid": qid,
        "query": "q",
        "candidates": [{"docid": str(n), **one} for n, one in enumerate(candidates)],
        **fields,
    }


def test_a_list_is_read_with_texts_pictures_grades_and_scores(tmp_path: Path) -> None:
    write_image(tmp_path / "red.png", RED)
    row = with_(
        "a", {"text": "x", "grade": 3, "score": 0.5}, {"image": "red.png", "grade": 0, "score": 0.7}
    )
    own = read_user_lists(write(tmp_path / "my.jsonl", row))
    (of,) = own.lists
    assert (of.source, of.qid, of.texts, of.grades, of.first) == (
        "my",
        "a",
        ("x", ""),
        (3.0, 0.0),
        (0.5, 0.7),
    )
    assert of.images == (None, tmp_path / "red.png")
    assert (
        str(own)
        == f"{tmp_path / 'my.jsonl'}: 1 of 1 lists read; 2 candidates, 1 relevant, 1 with an image"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{nonsense", "lists are not as `rnx rerank` reads them"),
        ("[1, 2]", "lists are not as `rnx rerank` reads them"),
        ({"qid": "b", "query": "q"}, '"candidates" must be a list'),
        (GOOD, "a qid that stood before"),
        (with_("b", {"text": "x", "grade": 1}), "fewer than two candidates"),
        (with_("b", {"text": "x", "grade": 0}, {"text": "y", "grade": 0}), "no relevant candidate"),
        (
            with_("b", {"text": "x", "grade": 1}, {"text": "y", "grade": 1}),
            "the same grade everywhere",
        ),
        (
            with_("b", {"text": "x", "grade": 1}, {"text": "y", "grade": 0}, image="q.png"),
            "asked by an image",
        ),
    ],
)
def test_a_list_of_no_use_is_dropped_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    own = read_user_lists(write(tmp_path / "my.jsonl", GOOD, "", row))
    assert [of.qid for of in own.lists] == ["a"]
    assert said in str(own)
    assert "(line 3" in str(own)
    assert "1 of 2 lists read" in str(own)


def test_candidates_without_a_grade_or_with_a_strange_one_go_and_the_others_stay(
    tmp_path: Path,
) -> None:
    texts = [{"text": "no"}, {"text": "a", "grade": 1}, {"text": "b", "grade": 0}]
    row = with_("b", *texts, {"text": "c", "grade": "high"}, {"text": "d", "grade": -1})
    own = read_user_lists(write(tmp_path / "my.jsonl", row))
    assert own.lists[0].texts == ("a", "b")
    assert "1 candidates have no grade (line 1; first: '0')" in str(own)
    assert (
        "2 candidates have a grade that is not a number from 0 to 10 (line 1; first: 'high')"
        in str(own)
    )


def test_an_unreadable_picture_costs_a_candidate_only_what_it_has_no_text_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    row = with_(
        "b",
        {"image": "broken.png", "grade": 1},
        {"image": "gone.png", "text": "b", "grade": 1},
        {"text": "c", "grade": 0},
    )
    own = read_user_lists(write(tmp_path / "my.jsonl", row))
    assert own.lists[0].docids == ("1", "2")
    assert own.lists[0].images == ()
    assert "dropped: 2 images cannot be read" in str(own)
    assert "broken.png" in str(own)


def test_many_lines_are_named_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    own = read_user_lists(write(tmp_path / "my.jsonl", GOOD, *["nonsense"] * 12))
    assert (
        "12 lists are not as `rnx rerank` reads them (line 2, 3, 4, 5, 6, 7, 8, 9, ...; first:"
        in str(own)
    )


def test_nothing_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(RNXError, match="no relevant candidate") as error:
        read_user_lists(
            write(
                tmp_path / "my.jsonl",
                with_("b", {"text": "x", "grade": 0}, {"text": "y", "grade": 0}),
            )
        )
    assert "nothing is left to learn from" in str(error.value)
    with pytest.raises(RNXError, match="does not exist"):
        read_user_lists(tmp_path / "none.jsonl")
