"""From an index to lists: documents once, pictures beside them, grades where the questions name
their answers.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from fakes import RED, image_bytes, write_image
from llama_index.core.schema import BaseNode, ImageNode, NodeWithScore, TextNode

from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import Hit, hits_of
from training.data import build_list_row, read_questions, read_user_lists, summarize
from training.data.from_index import answer_grades


def hits(*nodes: BaseNode) -> list[Hit]:
    found = [NodeWithScore(node=node, score=1.0 / rank) for rank, node in enumerate(nodes, start=1)]
    return hits_of(found, found)


def passage(source: str, text: str) -> TextNode:
    return TextNode(text=text, metadata={"source": source}, excluded_embed_metadata_keys=["source"])


def test_a_list_is_what_training_reads(tmp_path: Path) -> None:
    picture = ImageNode(
        image_path=str(write_image(tmp_path / "red.png", RED)), metadata={"source": "red.png"}
    )
    found = hits(
        passage("a.md", "first"), passage("b.md", "second"), passage("a.md", "again"), picture
    )
    row = build_list_row(
        {"qid": "1", "query": "what", "answers": ["b.md"]}, found, tmp_path / "lists.pictures"
    )
    assert [candidate["docid"] for candidate in row["candidates"]] == ["a.md", "b.md", "red.png"]
    assert row["candidates"][0]["text"] == "first"
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps(row))
    (of,) = read_user_lists(path).lists
    assert of.grades == (0.0, 2.0, 0.0)
    assert of.first == (1.0, 0.5, 0.25)
    assert of.images == (None, None, tmp_path / "red.png")


def test_pictures_that_are_no_files_are_written_beside_the_lists(tmp_path: Path) -> None:
    node = ImageNode(image=base64.b64encode(image_bytes(RED, (8, 8), "PNG")).decode())
    row = build_list_row(
        {"qid": "1", "query": "what"}, hits(node, passage("a.md", "x")), tmp_path / "lists.pictures"
    )
    assert "grade" not in row["candidates"][0]
    assert row["candidates"][0]["image"].startswith("lists.pictures/")
    assert (tmp_path / row["candidates"][0]["image"]).is_file()


def test_answers_may_have_grades_and_missed_ones_are_named() -> None:
    questions = [{"qid": "1", "query": "q", "answers": {"a.md": 3, "c.md": 1}}]
    assert answer_grades(questions[0]) == {"a.md": 3, "c.md": 1}
    rows = [build_list_row(questions[0], hits(passage("a.md", "x")), Path("none"))]
    assert (
        summarize(rows, questions)
        == "1 lists; 1 of 2 answers were found by the retriever; not found: 1: c.md (raise -k?)"
    )
    with pytest.raises(RNXError, match="give a list of documents"):
        answer_grades({"qid": "1", "query": "q", "answers": "a.md"})


@pytest.mark.parametrize("text", ["{", '["a"]', '{"qid": "1"}'])
def test_a_wrong_question_names_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"qid": 1, "query": "good"}\n' + text)
    with pytest.raises(RNXError, match="line 2"):
        read_questions(path)
