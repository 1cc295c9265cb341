"""rnx-mini as it is shipped: the promises of a ranker, not the quality of its order."""

from __future__ import annotations

import hashlib
import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import BLUE, GREEN, RED, image_bytes, write_image
from llama_index.core.schema import ImageNode
from PIL import Image

from llama_index_rnx import Ranker, load_ranker
from llama_index_rnx.candidates import Candidate, ImageSource, Query, bytes_source, pil_source
from llama_index_rnx.errors import ImageError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.mini import MiniRanker, model_folder
from llama_index_rnx.rankers.mini.text_encoder import TextEncoder
from llama_index_rnx.ranking import get_or_compute_memories

TEXTS = (
    "Bees make honey from the nectar of flowers.",
    "Rust is iron oxide, a red crust on old iron.",
    "The parliament passed the budget after a long night.",
    "A dog runs along the beach.",
    "Mitochondria are the power plants of the cell.",
)
QUERY = Query(text="how do bees make honey?")


def picture(colour: tuple[int, ...] = RED, size: tuple[int, int] = (64, 48)) -> ImageSource:
    return bytes_source(image_bytes(colour, size), label="picture")


def noise(seed: int) -> ImageSource:
    numbers = random.Random(seed)
    small = Image.new("RGB", (6, 6))
    small.putdata([tuple(numbers.randrange(256) for _ in range(3)) for _ in range(36)])
    return pil_source(small.resize((90, 70)))


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    texts = [Candidate(id=f"t{i}", text=text) for i, text in enumerate(TEXTS)]
    images = [Candidate(id=f"i{i}", image=noise(i)) for i in range(4)]
    both = [
        Candidate(id=f"b{i}", text=text, image=noise(10 + i)) for i, text in enumerate(TEXTS[:3])
    ]
    return [*texts, *images, *both]


@pytest.fixture(scope="module")
def memories(mini: MiniRanker, candidates: list[Candidate]) -> list[Any]:
    return mini.remember(candidates)


def close(one: Sequence[float], other: Sequence[float], by: float = 1e-4) -> bool:
    return len(one) == len(other) and all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


# --- the file


def test_the_weights_are_small_and_named_by_their_digest(mini: MiniRanker) -> None:
    file = model_folder() / "model.safetensors"
    assert file.stat().st_size <= 64 * 2**20
    digest = json.loads((model_folder() / "config.json").read_text())["digest"]
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert digest in mini.fingerprint


def test_it_is_a_ranker(mini: MiniRanker) -> None:
    assert isinstance(mini, Ranker)
    assert mini.name == "rnx-mini"
    assert mini.window >= 100
    assert load_ranker("rnx-mini", dtype="float32") is mini  # loaded once


def test_the_fingerprint_changes_with_what_changes_memories(mini: MiniRanker) -> None:
    assert (
        load_ranker("rnx-mini", dtype="float32", max_text_tokens=100).fingerprint
        != mini.fingerprint
    )


# --- remember


def test_remembered_equals_fresh(
    mini: MiniRanker, candidates: list[Candidate], tmp_path: Any
) -> None:
    store = MemoryStore(tmp_path)
    first = get_or_compute_memories(mini, candidates, store)
    scores = mini.score(QUERY, first)
    assert mini.score(QUERY, get_or_compute_memories(mini, candidates, store)) == scores
    assert close(mini.score(QUERY, mini.remember(candidates)), scores, 1e-6)


def test_a_memory_holds_what_the_candidate_has(memories: list[Any], mini: MiniRanker) -> None:
    kinds = [("chunks" in memory, "vector" in memory) for memory in memories]
    assert kinds == [(True, False)] * 5 + [(False, True)] * 4 + [(True, True)] * 3
    for memory, (text, image) in zip(memories, kinds, strict=True):
        assert (mini.text_vector(memory) is not None) == text
        assert (mini.image_vector(memory) is not None) == image
        assert all(isinstance(array, np.ndarray) for array in memory.values())


def test_vectors_have_unit_length(memories: list[Any], mini: MiniRanker) -> None:
    vectors = [
        mini.text_vector(memories[0]),
        mini.image_vector(memories[5]),
        mini.query_vector(QUERY),
    ]
    vectors.append(mini.query_vector(Query(text="bees", image=noise(1))))
    assert len({len(vector) for vector in vectors if vector}) == 1
    for vector in vectors:
        assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=2e-3)


def test_a_memory_is_at_most_24_kilobytes(mini: MiniRanker) -> None:
    """Of a page with a picture and a text that fills everything: eight chunks, and more distinct
    word pieces than are kept.
    """
    letters = random.Random(0).choices(string.ascii_lowercase, k=12_000)
    words = ["".join(letters[place : place + 3]) for place in range(0, len(letters), 3)]
    (memory,) = mini.remember([Candidate(id="x", text=" ".join(words), image=noise(0))])
    assert len(memory["chunks"]) == 8
    assert len(memory["pieces"]) == 384
    assert sum(tensor.nbytes for tensor in memory.values()) <= 24 * 1_024


def test_memories_do_not_depend_on_their_neighbours(
    mini: MiniRanker, candidates: list[Candidate], memories: list[Any]
) -> None:
    alone = [mini.remember([candidate])[0] for candidate in candidates]
    assert close(mini.score(QUERY, alone), mini.score(QUERY, memories))
    for one, other in zip(alone, memories, strict=True):
        assert set(one) == set(other)
        for name, array in one.items():
            # Of int8, the last digit may fall the other way.
            exactness = 1.0 if array.dtype == np.int8 else 1e-3
            assert array.shape == other[name].shape
            assert np.allclose(
                array.astype(np.float32), other[name].astype(np.float32), atol=exactness
            )


