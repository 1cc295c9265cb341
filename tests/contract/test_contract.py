"""The promises of RNXRerank and of the public names, one test each."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fakes import BLUE, GREEN, RED, BrokenRanker, FakeRanker, image_base64, text_hits
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

import llama_index_rnx
from llama_index_rnx import (
    NodeCollection,
    Ranker,
    RNXEmbedding,
    RNXError,
    RNXRerank,
    RNXRetriever,
    load_ranker,
)
from llama_index_rnx.rankers.mini import MiniRanker

WORDS = ("red", "apple", "green", "pear", "blue", "plum")
FIVE = ("a red apple", "a green pear", "a red plum and an apple", "nothing here", "apple")


def fake_rerank(**options: Any) -> RNXRerank:
    return RNXRerank(ranker=FakeRanker(), **{"top_n": 5, **options})


def ids(hits: list[NodeWithScore]) -> list[str]:
    return [hit.node_id for hit in hits]


def found(hits: list[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(hit.node_id, hit.score) for hit in hits]


# --- the public names


def test_public_names_are_those_of_the_contract() -> None:
    names = {"NodeCollection", "RNXRetriever", "RNXRerank", "RNXEmbedding", "load_ranker"}
    assert names <= set(llama_index_rnx.__all__)
    assert all(hasattr(llama_index_rnx, name) for name in llama_index_rnx.__all__)


def test_rerank_options_and_defaults_are_those_of_the_contract() -> None:
    defaults = {
        "top_n": 5,
        "window": None,
        "stride": None,
        "min_score": None,
        "device": None,
        "dtype": None,
        "max_pixels": None,
        "max_text_tokens": None,
        "keep_retrieval_score": False,
        "on_error": "raise",
        "memory_path": None,
    }
    reranker = RNXRerank(model="rnx-mini")
    assert {name: getattr(reranker, name) for name in defaults} == defaults
    assert issubclass(RNXRerank, BaseNodePostprocessor)
    assert RNXRerank.class_name() == "RNXRerank"


def test_signatures_of_the_contract() -> None:
    assert list(inspect.signature(NodeCollection.__init__).parameters)[:2] == ["self", "location"]
    assert inspect.signature(RNXRetriever.__init__).parameters["top_k"].default == 100
    assert next(iter(inspect.signature(load_ranker).parameters)) == "model"
    assert issubclass(RNXError, ValueError)
    with pytest.raises(RNXError, match="top_k"):
        RNXRetriever(None, top_k=0)  # type: ignore[arg-type]


# --- what comes out


def test_best_first_by_the_scores_of_the_ranker() -> None:
    best = fake_rerank().postprocess_nodes(text_hits(*FIVE), query_str="red apple")
    assert found(best) == [("n0", 1.0), ("n2", 1.0), ("n4", 0.5), ("n1", 0.0), ("n3", 0.0)]


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_of_the_caller_is_changed(keep: bool) -> None:
    hits = text_hits(*FIVE)
    hits[1] = NodeWithScore(
        node=ImageNode(id_="n1", image=image_base64(), metadata={"deep": {"list": [1]}}), score=None
    )
    before, nodes = [copy.deepcopy(hit.to_dict()) for hit in hits], [hit.node for hit in hits]
    objects = list(hits)
    bundle = QueryBundle("red apple")
    fake_rerank(top_n=2, keep_retrieval_score=keep).postprocess_nodes(hits, bundle)
    assert [hit.to_dict() for hit in hits] == before
    assert all(a is b for a, b in zip(hits, objects, strict=True))
    assert all(hit.node is node for hit, node in zip(hits, nodes, strict=True))
    assert bundle == QueryBundle("red apple")


def test_new_node_with_score_objects_with_the_same_nodes() -> None:
    hits = text_hits(*FIVE)
    best = fake_rerank().postprocess_nodes(hits, query_str="apple")
    assert not {id(hit) for hit in best} & {id(hit) for hit in hits}
    assert {id(hit.node) for hit in best} == {id(hit.node) for hit in hits}


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), max_size=45
    ),
    same=st.booleans(),
    window=st.integers(1, 20),
    stride=st.integers(1, 20),
    top_n=st.integers(1, 50),
)
def test_any_list_comes_back_as_a_permutation_cut_to_top_n(
    texts: list[str], same: bool, window: int, stride: int, top_n: int
) -> None:
    hits = text_hits(*texts)
    if same and len(hits) > 1:  # one node may stand in a list several times
        hits[-1] = NodeWithScore(node=hits[0].node, score=0.1)
    reranker = fake_rerank(window=window, stride=stride)
    everything = reranker.model_copy(update={"top_n": len(hits) + 1}).postprocess_nodes(
        hits, query_str="red pear"
    )
    assert sorted(ids(everything)) == sorted(ids(hits))
    scores = [hit.score for hit in everything]
    assert all(type(score) is float for score in scores)
    assert all(a >= b for a, b in pairwise(scores))  # type: ignore[operator]
    cut = RNXRerank(ranker=reranker.ranker, top_n=top_n, window=window, stride=stride)
    assert found(cut.postprocess_nodes(hits, query_str="red pear")) == found(everything)[:top_n]


def test_ties_keep_the_order_of_the_retriever() -> None:
    assert ids(fake_rerank().postprocess_nodes(text_hits("b", "a", "c"), query_str="zebra")) == [
        "n0",
        "n1",
        "n2",
    ]


def test_top_n_larger_than_the_list() -> None:
    assert len(fake_rerank(top_n=99).postprocess_nodes(text_hits(*FIVE), query_str="apple")) == 5


def test_a_second_call_gives_the_same_answer_and_remembers_nothing_new() -> None:
    reranker = fake_rerank()
    hits = text_hits(*FIVE)
    first = reranker.postprocess_nodes(hits, query_str="red apple")
    assert found(reranker.postprocess_nodes(hits, query_str="red apple")) == found(first)
    assert sorted(reranker.ranker.remembered) == ["n0", "n1", "n2", "n3", "n4"]


def test_reranking_its_own_output_keeps_it() -> None:
    reranker = fake_rerank()
    first = reranker.postprocess_nodes(text_hits(*FIVE), query_str="red apple")
    assert found(reranker.postprocess_nodes(first, query_str="red apple")) == found(first)


def test_min_score_leaves_out_what_scores_less() -> None:
    best = fake_rerank(min_score=0.5).postprocess_nodes(text_hits(*FIVE), query_str="red apple")
    assert ids(best) == ["n0", "n2", "n4"]
    assert (
        fake_rerank(min_score=2.0).postprocess_nodes(text_hits(*FIVE), query_str="red apple") == []
    )


def test_window_and_stride_are_obeyed_and_bounded_by_the_ranker() -> None:
    hits = text_hits(*[f"text {i}" for i in range(30)])
    reranker = RNXRerank(ranker=FakeRanker(window=20), top_n=30)
    reranker.postprocess_nodes(hits, query_str="apple")
    assert reranker.ranker.reads == [20, 20]  # positions 10-29, then 0-19
    small = RNXRerank(ranker=FakeRanker(window=20), top_n=30, window=10, stride=10)
    small.postprocess_nodes(hits, query_str="apple")
    assert small.ranker.reads == [10, 10, 10]
    large = RNXRerank(ranker=FakeRanker(window=5), top_n=30, window=99, stride=99)
    large.postprocess_nodes(hits, query_str="apple")
    assert max(large.ranker.reads) == 5


def test_mixed_list_of_texts_images_and_both() -> None:
    hits = [
        NodeWithScore(node=TextNode(id_="text", text="a green leaf"), score=0.4),
        NodeWithScore(node=ImageNode(id_="image", image=image_base64(RED)), score=0.3),
        NodeWithScore(
            node=ImageNode(id_="both", image=image_base64(RED), text="an apple"), score=0.2
        ),
        NodeWithScore(node=ImageNode(id_="blue", image=image_base64(BLUE)), score=0.1),
    ]
    assert ids(fake_rerank(top_n=2).postprocess_nodes(hits, query_str="red apple")) == [
        "both",
        "image",
    ]


def test_image_query(tmp_path: Path) -> None:
    from fakes import write_image

    hits = [
        NodeWithScore(node=ImageNode(id_=name, image=image_base64(colour)), score=None)
        for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE))
    ]
    bundle = QueryBundle("", image_path=str(write_image(tmp_path / "asked.png", BLUE)))
    assert ids(fake_rerank(top_n=1).postprocess_nodes(hits, bundle)) == ["blue"]


# --- the retrieval score


def test_keep_retrieval_score_stands_in_the_metadata_and_leaks_nowhere() -> None:
    hits = text_hits(*FIVE)
    (best,) = fake_rerank(top_n=1, keep_retrieval_score=True).postprocess_nodes(
        hits, query_str="green"
    )
    assert best.node.metadata == {"place": 1, "retrieval_score": 0.5}
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert best.node.get_content(mode) == hits[1].node.get_content(mode)
        assert "retrieval_score" not in best.node.get_content(mode)
    assert "retrieval_score" not in hits[1].node.metadata


def test_keep_retrieval_score_twice_still_leaks_nowhere() -> None:
    reranker = fake_rerank(keep_retrieval_score=True)
    hits = text_hits(*FIVE)
    twice = reranker.postprocess_nodes(
        reranker.postprocess_nodes(hits, query_str="green"), query_str="green"
    )
    assert all("retrieval_score" not in hit.node.get_content(MetadataMode.LLM) for hit in twice)
    assert reranker.ranker.remembered == ids(hits)  # the same content: the same memory


# --- sync and async


async def test_async_equals_sync() -> None:
    reranker, hits = fake_rerank(), text_hits(*FIVE)
    expected = found(reranker.postprocess_nodes(hits, query_str="red apple"))
    assert found(await reranker.apostprocess_nodes(hits, query_str="red apple")) == expected


async def test_six_concurrent_calls_equal_the_single_ones_and_use_the_ranker_one_at_a_time() -> (
    None
):
    reranker = fake_rerank()
    queries = ["red apple", "green pear", "blue plum", "apple", "plum", "nothing here"]
    lists = [text_hits(*FIVE[i % 5 :], *FIVE[: i % 5]) for i in range(6)]
    single = [
        found(fake_rerank().postprocess_nodes(hits, query_str=q))
        for hits, q in zip(lists, queries, strict=True)
    ]
    calls = [
        reranker.apostprocess_nodes(hits, query_str=q)
        for hits, q in zip(lists, queries, strict=True)
    ]
    assert [found(best) for best in await asyncio.gather(*calls)] == single
    assert reranker.ranker.most_busy == 1


async def test_concurrent_first_calls_load_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(model: str, **_: Any) -> FakeRanker:
        loaded.append(model)
        return FakeRanker()

    monkeypatch.setattr("llama_index_rnx.rerank.load_ranker", load)
    reranker = RNXRerank(model="some-model")
    assert loaded == []  # nothing is loaded by the constructor
    await asyncio.gather(
        *[reranker.apostprocess_nodes(text_hits(*FIVE), query_str="apple") for _ in range(6)]
    )
    assert loaded == ["some-model"]
    reranker.unload()
    reranker.postprocess_nodes(text_hits(*FIVE), query_str="apple")
    assert loaded == ["some-model", "some-model"]


# --- events


class Recorder(BaseEventHandler):
    events: list[Any]

    @classmethod
    def class_name(cls) -> str:
        return "Recorder"

    def handle(self, event: BaseEvent, **_: Any) -> None:
        if isinstance(event, (ReRankStartEvent, ReRankEndEvent)):
            self.events.append(event)


class Legacy(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])
        self.starts: list[Any] = []
        self.ends: list[Any] = []

    def on_event_start(
        self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any
    ) -> str:
        self.starts.append((event_type, payload, event_id))
        return event_id

    def on_event_end(
        self, event_type: CBEventType, payload: Any = None, event_id: str = "", **_: Any
    ) -> None:
        self.ends.append((event_type, payload, event_id))

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


@pytest.fixture
def events() -> Any:
    recorder = Recorder(events=[])
    root = get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder.events
    root.event_handlers.remove(recorder)


@pytest.mark.parametrize("case", ["list", "empty", "error", "keep_order"])
def test_events_stand_in_pairs(case: str, events: list[Any]) -> None:
    legacy = Legacy()
    ranker = BrokenRanker() if case in ("error", "keep_order") else FakeRanker()
    reranker = RNXRerank(
        ranker=ranker, top_n=2, on_error="keep_order" if case == "keep_order" else "raise"
    )
    reranker.callback_manager = CallbackManager([legacy])  # as engines do
    hits = [] if case == "empty" else text_hits(*FIVE)
    if case == "error":
        with pytest.raises(RuntimeError, match="broke"):
            reranker.postprocess_nodes(hits, query_str="apple")
    else:
        reranker.postprocess_nodes(hits, query_str="apple")
    assert [type(event) for event in events] == [ReRankStartEvent, ReRankEndEvent]
    assert events[0].top_n == 2
    assert events[0].model_name == "fake"
    assert len(events[0].nodes) == len(hits)
    assert len(events[1].nodes) == {"list": 2, "empty": 0, "error": 0, "keep_order": 2}[case]
    assert [kind for kind, *_ in legacy.starts] == [CBEventType.RERANKING]
    assert [kind for kind, *_ in legacy.ends] == [CBEventType.RERANKING]
    assert legacy.starts[0][2] == legacy.ends[0][2]


def test_an_empty_list_stays_empty_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_rnx.rerank.load_ranker", None)
    assert RNXRerank().postprocess_nodes([], query_str="apple") == []


# --- settings there and back


@pytest.mark.parametrize("loaded", [False, True])
def test_json_and_dict_and_pickle_round_trips(
    loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_index_rnx.rerank.load_ranker", lambda *_, **__: FakeRanker())
    options = {
        "top_n": 3,
        "window": 10,
        "stride": 5,
        "min_score": 0.1,
        "keep_retrieval_score": True,
        "on_error": "keep_order",
    }
    reranker = RNXRerank(model="some-model", dtype="float32", memory_path=None, **options)  # type: ignore[arg-type]
    if loaded:
        reranker.postprocess_nodes(text_hits(*FIVE), query_str="apple")
    copies = [
        RNXRerank.from_dict(reranker.to_dict()),
        RNXRerank.from_json(reranker.to_json()),
        RNXRerank.from_dict(json.loads(json.dumps(reranker.to_dict()))),
        pickle.loads(pickle.dumps(reranker)),
        reranker.model_copy(),
        copy.copy(reranker),
        copy.deepcopy(reranker),
    ]
    expected = found(reranker.postprocess_nodes(text_hits(*FIVE), query_str="red apple"))
    for other in copies:
        assert other.to_dict() == reranker.to_dict()
        assert found(other.postprocess_nodes(text_hits(*FIVE), query_str="red apple")) == expected
    assert reranker.to_dict()["class_name"] == "RNXRerank"


def test_a_reranker_with_the_real_model_in_it_is_pickled_without_the_weights(
    mini: MiniRanker,
) -> None:
    reranker = RNXRerank(dtype="float32", top_n=1)
    expected = found(
        reranker.postprocess_nodes(
            text_hits("Bees make honey.", "Rust is iron oxide."), query_str="rust"
        )
    )
    data = pickle.dumps(reranker)
    assert len(data) < 10_000
    again = pickle.loads(data)
    assert (
        found(
            again.postprocess_nodes(
                text_hits("Bees make honey.", "Rust is iron oxide."), query_str="rust"
            )
        )
        == expected
    )


def test_unknown_options_are_refused() -> None:
    for options in ({"topn": 3}, {"models": "x"}, {"keep_score": True}):
        with pytest.raises(RNXError, match="Extra inputs"):
            RNXRerank(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"top_n": 0}, {"top_n": None}, {"window": 0}, {"stride": 0}, {"on_error": "ignore"}]
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RNXRerank(**options)


def test_memory_path_may_be_a_path(tmp_path: Path) -> None:
    reranker = fake_rerank(memory_path=tmp_path / "memories")
    reranker.postprocess_nodes(text_hits(*FIVE), query_str="apple")
    assert RNXRerank.from_json(reranker.to_json()).memory_path == str(tmp_path / "memories")
    assert (tmp_path / "memories" / "memories.sqlite").is_file()


# --- a ready ranker


def test_a_ready_ranker_is_checked() -> None:
    assert isinstance(FakeRanker(), Ranker)
    assert RNXRerank(ranker=FakeRanker(name="mine")).model == "mine"
    with pytest.raises(RNXError, match="remember and score"):
        RNXRerank(ranker="rnx-mini")


@pytest.mark.parametrize("scores", [[float("nan")], [float("inf")]])
def test_a_score_that_is_no_number_is_refused(scores: list[float]) -> None:
    class Odd(FakeRanker):
        def score(self, query: Any, memories: Any) -> list[float]:
            return scores * len(memories)

    with pytest.raises(RNXError, match="no number"):
        RNXRerank(ranker=Odd()).postprocess_nodes(text_hits(*FIVE), query_str="apple")


def test_a_ranker_that_gives_too_few_scores_is_an_error() -> None:
    class Short(FakeRanker):
        def score(self, query: Any, memories: Any) -> list[float]:
            return [1.0]

    with pytest.raises(ValueError):
        RNXRerank(ranker=Short()).postprocess_nodes(text_hits(*FIVE), query_str="apple")


# --- faults


def test_keep_order_gives_the_order_of_the_retriever_and_counts() -> None:
    reranker = RNXRerank(ranker=BrokenRanker(), top_n=3, on_error="keep_order")
    hits = text_hits(*FIVE)
    assert found(reranker.postprocess_nodes(hits, query_str="apple")) == found(hits)[:3]
    assert reranker.failures == 1
    assert reranker.postprocess_nodes(hits, query_str="apple")[0] is not hits[0]


def test_keep_order_logs_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    reranker = RNXRerank(ranker=BrokenRanker(), on_error="keep_order")
    reranker.postprocess_many([(QueryBundle("apple"), text_hits(*FIVE)) for _ in range(2)])
    warnings = [record for record in caplog.records if record.name == "llama_index_rnx.rerank"]
    assert [record.levelname for record in warnings] == ["WARNING"] * 2, "one for each list"
    assert warnings[0].exc_info is not None
    assert str(warnings[0].exc_info[1]) == "the ranker broke"
    with pytest.raises(RuntimeError, match="broke"):
        RNXRerank(ranker=BrokenRanker()).postprocess_nodes(text_hits(*FIVE), query_str="apple")
    assert len([r for r in caplog.records if r.name == "llama_index_rnx.rerank"]) == 2


@pytest.mark.parametrize("on_error", ["raise", "keep_order"])
def test_an_image_that_cannot_be_read_comes_last_with_a_warning(on_error: str) -> None:
    hits = [
        NodeWithScore(node=ImageNode(id_="bad", image="bm8gaW1hZ2U="), score=0.9),
        *text_hits("one", "two"),
    ]
    reranker = fake_rerank(on_error=on_error)
    with pytest.warns(RuntimeWarning, match=r"1 of 3 nodes .*bad.*cannot be read as an image"):
        best = reranker.postprocess_nodes(hits, query_str="two")
    assert found(best) == [("n1", 1.0), ("n0", 0.0), ("bad", 0.0)]
    assert reranker.failures == 0


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(RNXError, match="query is empty"):
        fake_rerank().postprocess_nodes(text_hits(*FIVE), query_str=query)


def test_no_query_is_refused() -> None:
    with pytest.raises(RNXError, match="no query"):
        fake_rerank().postprocess_nodes(text_hits(*FIVE))


def test_a_node_with_neither_text_nor_image_comes_last_and_is_named() -> None:
    hits = [NodeWithScore(node=TextNode(id_="hollow", text="  "), score=0.9), *text_hits("one")]
    with pytest.warns(RuntimeWarning, match=r"1 of 2 nodes .*hollow.*neither text nor image"):
        best = fake_rerank().postprocess_nodes(hits, query_str="one")
    assert found(best) == [("n0", 1.0), ("hollow", 0.0)]


@pytest.mark.parametrize("model", ["rnx-mimi", "", "some/model", "/nowhere/at/all"])
def test_an_unknown_model_says_what_there_is(model: str) -> None:
    with pytest.raises(RNXError, match="rnx-mini") as refused:
        load_ranker(model)
    assert repr(model) in str(refused.value)
    assert "\n" not in str(refused.value)
    reranker = RNXRerank(model=model)  # lazily: no word yet
    with pytest.raises(RNXError, match="rnx-mini"):
        reranker.postprocess_nodes(text_hits(*FIVE), query_str="apple")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(RNXError, match="float32"):
        load_ranker("rnx-mini", dtype="float8")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(RNXError, match="device"):
        load_ranker("rnx-mini", device="abacus")


# --- easy cases for the real model


def test_the_shipped_model_orders_easy_texts(mini: MiniRanker) -> None:
    texts = (
        "Bees make honey in their hives.",
        "Rust is iron oxide.",
        "The parliament passed the budget.",
    )
    reranker = RNXRerank(ranker=mini, top_n=1)
    for query, best in (
        ("How is honey made?", "n0"),
        ("What is rust?", "n1"),
        ("vote on government spending", "n2"),
    ):
        assert ids(reranker.postprocess_nodes(text_hits(*texts), query_str=query)) == [best]


async def test_the_shipped_model_is_the_same_for_six_callers(mini: MiniRanker) -> None:
    reranker = RNXRerank(dtype="float32", top_n=4)
    hits = [
        *text_hits("Bees make honey.", "Rust is iron oxide.", "A red card."),
        NodeWithScore(node=_red(), score=0.1),
    ]
    single = found(reranker.postprocess_nodes(hits, query_str="a red picture"))
    calls = [reranker.apostprocess_nodes(hits, query_str="a red picture") for _ in range(6)]
    assert [found(best) for best in await asyncio.gather(*calls)] == [single] * 6


def _red() -> ImageNode:
    return ImageNode(id_="red", image=image_base64(RED))


def test_embedding_of_the_package_is_pickled_without_its_weights(mini: MiniRanker) -> None:
    embedding = RNXEmbedding(dtype="float32")
    vector = embedding.get_text_embedding("honey")
    data = pickle.dumps(embedding)
    assert len(data) < 10_000
    assert pickle.loads(data).get_text_embedding("honey") == vector
    assert len(embedding.get_query_embedding("honey")) == len(vector)
