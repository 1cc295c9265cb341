"""The curriculum on a little generated data: it chains, resumes, records, leaves stages out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llama_index_rnx.errors import RNXError
from training.data import GradedList
from training.engine import LOSSES, Stage, Trainer, checkpoint
from training.evaluation import ablations, draw, longest_chain, rows_of, table
from training.learners import MiniLearner
from training.stages import (
    ENDED,
    MINI,
    SMOKE,
    SyntheticData,
    ablation_chains,
    run_stages,
    scale_stage,
    select_stages,
)

NAMES = ["retriever", "text-lists", "image-lists", "joint-lists"]
SHORT = [replace(stage, steps=4, evaluate_every=3, batch_size=2) for stage in SMOKE]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> SyntheticData:
    torch.set_num_threads(1)
    return SyntheticData(tmp_path_factory.mktemp("data"), seed=0, count=8, held_out=4)


@pytest.fixture(scope="module")
def whole(material: SyntheticData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of all stages in one go."""
    work = tmp_path_factory.mktemp("whole")
    run_stages(SHORT, material, work, seed=0)
    return work


def test_the_stages_are_those_of_the_papers_in_their_order() -> None:
    for curriculum in (MINI, SMOKE):
        assert [stage.name for stage in curriculum] == NAMES
        assert curriculum[2].teacher == "captions"
        assert all(stage.loss in LOSSES or stage.negatives == "in batch" for stage in curriculum)


def test_each_stage_writes_one_row_with_all_that_makes_it_again(
    whole: Path, material: SyntheticData
) -> None:
    rows = rows_of(whole / "results.jsonl")
    assert [row["chain"] for row in rows] == [NAMES[:length] for length in (1, 2, 3, 4)]
    for row in rows:
        assert set(row["metrics"]) == set(row["gain"]) == {"texts", "pictures", "joint"}
        assert {"nDCG@10", "RR@10", "R@1"} <= set(row["metrics"]["texts"])
        assert row["steps"] == 4
        assert {
            "seed",
            "commit",
            "data",
            "settings",
            "environment",
            "seconds",
            "loss",
            "date",
        } <= set(row)
    for before, after in itertools.pairwise(rows):
        assert after["before"] == {name: of["nDCG@10"] for name, of in before["metrics"].items()}


def test_a_stage_trains_what_it_names_and_nothing_else(whole: Path) -> None:
    folders = [whole.joinpath(*NAMES[:length]) for length in (1, 2, 3, 4)]
    ended = [checkpoint.read(folder / ENDED)[0] for folder in folders]
    computed = {"image.bank", "image.hub_mean"}
    for stage, (before, after) in zip(SHORT[1:], itertools.pairwise(ended), strict=True):
        moved = {name for name in after if not torch.equal(before[name], after[name])} - computed
        assert all(any(name.startswith(part) for part in stage.trainable) for name in moved)


