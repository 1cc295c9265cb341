"""Training a vision-language ranker: it reads what inference reads, learns a planted order,
resumes, and saves an adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import BLUE, RED
from PIL import Image
from safetensors.torch import load_file

from llama_index_rnx import load_ranker
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.vlm import RankerConfig, VLMRanker, load_vlm
from training import rehearsal, train_vlm, write_lists
from training.data import GradedList, read_user_lists
from training.engine import GradedListTask, SingleProcess, Stage, Trainer, record_of
from training.learners import PART, Lora, VLMLearner
from training.stages import WRITTEN_LISTS, rehearsal_arguments
from training.stages.lora import read_sets
from training.stages.rehearsal import PROMPT

EXACT = 2e-5

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning"),
    # `peft` asks for it.
    pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def learner_of(folder: Path, dropout: float = 0.0, checkpointing: bool = False) -> VLMLearner:
    ranker = load_vlm(str(folder), readout="labels", device="cpu", memory_dtype="float32")
    return VLMLearner(
        ranker,
        MemoryStore(),
        RankerConfig(readout="labels"),
        Lora(rank=4, dropout=dropout),
        checkpointing=checkpointing,
    )


def mixed_list(folder: Path) -> GradedList:
    """Texts, pictures and both, with grades."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size, colour in (("r", (90, 60), RED), ("b", (64, 130), BLUE)):
        Image.new("RGB", size, colour).save(folder / f"{name}.png")
    return GradedList(
        source="mixed",
        qid="q",
        query="what is red",
        docids=("1", "2", "3", "4"),
        texts=("a red apple", "", "the sea", "no"),
        grades=(2.0, 3.0, 1.0, 0.0),
        images=(None, folder / "r.png", folder / "b.png", None),
    )


def stirred(learner: VLMLearner) -> VLMLearner:
    """An adapter that has an effect: a fresh one has none."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in learner.weights().values():
            weight.copy_(torch.randn_like(weight) * 0.2)
    return learner


def captured(ranker: VLMRanker, work: Callable[[], Any]) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """What went into the language model, [B, L, H] and [3, B, L], and what the work gave."""
    found: dict[str, torch.Tensor] = {}
    language = ranker.backbone.model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda _, args, kwargs: found.update(kwargs), with_kwargs=True
    )
    result = work()
    hook.remove()
    return found["inputs_embeds"].detach(), found["position_ids"], result


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_training_reads_what_inference_reads(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    learner, of = stirred(learner_of(folders[family])), mixed_list(tmp_path / "lists")
    learner.save(tmp_path / "adapter")
    torch.manual_seed(5)
    order = torch.randperm(4)
    torch.manual_seed(5)  # the learner draws the same
    embeds, positions, logits = captured(learner.ranker, lambda: learner.scores(of))
    assert logits.requires_grad

    tuned = load_ranker(
        str(folders[family]),
        adapter=str(tmp_path / "adapter"),
        device="cpu",
        memory_dtype="float32",
    )
    assert isinstance(tuned, VLMRanker)
    query, memories = learner.ask(of)
    shuffled = [memories[place] for place in order.tolist()]
    same_embeds, same_positions, scores = captured(tuned, lambda: tuned.score(query, shuffled))
    assert torch.equal(embeds, same_embeds)  # the token ids and the visual tokens, at their places
    assert torch.equal(positions, same_positions)
    by_slot = logits.detach().double()[order]
    assert torch.allclose(
        torch.tensor(scores).double().logit(), by_slot - by_slot.mean(), atol=EXACT * 10
    )
    assert tuned.fingerprint == learner.ranker.fingerprint


def test_the_order_of_a_list_is_drawn_anew_each_time(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over many draws every candidate stands in every slot, so what stands there tells nothing
    about it.
    """
    learner = learner_of(folders["qwen2_vl"])
    of = GradedList(
        source="s",
        qid="q",
        query="?",
        docids=tuple("abcd"),
        texts=tuple("abcd"),
        grades=(3.0, 0.0, 0.0, 0.0),
    )

    def slots(_: Any, memories: Any) -> torch.Tensor:
        return torch.arange(len(memories)).float()

    monkeypatch.setattr(learner.ranker, "label_log_probabilities", slots)
    torch.manual_seed(0)
    # [draws, candidates]: the slot of each.
    drawn = torch.stack([learner.scores(of) for _ in range(400)])
    counts = torch.stack([(drawn == slot).sum(0) for slot in range(4)])
    assert counts.min() >= 70
    assert counts.max() <= 130
    with torch.inference_mode():
        # Outside of training, candidates stand as the list came.
        assert learner.scores(of).tolist() == [
            0.0,
            1.0,
            2.0,
            3.0,
        ]


