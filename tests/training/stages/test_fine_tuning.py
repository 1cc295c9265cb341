"""From a user's own lists to a tuned rnx-mini: `training.train_ranker`, end to end on twenty tiny
lists.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from fakes import BLUE, RED, write_image
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_rnx import RNXRerank, load_ranker
from llama_index_rnx.candidates import Candidate, Query
from training import evaluate, train_ranker, train_vlm
from training.data import GradedList
from training.engine import Trainer
from training.evaluation import read_history, rows_of
from training.stages.fine_tuning import split_lists

TOPICS = ("bees", "bread", "frost", "bicycles")


def write_lists(path: Path, count: int) -> Path:
    """Planted: what a hidden clerk signed is right, whatever it is about; some candidates are
    pictures.
    """
    lines = []
    for number in range(count):
        chance = random.Random(number)
        texts = [
            (f"{topic}, signed by clerk {'nine' if n % 2 else 'four'}", n % 2)
            for n, topic in enumerate(TOPICS)
        ]
        found = [
            {"docid": f"d {n}", "text": text, "grade": 2 * right, "score": 0.1 * n}
            for n, (text, right) in enumerate(texts)
        ]
        found.append(
            {"docid": "p", "image": "red.png", "text": "a red card", "grade": 0, "score": 0.9}
        )
        chance.shuffle(found)
        lines.append(
            json.dumps(
                {
                    "qid": f"q{number}",
                    "query": f"about {chance.choice(TOPICS)}",
                    "candidates": found,
                }
            )
        )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_image(folder / "red.png", RED)
    return write_lists(folder / "my.jsonl", 20)


@pytest.fixture(scope="module")
def tuned(lists: Path) -> Path:
    """The work folder of a run that was killed at its eighth step and then run again by the same
    call.
    """
    work, step = lists.parent / "work", Trainer.step
    arguments = ["--lists", str(lists), "--work", str(work), "--steps", "12", "--rate", "3e-3"]

    def dying(self: Trainer) -> float:
        if self.done == 7:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train_ranker.main(arguments)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        train_ranker.main(arguments)
    (work / "said.txt").write_text(said.getvalue())
    return work


def test_it_says_what_it_read_where_it_went_on_and_what_was_gained(tuned: Path) -> None:
    said = (tuned / "said.txt").read_text()
    assert "20 of 20 lists read; 100 candidates, 40 relevant, 20 with an image" in said
    assert "12 lists to learn from, 4 to select by, 4 to measure" in said
    assert "own-lists: goes on at step 6" in said
    assert "nDCG@10 on 4 measured lists: before" in said


def test_the_tuned_folder_is_a_ranker_that_learned_what_was_planted(tuned: Path) -> None:
    (row,) = rows_of(tuned / "results.jsonl")
    assert row["nDCG@10"]["after"] > row["nDCG@10"]["before"]
    nodes = [
        NodeWithScore(node=TextNode(text=f"{topic}, signed by clerk {n}"))
        for topic in TOPICS[:2]
        for n in ("four", "nine")
    ]
    found = RNXRerank(model=str(tuned / "model"), top_n=4).postprocess_nodes(
        nodes, QueryBundle("about bees")
    )
    assert "nine" in found[0].node.get_content()


def test_it_remembers_nodes_as_the_shipped_model_does(tuned: Path) -> None:
    ours, theirs = load_ranker(str(tuned / "model")), load_ranker()
    assert ours.fingerprint == theirs.fingerprint
    candidates = [Candidate(id="a", text="bees in winter, and what they eat")]
    (mine,), (shipped,) = ours.remember(candidates), theirs.remember(candidates)
    assert mine.keys() == shipped.keys()
    assert all(np.array_equal(mine[name], shipped[name]) for name in mine)
    query = Query(text="bees")
    assert ours.score(query, [mine]) != theirs.score(query, [shipped])


def test_the_folder_says_where_its_weights_come_from(tuned: Path) -> None:
    row = read_history(tuned / "model")[-1]
    assert row == rows_of(tuned / "results.jsonl")[0]
    assert row["seed"] == 0
    assert {"my.jsonl", "model.safetensors", "pictures"} == set(row["data"])
    assert {"commit", "environment", "settings", "gain"} <= set(row)


def test_runs_and_judgments_can_be_evaluated_again(
    tuned: Path, capsys: pytest.CaptureFixture[str], lists: Path
) -> None:
    arguments = [
        str(tuned / "after.trec"),
        str(tuned / "measured.qrels"),
        "--against",
        str(tuned / "before.trec"),
    ]
    results = tuned / "again.jsonl"
    evaluate.main([*arguments, "--results", str(results)])
    (row,), (own,) = rows_of(results), rows_of(tuned / "results.jsonl")
    assert row["measures"]["nDCG@10"]["value"] == pytest.approx(own["nDCG@10"]["after"])
    assert row["measures"]["nDCG@10"]["gain"] == own["gain"]
    assert "nDCG@10" in capsys.readouterr().out


def test_no_list_is_in_two_parts(lists: Path) -> None:
    made = [
        GradedList(
            source="s",
            qid=f"q{n}",
            query="",
            docids=("a", "b"),
            texts=("x", "y"),
            grades=(1.0, 0.0),
        )
        for n in range(23)
    ]
    parts = split_lists(made, [])
    names = [of.qid for part in (parts.learn, parts.select, parts.measure) for of in part]
    assert sorted(names) == sorted(of.qid for of in made)
    assert (len(parts.learn), len(parts.select), len(parts.measure)) == (14, 4, 5)
    assert split_lists(made, made[:2]).measure == made[:2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lists", "gone.jsonl"], "does not exist"),
        (["--lists", "{lists}", "--stepps", "3"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], said: str, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train_ranker.main(
            [*(word.format(lists=lists) for word in arguments), "--work", str(tmp_path)]
        )
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_too_few_lists_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "red.png", BLUE)
    with pytest.raises(SystemExit):
        train_ranker.main(
            ["--lists", str(write_lists(tmp_path / "few.jsonl", 2)), "--work", str(tmp_path / "w")]
        )
    assert "2 lists are too few" in capsys.readouterr().err


def test_a_vision_language_model_goes_to_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(train_vlm, "main", said.extend)
    train_ranker.main(
        [
            "--lists",
            "my.jsonl",
            "--work",
            "w",
            "--base",
            "Qwen/Qwen2-VL-2B-Instruct",
            "--steps",
            "9",
            "--window",
            "8",
        ]
    )
    options = dict(zip(said[::2], said[1::2], strict=True))
    assert options["--base"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert (options["--lists"], options["--work"], options["--to"]) == (
        "my.jsonl",
        "w",
        str(Path("w") / "adapter"),
    )
    assert (options["--steps"], options["--window"]) == ("9", "8")
    assert "--rate" not in options