def test_ended_stages_are_not_trained_again(
    whole: Path, material: SyntheticData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    learner = run_stages(SHORT, material, whole, seed=0)
    assert len(rows_of(whole / "results.jsonl")) == 4
    ended = checkpoint.read(whole.joinpath(*NAMES) / ENDED)[0]
    assert all(torch.equal(tensor, ended[name]) for name, tensor in learner.weights().items())


# A run stops in the second stage, or in the third, after its lists were mined anew.
@pytest.mark.parametrize("steps", [6, 11])
def test_a_killed_curriculum_goes_on_to_the_same_weights(
    steps: int,
    whole: Path,
    material: SyntheticData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, taken = Trainer.step, itertools.count()

    def dying(self: Trainer) -> float:
        if next(taken) == steps:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_stages(SHORT[:3], material, tmp_path, seed=0)
    run_stages(SHORT[:3], material, tmp_path, seed=0)
    for length in (1, 2, 3):
        ours = checkpoint.read(tmp_path.joinpath(*NAMES[:length]) / ENDED)
        theirs = checkpoint.read(whole.joinpath(*NAMES[:length]) / ENDED)
        assert all(torch.equal(ours[0][name], theirs[0][name]) for name in theirs[0])
        assert ours[1]["outcome"]["losses"] == theirs[1]["outcome"]["losses"]
    assert len(rows_of(tmp_path / "results.jsonl")) == 3


def test_an_ablation_shares_what_comes_before(whole: Path, material: SyntheticData) -> None:
    (without,) = ablation_chains(SHORT, "image-lists")
    run_stages(without[:3], material, whole, seed=0)
    found = rows_of(whole / "results.jsonl")[-1]
    assert found["chain"] == ["retriever", "text-lists", "joint-lists"]
    rows = rows_of(whole / "results.jsonl")
    assert len(longest_chain(rows)) == 4
    mark, full = (
        found["metrics"]["joint"]["nDCG@10"],
        longest_chain(rows)[-1]["metrics"]["joint"]["nDCG@10"],
    )
    said = ablations(rows)
    assert [line.split(":")[0] for line in said] == ["without image-lists", "without joint-lists"]
    assert f"joint {mark:.4f} ({mark - full:+.4f})" in said[0]


def test_the_chains_of_an_ablation() -> None:
    names = [[stage.name for stage in chain] for chain in ablation_chains(SHORT, "each")]
    assert names == [NAMES, *([name for name in NAMES if name != left] for left in NAMES)]
    assert [[stage.name for stage in chain] for chain in ablation_chains(SHORT, None)] == [NAMES]
    with pytest.raises(RNXError, match="allowed are retriever"):
        ablation_chains(SHORT, "images")


def test_stages_are_chosen_by_name_and_keep_their_order() -> None:
    assert [stage.name for stage in select_stages(SHORT, ["joint-lists", "retriever"])] == [
        "retriever",
        "joint-lists",
    ]
    assert select_stages(SHORT, None) == SHORT
    with pytest.raises(
        RNXError, match="--stages texts: there is no such stage; allowed are retriever"
    ):
        select_stages(SHORT, ["texts"])


def test_other_settings_in_the_same_folder_are_refused(
    whole: Path, material: SyntheticData
) -> None:
    with pytest.raises(RNXError, match=r"settings\.learning_rate"):
        run_stages([replace(SHORT[0], learning_rate=1.0)], material, whole, seed=0)
    with pytest.raises(RNXError, match="seed"):
        run_stages(SHORT[:1], material, whole, seed=1)


def test_negatives_are_mined_by_the_ranker_as_it_is(material: SyntheticData) -> None:
    learner = material.build_learner()
    before = material.build_lists("pictures", SHORT[2], learner, 0)
    with torch.no_grad():
        learner.image.projector.vector.mean.weight.normal_()
    after = material.build_lists("pictures", SHORT[2], learner, 0)
    assert [of.query for of in before] == [of.query for of in after]
    assert candidates(before) != candidates(after)
    assert [of.docids[0] for of in before] == [of.docids[0] for of in after], "the right one stays"


def candidates(lists: Sequence[GradedList]) -> list[tuple[str, ...]]:
    return [of.docids for of in lists]


def test_the_table_and_the_picture_of_the_progress(whole: Path, tmp_path: Path) -> None:
    rows = rows_of(whole / "results.jsonl")
    draw(rows, tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes()[:4] == b"\x89PNG"
    assert table(rows)[1].startswith("retriever / text-lists: texts ")
    with pytest.raises(RNXError, match=r"run training\.curriculum first"):
        draw([], tmp_path / "none.png")


def test_scores_in_training_are_those_of_the_reader_and_the_image_part(
    material: SyntheticData,
) -> None:
    """One list of a text, a picture and both: the image logit reaches the reader for the last two,
    with gradients.
    """
    learner = material.build_learner()
    assert isinstance(learner, MiniLearner)
    picture = material.held_out_images[0]
    of = GradedList(
        source="s",
        qid="q",
        query=picture.queries[0],
        docids=("a", "b", "c"),
        texts=(picture.about[0], "", picture.about[0]),
        grades=(0.0, 1.0, 1.0),
        images=(None, picture.path, picture.path),
    )
    learner.groups(Stage(name="s", sources=(), dev_sets=(), trainable=("image",), steps=1))
    with torch.inference_mode():
        text, image, both = learner.scores(of).tolist()
        logit = float(learner.find([of.query], [picture.path]))
    assert image == pytest.approx(logit, abs=1e-4)
    assert both != pytest.approx(text)
    learner.scores(of)[1].backward()  # type: ignore[no-untyped-call]
    moved = [name for name, weight in learner.image.named_parameters() if weight.grad is not None]
    assert any(name.startswith("projector") for name in moved)
    assert any(name.startswith("caption") for name in moved)


def test_a_rehearsal_has_a_share_of_the_steps_and_every_round() -> None:
    rehearsed = [scale_stage(stage, 0.02) for stage in MINI]
    assert [stage.steps for stage in rehearsed] == [5, 12, 6, 1]
    assert all(stage.steps >= stage.mining_rounds for stage in rehearsed)
    assert [scale_stage(stage, 1.0) for stage in MINI] == list(MINI)
    with pytest.raises(RNXError, match="--scale is 0"):
        scale_stage(MINI[0], 0.0)
