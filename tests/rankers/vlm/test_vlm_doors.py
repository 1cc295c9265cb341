"""Vision-language checkpoints through the doors that users take: RNXRerank, its prompts, and the
command line.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
from conftest import Rnx
from fakes import BLUE, RED, FakeRanker, image_base64, text_hits, write_image
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
from transformers import Qwen2Config, Qwen2ForCausalLM

from llama_index_rnx import RNXRerank
from llama_index_rnx.batch.diagnose import built_in_lists
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import RAM
from llama_index_rnx.rankers.vlm import Diagnosis, ListPrompt, PairPrompt, load_vlm
from llama_index_rnx.rankers.vlm.prompts import INSTRUCTION
from llama_index_rnx.rankers.vlm.tiny import FAMILIES
from llama_index_rnx.ranking import Calibration

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning"),
]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def mixed_nodes() -> list[NodeWithScore]:
    """A text, an image, and a node that is both."""
    nodes = [
        TextNode(id_="text", text="a red apple"),
        ImageNode(id_="image", image=image_base64(RED, size=(90, 60))),
        ImageNode(id_="both", text="the sea", image=image_base64(BLUE, size=(60, 120))),
    ]
    return [NodeWithScore(node=node, score=1 / (i + 1)) for i, node in enumerate(nodes)]


def order(hits: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(hit.node_id, hit.score) for hit in hits]


# ---- RNXRerank


def test_a_folder_is_a_model(folder: Path, tmp_path: Path) -> None:
    reranker = RNXRerank(
        model=str(folder), device="cpu", top_n=3, memory_path=str(tmp_path / "memories")
    )
    query = QueryBundle(
        "like this", image_path=str(write_image(tmp_path / "asked.png", RED, (70, 90)))
    )
    for asked in (QueryBundle("what is red?"), query, QueryBundle("", image_path=query.image_path)):
        hits = reranker.postprocess_nodes(mixed_nodes(), asked)
        assert {hit.node_id for hit in hits} == {"text", "image", "both"}
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
        assert all(type(score) is float and 0 <= score <= 1 for score in scores)
    first = order(reranker.postprocess_nodes(mixed_nodes(), query))
    weights = weakref.ref(reranker._load()._ranker.backbone.model)  # type: ignore[attr-defined]
    reranker.unload()
    assert weights() is None
    # The ranker is loaded again, with memories from the disk.
    assert order(reranker.postprocess_nodes(mixed_nodes(), query)) == first


@pytest.mark.parametrize("readout", ["labels", "pointwise", "permutation"])
def test_min_score_works_on_the_unit_interval_of_every_read_out(
    folders: dict[str, Path], readout: str
) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), readout=readout, device="cpu")
    everything = order(
        RNXRerank(ranker=ranker).postprocess_nodes(mixed_nodes(), query_str="what is red?")
    )
    assert len({score for _, score in everything}) == 3
    assert all(score is not None and 0 <= score <= 1 for _, score in everything)
    least = everything[1][1]
    kept = RNXRerank(ranker=ranker, min_score=least).postprocess_nodes(
        mixed_nodes(), query_str="what is red?"
    )
    assert order(kept) == everything[:2]
    assert (
        RNXRerank(ranker=ranker, min_score=1.01).postprocess_nodes(
            mixed_nodes(), query_str="what is red?"
        )
        == []
    )


def test_warm_scores_are_the_cold_ones(folder: Path, tmp_path: Path) -> None:
    """To the last bit: the first call writes the memory that all calls read, in bfloat16, also the
    one that made it.
    """
    settings = {"model": str(folder), "device": "cpu", "memory_path": str(tmp_path / "memories")}
    cold = order(RNXRerank(**settings).postprocess_nodes(mixed_nodes(), query_str="what is red?"))
    RAM.clear()
    warm = RNXRerank(**settings)
    assert order(warm.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == cold
    assert order(warm.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == cold


def test_a_broken_image_costs_itself_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = ImageNode(id_="bad", image_path=str(tmp_path / "bad.png"))
    captioned = ImageNode(id_="captioned", text="a red card", image_path=str(tmp_path / "bad.png"))
    ruler = ImageNode(id_="ruler", image=image_base64(RED, size=(600, 2)))
    reranker = RNXRerank(model=str(folders["qwen3_vl"]), device="cpu", top_n=9)
    hits = [NodeWithScore(node=node, score=1.0) for node in (bad, captioned, ruler)] + mixed_nodes()
    with pytest.warns(
        RuntimeWarning, match=r"2 of 6 nodes .*bad\.png.*cannot be read as an image.*\(and 1 more\)"
    ):
        found = order(reranker.postprocess_nodes(hits, query_str="what is red?"))
    without = [
        NodeWithScore(node=node) for node in (TextNode(id_="captioned", text="a red card"), ruler)
    ]
    assert found == [
        *order(reranker.postprocess_nodes([*without, *mixed_nodes()], query_str="what is red?")),
        ("bad", 0.0),
    ]


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    cases = {
        "missing": "unknown model",
        "empty": "no config.json",
        "text": r"\(qwen2\) has no vision tower",
    }
    for name, said in cases.items():
        with pytest.raises(RNXError, match=said) as refused:
            RNXRerank(model=str(tmp_path / name)).postprocess_nodes(
                text_hits("a", "b"), query_str="a"
            )
        assert "\n" not in str(refused.value)
        reranker = RNXRerank(model=str(tmp_path / name), on_error="keep_order")
        assert len(reranker.postprocess_nodes(text_hits("a", "b"), query_str="a")) == 2
        assert reranker.failures == 1


# ---- the command line


def write_lists(folder: Path, *rows: Any) -> Path:
    path = folder / "lists.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def mixed_rows(folder: Path) -> Path:
    """A text query, an image query and one that is both, over texts, images, both, and an image
    that is broken.
    """
    write_image(folder / "red.png", RED, (80, 60))
    write_image(folder / "blue.jpg", BLUE, (60, 90))
    (folder / "bad.png").write_bytes(b"no image")
    candidates = [
        {"docid": "text", "text": "a red apple", "score": 3.0},
        {"docid": "image", "image": "red.png"},
        {"docid": "both", "text": "the sea", "image": "blue.jpg"},
    ]
    broken = [*candidates, {"docid": "bad", "image": "bad.png"}]
    return write_lists(
        folder,
        {"qid": "t", "query": "what is red?", "candidates": candidates},
        {"qid": "i", "query": "", "image": "red.png", "candidates": candidates},
        {"qid": "b", "query": "like this", "image": "blue.jpg", "candidates": broken},
        {"qid": "none", "query": "", "image": "bad.png", "candidates": candidates},
    )


def test_rnx_rerank_takes_a_folder(rnx: Rnx, folder: Path, tmp_path: Path) -> None:
    result = rnx("rerank", mixed_rows(tmp_path), "--run", tmp_path / "out.trec", "--model", folder)
    assert result.code == 0, result.err
    run = [line.split() for line in (tmp_path / "out.trec").read_text().splitlines()]
    found = {qid: [row[2] for row in run if row[0] == qid] for qid in ("t", "i", "b", "none")}
    assert all(sorted(found[qid]) == ["both", "image", "text"] for qid in ("t", "i"))
    assert sorted(found["b"]) == ["bad", "both", "image", "text"]
    assert found["b"][-1] == "bad"  # an image that cannot be read comes last
    # And a query that cannot be read changes nothing.
    assert found["none"] == [
        "text",
        "image",
        "both",
    ]
    assert "not seen: candidate bad" in result.err
    scores = [float(row[4]) for row in run if row[0] == "t"]
    assert scores == sorted(scores, reverse=True)
    again = rnx(
        "rerank",
        mixed_rows(tmp_path),
        "--run",
        tmp_path / "2.trec",
        "--model",
        folder,
        "--windows",
        "parallel",
    )
    assert again.code == 0
    assert (tmp_path / "2.trec").read_text() == (
        tmp_path / "out.trec"
    ).read_text()  # all lists fit into a window


def test_the_doctor_says_whether_labels_should_be_read(
    rnx: Rnx, folders: dict[str, Path], tmp_path: Path
) -> None:
    good = [row for row in mixed_rows(tmp_path).read_text().splitlines() if "bad.png" not in row]
    lists = tmp_path / "good.jsonl"
    lists.write_text("\n".join(good))
    result = rnx("doctor", "--model", folders["qwen3_vl"], "--lists", lists)
    assert result.code == 1
    assert "label mass" in result.out
    assert "20 labels, all tokenised alike: A B C" in result.out
    assert "Kendall's tau over 2 lists" in result.out
    assert "should NOT be read by labels" in result.out
    help_ = rnx("doctor", "--help")
    assert "Exit code: 0 if so, 1 if not" in " ".join(help_.out.split())


def test_the_doctor_has_lists_of_its_own_and_exit_code_0(
    rnx: Rnx, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = built_in_lists()
    assert len(lists) == 8
    assert len({one.query.text for one in lists}) == 8
    assert all(
        len({c.text for c in one.candidates}) == 10 and all(c.text for c in one.candidates)
        for one in lists
    )
    seen: list[int] = []

    def usable(ranker: Any, asks: Any) -> Diagnosis:
        seen.extend(len(memories) for _, memories in asks)
        return Diagnosis(
            lists=8,
            labels=ranker.labels,
            label_mass=0.9,
            agreement=0.8,
            position_bias_share=0.1,
            position_bias=[0.1],
        )

    monkeypatch.setattr("llama_index_rnx.batch.diagnose.diagnose", usable)
    result = rnx("doctor", "--model", folders["qwen2_vl"])
    assert result.code == 0
    assert seen == [10] * 8
    assert "may be read by labels" in result.out


@pytest.mark.parametrize(
    ("readout", "said"), [("pointwise", "each candidate alone"), ("permutation", "writes orders")]
)
def test_what_is_not_read_by_labels_needs_no_doctor(
    rnx: Rnx, folders: dict[str, Path], tmp_path: Path, readout: str, said: str
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(folders["qwen2_vl"], folder)
    (folder / "rnx.json").write_text(json.dumps({"readout": readout}))
    for model, words in (
        (folder, said),
        ("rnx-mini", "no positions"),
        ("http://127.0.0.1:1", "a service"),
    ):
        result = rnx("doctor", "--model", model)
        assert (result.code, result.err) == (0, "")
        assert words in result.out
        assert len(result.out.splitlines()) == 1
    refused = rnx("calibrate", mixed_rows(tmp_path), "--model", folder)
    assert refused.code == 2
    assert said in refused.err
    assert rnx("doctor", "--model", "rnx-maxi").code == 2


def graded_rows(folder: Path) -> Path:
    """Lists of six texts, the second of which is relevant; one list has no grades."""
    words = ["red", "apple", "green", "pear", "blue", "plum"]
    rows = []
    for k in range(1, 6):
        texts = [f"{words[i]} {words[(i + k) % 6]}" for i in range(6)]
        candidates = [
            {"docid": str(i), "text": text} | ({"grade": int(i == 1)} if k < 5 else {})
            for i, text in enumerate(texts)
        ]
        rows.append({"qid": str(k), "query": words[k], "candidates": candidates})
    return write_lists(folder, *rows)


def test_a_calibration_is_written_into_the_config_and_read_from_it(
    rnx: Rnx, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(folders["qwen2_vl"], folder)
    (folder / "rnx.json").write_text('{"readout": "labels", "window": 6}')
    result = rnx("calibrate", graded_rows(tmp_path), "--model", folder)
    assert result.code == 0, result.err
    assert "position bias for lists of 6, 4" in result.out
    assert "With this calibration, on the same lists:" in result.out
    config = json.loads((folder / "rnx.json").read_text())
    assert (config["readout"], config["window"]) == ("labels", 6)
    assert [len(row) for row in config["calibration"]["slot_bias"]] == [6, 4]
    assert config["calibration"]["offset"] < 0
    assert [path.name for path in folder.iterdir() if path.name.endswith(".part")] == []
    ranker = load_vlm(str(folder), device="cpu")
    assert ranker.calibration == Calibration(**config["calibration"])
    nodes = [NodeWithScore(node=TextNode(id_=str(i), text="the same"), score=1.0) for i in range(6)]
    scores = [
        hit.score
        for hit in RNXRerank(ranker=ranker, top_n=6).postprocess_nodes(nodes, query_str="red")
    ]
    assert max(scores) < 0.5  # type: ignore[type-var]  # one of six is relevant
    elsewhere = rnx(
        "calibrate", graded_rows(tmp_path), "--model", folder, "--to", tmp_path / "other.json"
    )
    assert elsewhere.code == 0
    assert json.loads((tmp_path / "other.json").read_text()) == config


def test_what_cannot_be_calibrated(rnx: Rnx, folders: dict[str, Path], tmp_path: Path) -> None:
    lists = graded_rows(tmp_path)
    hub = rnx("calibrate", lists, "--model", "some/model")
    assert (hub.code, "--to" in hub.err) == (2, True)
    one = write_lists(
        tmp_path, {"qid": "a", "query": "x", "candidates": [{"docid": "a", "text": "b"}]}
    )
    assert (
        "two candidates or more"
        in rnx("doctor", "--model", folders["qwen2_vl"], "--lists", one).err
    )
    pair = [{"docid": "a", "text": "b", "grade": "good"}, {"docid": "b", "text": "c"}]
    odd = write_lists(tmp_path, {"qid": "a", "query": "x", "candidates": pair})
    assert "must be a number" in rnx("calibrate", odd, "--model", folders["qwen2_vl"]).err


# ---- prompts

PAIR = "Question: {query}\nDocument: {content}\nDoes it help? "


def test_prompts_are_read_and_replaced(folders: dict[str, Path]) -> None:
    reranker = RNXRerank(model=str(folders["qwen2_vl"]), device="cpu")
    (name,) = reranker.get_prompts()
    shown = reranker.get_prompts()[name].get_template()
    assert (name, shown) == (
        "pair_prompt",
        PairPrompt().template.replace("{instruction}", INSTRUCTION),
    )
    before = order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?"))
    reranker.update_prompts({name: PromptTemplate(PAIR)})
    after = order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?"))
    assert reranker.get_prompts()[name].get_template() == PAIR
    assert [score for _, score in after] != pytest.approx([score for _, score in before], abs=1e-3)
    reranker.unload()
    assert order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == after
    for other in (
        copy.deepcopy(reranker),
        pickle.loads(pickle.dumps(reranker)),
        RNXRerank.from_dict(reranker.to_dict()),
    ):
        assert order(other.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == after


def test_a_list_prompt_is_two_templates_and_a_ready_ranker_keeps_its_own(
    folders: dict[str, Path],
) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu")
    reranker = RNXRerank(ranker=ranker)
    assert reranker.get_prompts().keys() == {"list_prompt", "candidate_prompt"}
    reranker.update_prompts({"candidate_prompt": PromptTemplate("({label})\n{content}\n")})
    changed = reranker.get_prompts()
    assert changed["candidate_prompt"].get_template() == "({label})\n{content}\n"
    assert (
        changed["list_prompt"].get_template()
        == ListPrompt().template
        == ranker.list_prompt.template
    )
    assert ranker.list_prompt.candidate == ListPrompt().candidate


def test_labels_follow_the_prompt_that_they_answer(folders: dict[str, Path]) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu", window=3)
    template = "{candidates}Q: {query}\n<|im_start|>assistant\n"
    other = ranker.with_prompts({"list_prompt": template})
    assert (other.window, other.labels) == (3, ["A", "B", "C"])
    direct = load_vlm(
        str(folders["qwen2_vl"]),
        readout="labels",
        device="cpu",
        window=3,
        list_prompt=ListPrompt(template=template),
    )
    nodes = mixed_nodes()
    found = [
        order(RNXRerank(ranker=one).postprocess_nodes(nodes, query_str="red"))
        for one in (other, direct, ranker)
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (
            {"pair_prompt": "{content}"},
            "mistake at {query}: {content} is named exactly once, {query} at least once",
        ),
        ({"pair_prompt": "{query} {content} {label}"}, "mistake at {label}"),
        ({"pair_prompt": "{content} {query}"}, "names {query} after {content}"),
        (
            {"list_prompt": "{candidates}{query}"},
            "got a prompt list_prompt; allowed as it is read: pair_prompt",
        ),
    ],
)
def test_a_wrong_template_is_one_clear_line(
    folders: dict[str, Path], prompts: dict[str, str], said: str
) -> None:
    reranker = RNXRerank(model=str(folders["qwen2_vl"]), device="cpu")
    with pytest.raises(RNXError) as refused:
        reranker.update_prompts(
            {name: PromptTemplate(template) for name, template in prompts.items()}
        )
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert reranker.prompts == {}  # and nothing has changed
    assert len(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == 3
    with pytest.raises(RNXError, match="prompt"):
        RNXRerank(model=str(folders["qwen2_vl"]), prompts=prompts).get_prompts()


@pytest.mark.parametrize("ranker", [None, FakeRanker()])
def test_a_ranker_without_a_prompt_has_none(ranker: Any) -> None:
    reranker = RNXRerank(ranker=ranker)
    assert reranker.get_prompts() == {}
    with pytest.raises(RNXError, match=r"got a prompt list_prompt; allowed as it is read: none"):
        reranker.update_prompts({"list_prompt": PromptTemplate("{candidates}{query}")})
