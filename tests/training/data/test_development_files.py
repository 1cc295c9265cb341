"""Development datasets on folders of a few rows: what is read, and which files are noted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llama_index_rnx.errors import SettingsError
from training.data import (
    DataFolder,
    distilled,
    flickr,
    insuranceqa,
    mediqa,
    openstax,
    rag24,
    read_jsonl,
    scifact_claims,
    trec,
    write_jsonl,
)


def write(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def candidates(*scores: float) -> list[dict[str, Any]]:
    return [{"docid": f"d{s:g}", "text": f"text {s:g}", "score": s} for s in scores]


def test_rows_come_back_with_empty_lines_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": "ä"}, {"b": 1}])
    path.write_text(path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    assert list(read_jsonl(path)) == [{"a": "ä"}, {"b": 1}]
    write(tmp_path, "rows.jsonl.gz", {"c": 2})
    assert list(read_jsonl(tmp_path / "rows.jsonl.gz")) == [{"c": 2}]


def test_the_folder_is_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNX_DATA", str(tmp_path))
    assert DataFolder.from_environment().path == tmp_path
    monkeypatch.setenv("RNX_DATA", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match="set it to the folder with the development data"):
        DataFolder.from_environment()
    monkeypatch.delenv("RNX_DATA")
    with pytest.raises(SettingsError, match="RNX_DATA is None"):
        DataFolder.from_environment()


def test_a_folder_notes_the_files_that_are_read_through_it_alone(tmp_path: Path) -> None:
    write(tmp_path, "rag24/dev.jsonl.gz", {"qid": "1", "query": "q", "cands": []})
    write(tmp_path, "mediqa/dev.jsonl.gz", {"qid": "1", "question": "q", "answers": []})
    folder = DataFolder(tmp_path)
    rag24(folder, "dev")
    mediqa(DataFolder(tmp_path), "dev")
    assert folder.files_read == [tmp_path / "rag24" / "dev.jsonl.gz"]


def test_trec_pools_runs_and_leaves_out_queries_without_a_relevant_text(tmp_path: Path) -> None:
    rows = [{"qid": q, "query": f"query {q}", "candidates": candidates(3, 2)} for q in "12"]
    write(tmp_path, "trec/dl.bm25.jsonl.gz", *rows)
    write(tmp_path, "trec/dl.splade.jsonl.gz", {**rows[0], "candidates": candidates(2, 1)})
    (tmp_path / "trec" / "dl.qrels").write_text("1 0 d2 2\n1 0 d9 1\n1 0 d3 -1\n2 0 d3 0\n")
    (pooled,) = trec(DataFolder(tmp_path), "dl", ["bm25", "splade"])
    assert pooled.docids == ("d3", "d2", "d1")
    assert pooled.first == (3.0, 2.0, 1.0)
    assert pooled.grades == (0.0, 2.0, 0.0)
    assert pooled.judged == {"d2": 2.0, "d9": 1.0, "d3": -1.0}


def test_distilled_grades_fall_with_the_score_to_nothing(tmp_path: Path) -> None:
    row = {"qid": "1", "query": "q"}
    write(tmp_path, "trec/dl.splade.jsonl.gz", {**row, "candidates": candidates(8, 6, 4)})
    write(tmp_path, "trec/dl.bm25.jsonl.gz", {**row, "candidates": candidates(6, 1)})
    (graded,) = distilled(DataFolder(tmp_path), "dl")
    assert graded.docids == ("d8", "d6", "d4", "d1")
    assert graded.grades == pytest.approx((3.0, 1.5, 0.0, 0.0))


def test_rag24_and_mediqa_keep_the_order_of_their_first_stage(tmp_path: Path) -> None:
    segments = [
        {"id": str(n), "text": "t", "umbrela": grade} for n, grade in enumerate((1, None, 3))
    ]
    write(tmp_path, "rag24/dev.jsonl.gz", {"qid": "1", "query": "q", "cands": segments})
    (topic,) = rag24(DataFolder(tmp_path), "dev")
    assert (topic.docids, topic.grades, topic.first) == (("0", "2"), (1.0, 3.0), (0.0, -1.0))

    answers = [
        {"text": "a", "grade": 4, "system_rank": 2},
        {"text": "b", "grade": 1, "system_rank": 1},
    ]
    write(tmp_path, "mediqa/dev.jsonl.gz", {"qid": "7", "question": "q", "answers": answers})
    (graded,) = mediqa(DataFolder(tmp_path), "dev")
    assert graded.docids == ("7-0", "7-1")
    assert (graded.grades, graded.first) == ((3.0, 0.0), (-2.0, -1.0))


def test_insuranceqa_has_the_right_answers_first_and_the_same_wrong_ones_each_time(
    tmp_path: Path,
) -> None:
    answers = [{"id": str(n), "text": f"answer {n}"} for n in range(9)]
    write(tmp_path, "insuranceqa/answers.jsonl.gz", *answers)
    row = {"qid": "1", "query": "q", "pos": ["3"], "neg200": [str(n) for n in range(9)]}
    write(tmp_path, "insuranceqa/train.jsonl.gz", row)
    (graded,) = insuranceqa(DataFolder(tmp_path), "train", limit=1, negatives=4)
    assert graded.docids[0] == "3"
    assert graded.grades == (2.0, 0.0, 0.0, 0.0, 0.0)
    assert "3" not in graded.docids[1:]
    assert insuranceqa(DataFolder(tmp_path), "train", limit=1, negatives=4) == [graded]


def test_no_claim_of_scifact_is_on_both_sides(tmp_path: Path) -> None:
    rows = [{"id": str(n), "claim": "c", "cited_doc_ids": f"[{n} 7]"} for n in range(310)]
    write(tmp_path, "scifact/claims_train.jsonl.gz", *rows)
    training, held_out = scifact_claims(DataFolder(tmp_path))
    assert (len(training), len(held_out)) == (10, 300)
    assert not {row["id"] for row in training} & {row["id"] for row in held_out}
    assert training[0]["docs"] == {training[0]["id"]: 2.0, "7": 2.0}


def test_images_come_with_queries_and_texts(tmp_path: Path) -> None:
    write(tmp_path, "flickr8k/dev.jsonl.gz", {"image": "a.jpg", "captions": list("vwxyz")})
    (image,) = flickr(DataFolder(tmp_path), "dev")
    assert (image.queries, image.about, image.caption) == (("v", "w"), ("x", "y", "z"), "z")
    assert image.captions == ("v", "w", "z", "x", "y")
    assert image.path == tmp_path / "flickr8k" / "a.jpg"


def test_every_tenth_module_of_figures_is_held_out(tmp_path: Path) -> None:
    figures = [
        {
            "image": f"{n}.png",
            "module": f"m{n:02}",
            "title": f"figure {n}",
            "alt": None,
            "caption": None,
        }
        for n in range(12)
    ]
    paragraphs = [{"image": f"{n}.png", "text": f"see figure {n}"} for n in range(11)]
    write(tmp_path, "openstax/figures.jsonl.gz", *figures)
    write(tmp_path, "openstax/paragraph_figure.jsonl.gz", *paragraphs)
    folder = DataFolder(tmp_path)
    assert [image.queries for image in openstax(folder, True)] == [("figure 0",), ("figure 10",)]
    assert len(openstax(folder, False)) == 9, "figure 11 has no paragraph"
    assert len(openstax(folder, False, limit=4)) == 4
