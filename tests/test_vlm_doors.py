"""Vision-language checkpoints through the doors that users take: RNXRerank, its prompts, and the command line."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from fakes import BLUE, RED, FakeRanker, image_base64
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from tiny_vlm import FAMILIES

from llama_index_rnx import RNXRerank
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.loading import load_vlm
from llama_index_rnx.rankers.prompt import INSTRUCTION, ListPrompt, PairPrompt

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning"),
]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def mixed_nodes() -> list[NodeWithScore]:
    """A text, a picture, and a node that is both."""
    nodes = [
        TextNode(id_="text", text="a red apple"),
        ImageNode(id_="image", image=image_base64(RED, size=(90, 60))),
        ImageNode(id_="both", text="the sea", image=image_base64(BLUE, size=(60, 120))),
    ]
    return [NodeWithScore(node=node, score=1 / (i + 1)) for i, node in enumerate(nodes)]


def order(hits: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(hit.node_id, hit.score) for hit in hits]


# ---- prompts --------------------------------------------------------------------------------------------------------

PAIR = "Question: {query}\nDocument: {content}\nDoes it help? "


def test_prompts_are_read_and_replaced(folders: dict[str, Path]) -> None:
    reranker = RNXRerank(model=str(folders["qwen2_vl"]), device="cpu")
    (name,) = reranker.get_prompts()
    shown = reranker.get_prompts()[name].get_template()
    assert (name, shown) == ("pair_prompt", PairPrompt().template.replace("{instruction}", INSTRUCTION))
    before = order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?"))
    reranker.update_prompts({name: PromptTemplate(PAIR)})
    after = order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?"))
    assert reranker.get_prompts()[name].get_template() == PAIR
    assert [score for _, score in after] != pytest.approx([score for _, score in before], abs=1e-3)
    reranker.unload()
    assert order(reranker.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == after
    for other in (copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker)), RNXRerank.from_dict(reranker.to_dict())):
        assert order(other.postprocess_nodes(mixed_nodes(), query_str="what is red?")) == after


def test_a_list_prompt_is_two_templates_and_a_ready_ranker_keeps_its_own(folders: dict[str, Path]) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu")
    reranker = RNXRerank(ranker=ranker)
    assert reranker.get_prompts().keys() == {"list_prompt", "candidate_prompt"}
    reranker.update_prompts({"candidate_prompt": PromptTemplate("({label})\n{content}\n")})
    changed = reranker.get_prompts()
    assert changed["candidate_prompt"].get_template() == "({label})\n{content}\n"
    assert changed["list_prompt"].get_template() == ListPrompt().template == ranker.list_prompt.template
    assert ranker.list_prompt.candidate == ListPrompt().candidate


def test_labels_follow_the_prompt_that_they_answer(folders: dict[str, Path]) -> None:
    ranker = load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu", window=3)
    template = "{candidates}Q: {query}\n<|im_start|>assistant\n"
    other = ranker.with_prompts({"list_prompt": template})
    assert (other.window, other.labels) == (3, ["A", "B", "C"])
    direct = load_vlm(
        str(folders["qwen2_vl"]), readout="labels", device="cpu", window=3, list_prompt=ListPrompt(template=template)
    )
    nodes = mixed_nodes()
    found = [order(RNXRerank(ranker=one).postprocess_nodes(nodes, query_str="red")) for one in (other, direct, ranker)]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"pair_prompt": "{content}"}, "mistake at {query}: {content} is named exactly once, {query} at least once"),
        ({"pair_prompt": "{query} {content} {label}"}, "mistake at {label}"),
        ({"pair_prompt": "{content} {query}"}, "names {query} after {content}"),
        ({"list_prompt": "{candidates}{query}"}, "got a prompt list_prompt; allowed as it is read: pair_prompt"),
    ],
)
def test_a_wrong_template_is_one_clear_line(folders: dict[str, Path], prompts: dict[str, str], said: str) -> None:
    reranker = RNXRerank(model=str(folders["qwen2_vl"]), device="cpu")
    with pytest.raises(RNXError) as refused:
        reranker.update_prompts({name: PromptTemplate(template) for name, template in prompts.items()})
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
