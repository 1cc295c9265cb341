"""Hard negatives on points of the plane, where the nearest are plain to see."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.data import GradedList
from training.mine_negatives import main
from training.teachers import Question, Retriever, mine, remine
from training.teachers.negatives import drop_false_negatives, keep_hardest, nearest

CORPUS = {"east": "1 0", "north": "0 1", "northeast": "1 1", "west": "-1 0"}


def plane(texts: Sequence[str]) -> Tensor:
    """ "x y" -> the unit vector that points there."""
    return normalize(
        torch.tensor([[float(number) for number in text.split()] for text in texts]), dim=-1
    )


RETRIEVER = Retriever(queries=plane, texts=plane)


def test_the_nearest_come_first_whatever_the_block() -> None:
    queries = plane(["1 0"] * 300 + ["0 1"])
    places, cosines = nearest(queries, plane(list(CORPUS.values())), depth=2)
    assert places.shape == (301, 2)
    assert places[0].tolist() == [0, 2]
    assert places[300].tolist() == [1, 2]
    assert cosines[0].tolist() == pytest.approx([1.0, 0.5**0.5])


def test_a_mined_list_holds_the_right_texts_that_the_retriever_missed() -> None:
    question = Question(qid="1", query="1 0", grades={"west": 2.0, "gone": 1.0})
    (of,) = mine("made", [question], CORPUS, RETRIEVER, depth=2)
    assert of.docids == ("west", "east", "northeast")
    assert of.grades == (2.0, 0.0, 0.0)
    assert of.first == pytest.approx((0.0, 1.0, 0.5**0.5))
    (bare,) = mine("made", [question], CORPUS, RETRIEVER, depth=2, add=False)
    assert bare.docids == ("east", "northeast")
    assert bare.judged == question.grades


def test_the_hardest_follow_the_ranker_as_it_is_now() -> None:
    of = _list(grades=(0.0, 2.0, 0.0, 0.0))
    assert keep_hardest(of, torch.tensor([0.1, 0.2, 0.9, 0.5]), 2).docids == ("b", "c", "d")
    assert keep_hardest(of, torch.tensor([0.9, 0.2, 0.1, 0.5]), 2).docids == ("b", "a", "d")
    assert keep_hardest(of, torch.tensor([0.5, 0.2, 0.5, 0.5]), 2).docids == ("b", "a", "c"), (
        "ties keep their order"
    )


def test_the_guard_drops_what_is_as_good_as_the_right_one() -> None:
    of = _list(grades=(0.0, 2.0, 0.0, 0.0))
    teacher = torch.tensor([0.9, 0.8, 0.7, 0.1])
    assert drop_false_negatives(of, teacher).docids == ("b", "c", "d")
    assert drop_false_negatives(of, teacher, margin=0.2).docids == ("b", "d")


def test_the_guard_keeps_what_somebody_judged_wrong_and_lists_without_a_right_one() -> None:
    of = _list(grades=(0.0, 2.0, 0.0, 0.0), judged={"a": 0.0, "b": 2.0})
    teacher = torch.tensor([0.9, 0.8, 0.9, 0.1])
    assert drop_false_negatives(of, teacher).docids == ("a", "b", "d")
    assert drop_false_negatives(_list(grades=(0.0,) * 4), teacher).docids == ("a", "b", "c", "d")


def test_mining_anew_guards_first_and_then_takes_the_keep_hardest() -> None:
    pool = _list(grades=(0.0, 2.0, 0.0, 0.0))
    ranker, guard = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([9.0, 5.0, 1.0, 1.0])
    (unguarded,) = remine([pool], lambda _: ranker, 1)
    assert unguarded.docids == ("b", "a")
    (safe,) = remine([pool], lambda of: ranker[_places(of)], 1, lambda of: guard[_places(of)])
    assert safe.docids == ("b", "c")


def test_the_command_mines_with_the_embedded_retriever(tmp_path: Path) -> None:
    texts = {
        "a": "Bees make honey from nectar.",
        "b": "Honey cake is baked with flour.",
        "c": "The moon orbits the earth.",
    }
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"docid": i, "text": t}) + "\n" for i, t in texts.items())
    )
    (tmp_path / "queries.jsonl").write_text(
        '{"qid": "1", "query": "who makes honey"}\n{"qid": "2", "query": "nothing right"}\n'
    )
    (tmp_path / "qrels").write_text("1 0 a 2\n")
    paths = {
        "queries": "queries.jsonl",
        "qrels": "qrels",
        "corpus": "corpus.jsonl",
        "to": "lists.jsonl",
    }
    arguments = [
        part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))
    ]
    main([*arguments, "--depth", "1", "--ranker", "rnx-mini"])
    (row,) = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    assert [(one["docid"], one["grade"]) for one in row["candidates"]] == [("a", 2.0), ("b", 0.0)]


def test_a_line_of_qrels_with_three_columns_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, line in {
        "q": '{"qid": "1", "query": "x"}',
        "qrels": "1 a 2",
        "c": '{"docid": "a", "text": "x"}',
    }.items():
        (tmp_path / name).write_text(line + "\n")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "--queries",
                str(tmp_path / "q"),
                "--qrels",
                str(tmp_path / "qrels"),
                "--corpus",
                str(tmp_path / "c"),
                "--to",
                "x",
            ]
        )
    assert stop.value.code == 2
    assert "four columns" in capsys.readouterr().err


def _list(grades: tuple[float, ...], judged: dict[str, float] | None = None) -> GradedList:
    names = tuple("abcd")
    return GradedList(
        source="made",
        qid="1",
        query="q",
        docids=names,
        texts=names,
        grades=grades,
        judged=judged or {},
    )


def _places(of: GradedList) -> list[int]:
    return ["abcd".index(docid) for docid in of.docids]
