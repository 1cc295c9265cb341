"""HyDE and ready embeddings: they change what the dense search looks for, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fakes import RED, FakeEmbedding, FakeRanker, image_base64
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine, TransformQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from llama_index_rnx import NodeCollection, RNXEmbedding, RNXError, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import query_of
from llama_index_rnx.embed import embed_query

# LlamaIndex leaves event loops open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class TellingLLM(MockLLM):
    """Writes the passage that HyDE asks for."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="honey honey honey")


@pytest.fixture
def retriever() -> Iterator[RNXRetriever]:
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    texts = {"bees": "honey from bees", "rust": "iron oxide", "rain": "water falls"}
    collection.add([TextNode(id_=name, text=text) for name, text in texts.items()])
    yield RNXRetriever(collection)
    collection.close()


def first(hits: list[NodeWithScore]) -> str:
    return hits[0].node_id


def vector_of(*texts: str, embedding: Any = None) -> list[float]:
    return embed_query(
        embedding or FakeEmbedding(),
        query_of(QueryBundle("x", custom_embedding_strs=list(texts)), dense=True),
    )


def test_the_mean_of_the_texts_is_looked_for() -> None:
    embedding = FakeEmbedding()
    mean = np.mean(
        [embedding.get_query_embedding(text) for text in ("iron", "water falls")], axis=0
    )
    assert vector_of("iron", "water falls") == pytest.approx(mean / np.linalg.norm(mean))
    assert vector_of("iron", " ", "") == vector_of("iron")


def test_the_mean_by_the_embedding_of_the_package() -> None:
    embedding = RNXEmbedding()
    mean = np.mean([embedding.get_query_embedding(text) for text in ("iron", "water")], axis=0)
    assert vector_of("iron", "water", embedding=embedding) == pytest.approx(
        mean / np.linalg.norm(mean), abs=1e-6
    )


async def test_they_have_their_effect(retriever: RNXRetriever) -> None:
    cases = {
        "water": QueryBundle("unheard", custom_embedding_strs=["water falls"]),
        "iron": QueryBundle("unheard", embedding=FakeEmbedding().get_query_embedding("iron")),
        "honey": QueryBundle(
            "unheard", embedding=np.asarray(FakeEmbedding().get_query_embedding("honey"))
        ),  # type: ignore[arg-type]
        "both": QueryBundle(
            "x",
            custom_embedding_strs=["iron"],
            embedding=FakeEmbedding().get_query_embedding("honey"),
        ),
        "no text": QueryBundle("", custom_embedding_strs=["water"]),
    }
    wanted = {"water": "rain", "iron": "rust", "honey": "bees", "both": "bees", "no text": "rain"}
    assert {name: first(retriever.retrieve(query)) for name, query in cases.items()} == wanted
    assert {
        name: first(await retriever.aretrieve(query)) for name, query in cases.items()
    } == wanted


def test_bm25_goes_on_with_the_question(retriever: RNXRetriever) -> None:
    hits = retriever.retrieve(QueryBundle("iron", custom_embedding_strs=["honey"]))
    # Each is the first of one of the two lists.
    assert {hit.node_id for hit in hits[:2]} == {
        "rust",
        "bees",
    }


def test_a_picture_beside_the_texts(retriever: RNXRetriever) -> None:
    picture = f"data:image/png;base64,{image_base64(RED)}"
    query = query_of(
        QueryBundle("", image_path=picture, custom_embedding_strs=["iron"]), dense=True
    )
    parts = [np.asarray(FakeEmbedding().get_query_embedding(word)) for word in ("iron", "red")]
    total = np.sum([part / np.linalg.norm(part) for part in parts], axis=0)
    assert embed_query(FakeEmbedding(), query) == pytest.approx(total / np.linalg.norm(total))


@pytest.mark.parametrize("strings", [None, [], [" "]])
def test_nothing_to_embed_leaves_the_question(retriever: RNXRetriever, strings: Any) -> None:
    assert first(retriever.retrieve(QueryBundle("iron", custom_embedding_strs=strings))) == "rust"


@pytest.mark.parametrize(
    ("bundle", "said"),
    [
        (
            QueryBundle("iron", embedding=[1.0, 2.0]),
            "has 2 numbers, the vectors of this collection have 1024",
        ),
        (QueryBundle("iron", embedding=[float("nan")] * 1024), "a number that is none"),
        (QueryBundle("iron", embedding=[0.0] * 1024), "all zeros"),
        (QueryBundle("iron", embedding=["x"] * 1024), "no list of numbers"),  # type: ignore[list-item]
        (QueryBundle("iron", embedding=5), "no list of numbers"),  # type: ignore[arg-type]
        (QueryBundle("iron", custom_embedding_strs=[5]), "custom_embedding_strs holds 5"),  # type: ignore[list-item]
        (QueryBundle("", custom_embedding_strs=[" "]), "the query is empty"),
    ],
)
def test_what_cannot_be_searched_by(
    retriever: RNXRetriever, bundle: QueryBundle, said: str
) -> None:
    with pytest.raises(RNXError, match=said) as refused:
        retriever.retrieve(bundle)
    assert "\n" not in str(refused.value)


def test_a_reranker_asks_for_words_or_a_picture() -> None:
    with pytest.raises(RNXError, match="query is empty"):
        RNXRerank(ranker=FakeRanker()).postprocess_nodes(
            [], QueryBundle("", custom_embedding_strs=["iron"])
        )


async def test_hyde_from_end_to_end(retriever: RNXRetriever) -> None:
    plain = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    engine = TransformQueryEngine(
        plain, HyDEQueryTransform(llm=TellingLLM(), include_original=False)
    )
    assert first(engine.query("unheard").source_nodes) == "bees"
    assert first((await engine.aquery("unheard")).source_nodes) == "bees"
    reranked = RetrieverQueryEngine.from_args(
        retriever, llm=MockLLM(), node_postprocessors=[RNXRerank(ranker=FakeRanker(), top_n=1)]
    )
    engine = TransformQueryEngine(reranked, HyDEQueryTransform(llm=TellingLLM()))
    # The reranker reads the question.
    assert [hit.node_id for hit in engine.query("oxide").source_nodes] == ["rust"]


def test_a_blank_question_has_a_vector_as_a_blank_text_has() -> None:
    """LlamaIndex's own embeddings take it, and some of its parts ask for it."""
    embedding = RNXEmbedding()
    assert len(embedding.get_query_embedding("")) == len(embedding.get_text_embedding(""))
