"""Soft grades from the scores of teachers: cases that can be computed by hand, and the command on
small files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes import FakeRanker

from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker
from training.data import GradedList
from training.teachers import EmbedderTeacher, load_teacher
from training.teachers.__main__ import main
from training.teachers.grading import (
    blend,
    ensemble,
    grade_list,
    grade_rows,
    soft_grades,
    standardize,
    teacher_scores,
)
from training.teachers.models import CrossEncoderTeacher


def test_standardised_scores_forget_their_scale() -> None:
    scores = torch.tensor([1.0, 2.0, 6.0])
    assert torch.allclose(standardize(scores), standardize(scores * 100 - 7), atol=1e-5)
    assert standardize(torch.tensor([4.0, 4.0])).tolist() == [0.0, 0.0]


def test_an_ensemble_is_the_weighted_mean_of_what_each_says() -> None:
    one, other = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-10.0, 0.0, 10.0])
    assert torch.allclose(ensemble(torch.stack([one, other])), torch.zeros(3), atol=1e-6)
    weighted = ensemble(torch.stack([one, other]), weights=[3.0, 1.0])
    assert torch.allclose(weighted, standardize(one) / 2, atol=1e-6)


def test_soft_grades_fall_from_three_at_the_best_to_nothing_at_the_mean() -> None:
    assert soft_grades(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0])).tolist() == pytest.approx(
        [3.0, 1.5, 0.0, 0.0, 0.0]
    )
    assert soft_grades(torch.tensor([1.0, 1.0])).tolist() == [0.0, 0.0]


def test_a_blend_leaves_judged_order_and_tells_the_unjudged_apart() -> None:
    grades = blend(torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 1.0]), share=0.25)
    assert grades.tolist() == pytest.approx([1.5, 0.75, 0.25])


def test_a_list_is_graded_by_its_teachers() -> None:
    of = _list("red bee", ("a red bee", "a red cat", "a green cat"))
    teachers: list[Ranker] = [FakeRanker("one"), FakeRanker("other", window=2)]
    said = teacher_scores(teachers, of, MemoryStore())
    assert said.shape == (2, 3)
    assert grade_list(of, said).grades == pytest.approx((3.0, 0.0, 0.0))
    assert grade_list(of, said, share=0.0).grades == of.grades


def test_rows_come_back_with_grades_and_all_they_held(tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    row = {
        "qid": "1",
        "query": "red bee",
        "note": "kept",
        "candidates": [{"docid": "a", "text": "cat"}, {"docid": "b", "text": "red bee"}],
    }
    path.write_text(json.dumps(row) + "\n")
    (found,) = grade_rows(path, [FakeRanker()], MemoryStore())
    assert found["note"] == "kept"
    assert [candidate["grade"] for candidate in found["candidates"]] == [0.0, 3.0]


def test_a_grade_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lists.jsonl"
    candidate = {"docid": "a", "text": "cat", "grade": "high"}
    path.write_text(json.dumps({"qid": "7", "query": "bee", "candidates": [candidate]}) + "\n")
    with pytest.raises(RNXError, match=r"'7'.*'high'"):
        grade_rows(path, [FakeRanker()], MemoryStore(), share=0.5)


def test_the_command_takes_the_embedded_ranker_as_teacher(tmp_path: Path) -> None:
    lists, graded_to = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = (
        "Bees make honey in their hives.",
        "The parliament met on Monday.",
        "Honey is sweet and made of nectar.",
    )
    candidates = [{"docid": str(place), "text": text} for place, text in enumerate(texts)]
    lists.write_text(
        json.dumps({"qid": "1", "query": "how is honey made", "candidates": candidates}) + "\n"
    )
    main(["--lists", str(lists), "--teacher", "rnx-mini", "--to", str(graded_to)])
    grades = [candidate["grade"] for candidate in json.loads(graded_to.read_text())["candidates"]]
    assert max(grades) == 3.0
    assert grades[1] == 0.0


def test_models_of_sentence_transformers_are_rankers(tmp_path: Path) -> None:
    embedder, cross = _tiny_models(tmp_path)
    of = _list("red bee", ("a red bee", "a green cat", "bee"))
    teachers = [load_teacher(str(embedder)), load_teacher(str(cross))]
    assert isinstance(teachers[0], EmbedderTeacher)
    assert isinstance(teachers[1], CrossEncoderTeacher)
    said = teacher_scores(teachers, of, MemoryStore())  # [2, 3]
    swapped = teacher_scores(
        teachers, _list("red bee", ("bee", "a green cat", "a red bee")), MemoryStore()
    )
    assert torch.allclose(said, swapped.flip(1), atol=1e-2)
    assert said[0].argmax() in (0, 2), "random weights, but the words of the query are in these"


def test_a_text_teacher_refuses_a_picture_without_text() -> None:
    teacher = EmbedderTeacher.__new__(EmbedderTeacher)
    teacher.name, teacher.fingerprint = "words", "words"
    with pytest.raises(RNXError, match="no text"):
        teacher_scores([teacher], _list("red", ("",)), MemoryStore())


def _list(query: str, texts: tuple[str, ...]) -> GradedList:
    docids = tuple(map(str, range(len(texts))))
    return GradedList(
        source="made", qid="1", query=query, docids=docids, texts=texts, grades=(1.0,) * len(texts)
    )


def _tiny_models(folder: Path) -> tuple[Path, Path]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    vocabulary = folder / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "bee", "cat"])
    )
    tokenizer = BertTokenizerFast(vocab_file=str(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
    )
    for name, model in (
        ("bert", BertModel(config)),
        ("cross", BertForSequenceClassification(config)),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    words = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[words, Pooling(16)], device="cpu").save(str(folder / "embedder"))
    return folder / "embedder", folder / "cross"