def test_nothing_to_remember(mini: MiniRanker) -> None:
    assert mini.remember([]) == []


def test_a_broken_image_raises_an_image_error(mini: MiniRanker) -> None:
    with pytest.raises(ImageError):
        mini.remember(
            [
                Candidate(id="a", text="a"),
                Candidate(id="b", image=bytes_source(b"rubbish", label="b")),
            ]
        )


# --- score


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        Query(text="a red picture"),
        Query(image=noise(2)),
        Query(text="noise", image=noise(2)),
    ],
    ids=["text", "text2", "image", "both"],
)
def test_scores_follow_their_memories_through_any_order(
    mini: MiniRanker, memories: list[Any], query: Query
) -> None:
    scores = mini.score(query, memories)
    assert len(scores) == len(memories)
    assert all(type(score) is float and 0 <= score <= 1 for score in scores)
    for seed in range(3):
        order = random.Random(seed).sample(range(len(memories)), len(memories))
        assert close(mini.score(query, [memories[i] for i in order]), [scores[i] for i in order])


def test_the_same_twice(mini: MiniRanker, memories: list[Any]) -> None:
    assert mini.score(QUERY, memories) == mini.score(QUERY, memories)


def test_equal_candidates_have_equal_scores(mini: MiniRanker, memories: list[Any]) -> None:
    scores = mini.score(QUERY, [memories[0], memories[1], memories[0], memories[6], memories[6]])
    assert close([scores[0], scores[3]], [scores[2], scores[4]])


@pytest.mark.parametrize("picks", [[0], [5], [9], [0, 1], [5, 6], [0, 5], [], list(range(12)) * 10])
def test_lists_of_any_mix_and_size(mini: MiniRanker, memories: list[Any], picks: list[int]) -> None:
    for query in (QUERY, Query(image=noise(3))):
        scores = mini.score(query, [memories[i] for i in picks])
        assert len(scores) == len(picks)
        assert all(0 <= score <= 1 for score in scores)


def test_a_picture_finds_itself(mini: MiniRanker) -> None:
    pictures = [Candidate(id=f"{i}", image=noise(i)) for i in range(6)]
    scores = mini.score(Query(image=noise(4)), mini.remember(pictures))
    assert scores[4] >= max(scores) - 1e-6


def test_an_easy_text_is_found_by_the_vectors(mini: MiniRanker, memories: list[Any]) -> None:
    vectors = np.array([mini.text_vector(memory) for memory in memories[:5]])
    cosines = (vectors @ mini.query_vector(QUERY)).tolist()
    assert max(range(5), key=cosines.__getitem__) == 0


def test_a_candidate_with_nothing_in_it_does_not_break_the_list(
    mini: MiniRanker, memories: list[Any]
) -> None:
    assert len(mini.score(QUERY, [{}, *memories])) == len(memories) + 1


# --- odd texts and pictures


ODD = (
    "",
    "word " * 100_000,
    "蜂蜜はどうやって作られますか",
    "\U0001f41d\U0001f36f",
    "\x00\x01\x07",
    "a" * 50_000,
    "\u202e\u200b",
    "[CLS] [SEP] [PAD]",
)


@pytest.mark.parametrize("text", ODD[1:], ids=range(len(ODD) - 1))
def test_odd_texts_and_queries(mini: MiniRanker, memories: list[Any], text: str) -> None:
    made = mini.remember([Candidate(id="odd", text=text)])
    for query in (QUERY, Query(text=text)):
        scores = mini.score(query, [*made, *memories[:3]])
        assert len(scores) == 4
        assert all(0 <= score <= 1 for score in scores)
    assert len(mini.query_vector(Query(text=text))) == len(mini.query_vector(QUERY))


@pytest.mark.parametrize("size", [(1, 1), (1, 3_000), (3_000, 1), (2_000, 1_500)])
def test_odd_pictures(mini: MiniRanker, size: tuple[int, int]) -> None:
    made = mini.remember(
        [Candidate(id="odd", image=picture(GREEN, size)), Candidate(id="blue", image=picture(BLUE))]
    )
    assert all(0 <= score <= 1 for score in mini.score(QUERY, made))


# --- precision


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_any_dtype_is_the_one_model(mini: MiniRanker, dtype: str) -> None:
    assert load_ranker("rnx-mini", dtype=dtype) is mini


def test_a_retriever_and_a_reranker_share_one_model() -> None:
    from llama_index_rnx import RNXEmbedding, load_ranker

    assert RNXEmbedding().ranker is load_ranker("rnx-mini") is load_ranker("rnx-mini", device="cpu")


def test_indexing_embeds_each_text_and_opens_each_picture_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_index_rnx import NodeCollection

    texts: list[str] = []
    opened: list[str] = []
    encode, load = TextEncoder.encode, ImageSource.load
    monkeypatch.setattr(
        TextEncoder,
        "encode",
        lambda self, t, max_chunks=8: (texts.extend(t), encode(self, t, max_chunks))[1],
    )
    monkeypatch.setattr(
        ImageSource,
        "load",
        lambda self, limit=None: (opened.append(self.label), load(self, limit))[1],
    )
    collection = NodeCollection(tmp_path / "idx")
    pictures = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(pictures):
        write_image(path, (40 * i, 10, 90))
    said = [f"a sentence that no other test has, number {i}" for i in range(3)]
    nodes = [
        ImageNode(text=text, image_path=str(path))
        for text, path in zip(said, pictures, strict=True)
    ]
    assert collection.add(nodes) == 3
    assert sorted(opened) == sorted(map(str, pictures))  # the vectors are read off the memories
    assert sorted(text for text in texts if text in said) == sorted(said)
    collection.close()