def test_only_the_adapter_of_the_language_half_is_trained(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    learner, of = learner_of(folders["qwen3_vl"]), mixed_list(tmp_path)
    model = learner.ranker.backbone.model
    before = {
        name: weight.clone() for name, weight in model.named_parameters() if "lora_" not in name
    }
    task = GradedListTask(learner, stage(steps=2), lambda _: {"mixed": [of]}, {}, seed=0)
    trainer = Trainer(task, tmp_path / "work", record_of({}, 0, {}))
    for _ in range(2):
        trainer.step()
    assert all(
        torch.equal(weight, before[name])
        for name, weight in model.named_parameters()
        if name in before
    )
    assert len(learner.weights()) == 2 * 7 * 3  # two factors, seven projections, three layers
    assert all(".language_model." in name for name in learner.weights())
    assert any(
        float(weight.abs().max()) > 0
        for name, weight in learner.weights().items()
        if "lora_B" in name
    )
    with pytest.raises(RNXError, match="only 'adapter' is trained"):
        learner.groups(Stage(name="s", sources=(), dev_sets=(), trainable=("vision",), steps=1))


def test_recomputed_activations_give_the_same_gradients(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    of, found = mixed_list(tmp_path), []
    for checkpointing in (False, True):
        learner = stirred(learner_of(folders["qwen2_vl"], dropout=0.2, checkpointing=checkpointing))
        torch.manual_seed(0)
        scores = learner.scores(of)
        (scores[0] - scores[3] + learner.penalty()).backward()
        found.append({name: weight.grad for name, weight in learner._parameters().items()})
    plain, again = found
    assert plain.keys() == again.keys()
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def test_a_list_longer_than_a_window_is_asked_in_windows(folders: dict[str, Path]) -> None:
    learner = stirred(learner_of(folders["qwen2_vl"]))
    count = learner.ranker.window + 5
    texts = tuple(f"passage {i}" for i in range(count))
    of = GradedList(
        source="s", qid="q", query="?", docids=texts, texts=texts, grades=(0.0,) * count
    )
    with torch.inference_mode():
        assert sorted(learner.scores(of).tolist()) == list(range(1, count + 1))


def stage(steps: int) -> Stage:
    return Stage(
        name="s",
        sources=(("mixed", 1.0),),
        dev_sets=("mixed",),
        trainable=(PART,),
        steps=steps,
        list_length=4,
        max_list_length=4,
        batch_size=2,
        learning_rate=1e-2,
        loss="listmle",
        evaluate_every=2,
    )


def test_a_killed_run_goes_on_with_the_same_adapter(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    of = mixed_list(tmp_path / "lists")

    def run(work: Path, until: int) -> VLMLearner:
        learner = learner_of(folders["qwen2_vl"], dropout=0.1)
        lists = {"mixed": [of]}
        task = GradedListTask(learner, stage(steps=4), lambda _: lists, lists, seed=0)
        trainer = Trainer(task, work, record_of({}, 0, {}))
        while trainer.done < until:
            trainer.step()
            if trainer.done % 2 == 0:
                trainer.evaluate()
                trainer.save_checkpoint()
        return learner

    run(tmp_path / "killed", until=3)  # dies a step after its checkpoint
    for name, until in (("whole", 4), ("killed", 4)):
        run(tmp_path / name, until).save(tmp_path / name / "adapter")
    whole, resumed = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_stage_starts_from_the_adapter_of_the_last(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    first = stirred(learner_of(folders["qwen2_vl"]))
    first.save(tmp_path / "a")
    second = learner_of(folders["qwen2_vl"])
    second.start_from(tmp_path / "a")
    assert all(
        torch.equal(weight, second.weights()[name]) for name, weight in first.weights().items()
    )
    with pytest.raises(RNXError, match="holds no adapter of this size"):
        second.start_from(tmp_path)
    ranker = load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu")
    other = VLMLearner(ranker, MemoryStore(), RankerConfig(), Lora(rank=2), checkpointing=False)
    with pytest.raises(RNXError, match="holds no adapter of this size"):
        other.start_from(tmp_path / "a")


def test_a_ranker_that_is_not_read_by_labels_is_not_trained(folders: dict[str, Path]) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), device="cpu")
    with pytest.raises(RNXError, match="read by 'pointwise'; load it with readout='labels'"):
        VLMLearner(ranker, MemoryStore(), RankerConfig())


def test_a_planted_order_is_learned_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rehearsal.main(["--to", str(tmp_path)])
    said = capsys.readouterr().out
    assert "200 of 200 lists read; 800 candidates, 600 relevant, 0 with an image" in said
    adapter = tmp_path / "adapter"
    record = json.loads((adapter / "record.json").read_text())
    assert record["data"].keys() == {"train.jsonl", "dev.jsonl", "model.safetensors"}
    assert record["settings"]["loss"] == "listmle"
    tuned = load_ranker(str(tmp_path / "model"), adapter=str(adapter), device="cpu")
    assert isinstance(tuned, VLMRanker)
    assert (tuned.readout, tuned.window, tuned.list_prompt.template) == (
        "labels",
        4,
        PROMPT["template"],
    )
    assert [len(row) for row in tuned.calibration.slot_bias] == [4]
    with pytest.raises(SystemExit):  # another rate in the same folder would be another run
        train_vlm.main([*rehearsal_arguments(tmp_path), "--rate", "1e-3"])
    assert "choose another folder or delete it" in capsys.readouterr().err


def row(qid: str, *grades: float | None, **more: Any) -> dict[str, Any]:
    found = [
        {"docid": str(i), "text": f"text {i}", "score": -i} | ({} if g is None else {"grade": g})
        for i, g in enumerate(grades)
    ]
    return {"qid": qid, "query": "q", "candidates": found, **more}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_without_a_development_file_every_tenth_list_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "my.jsonl", *(row(str(i), 1, 0) for i in range(25)))
    lists, sets = read_sets([path], [], SingleProcess())
    assert [of.qid for of in sets["held-out"]] == ["0", "10", "20"]
    assert len(lists["my"]) == 22
    assert "3 of 25 lists are held out" in capsys.readouterr().out


def test_lists_and_judgments_are_written_as_the_command_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = replace(mixed_list(tmp_path / "lists"), judged={"1": 2.0, "9": 1.0})
    monkeypatch.setenv("RNX_DATA", str(tmp_path))
    monkeypatch.setitem(WRITTEN_LISTS, "dl21", lambda _: [of])
    write_lists.main(["dl21", "--to", str(tmp_path)])
    (again,) = read_user_lists(tmp_path / "dl21.jsonl").lists
    assert again == replace(of, source="dl21", judged={})
    assert (tmp_path / "dl21.qrels").read_text() == "q 0 1 2\nq 0 9 1\n"
