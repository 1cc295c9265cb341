"""Cached states of texts: what the scorer would remember before its projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from llama_index_rnx.rankers.mini import LAST_SPECIAL
from training.data import GradedList
from training.features import TextStateCache, idf, text_states, texts_of
from training.mini import EncodedText, MiniModel
from training.stages.tiny_mini import WIDTH, tiny_model

TEXTS = ["yeast oven flour", "queen pollen", "query:loaf crust bake"]


@pytest.fixture(scope="module")
def model() -> MiniModel:
    return tiny_model(0)


def new_cache(folder: Path, model: MiniModel) -> TextStateCache:
    return TextStateCache(folder, idf(model.text, TEXTS[:2]), model.reader.config)


def test_texts_and_queries_are_kept_in_their_own_ways(tmp_path: Path, model: MiniModel) -> None:
    cache = new_cache(tmp_path, model)
    cache.fill(model.text, TEXTS, "texts")

    text, query = cache[TEXTS[0]], cache[TEXTS[2]]
    assert text.states.shape == (3, WIDTH)
    assert text.states.dtype == torch.float16
    assert text.counts.tolist() == [1, 1, 1]
    assert query.states.shape == (5, WIDTH), "every token, with [CLS] and [SEP]"
    assert "loaf crust bake" not in cache, "a query is no text"


def test_what_is_cached_is_not_encoded_again(
    tmp_path: Path, model: MiniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_cache(tmp_path, model).fill(model.text, TEXTS, "texts")
    encode, encoded = type(model.text).encode, list[str]()

    def counted(self: object, texts: Sequence[str]) -> list[EncodedText]:
        encoded.extend(texts)
        return encode(model.text, texts)

    monkeypatch.setattr(type(model.text), "encode", counted)
    again = new_cache(tmp_path, model)
    again.fill(model.text, [*TEXTS, "brood smoke", "brood smoke"], "texts")
    assert encoded == ["brood smoke"]
    assert all(text in again for text in TEXTS)


def test_blocks_are_read_back_as_they_were_written(
    tmp_path: Path, model: MiniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_states, "BLOCK", 2)
    first = new_cache(tmp_path, model)
    first.fill(model.text, TEXTS, "texts")
    assert len(list(tmp_path.glob("block-*.safetensors"))) == 2
    second = new_cache(tmp_path, model)
    for text in TEXTS:
        for name in ("states", "pieces", "counts", "chunks"):
            assert torch.equal(getattr(first[text], name), getattr(second[text], name))


def test_idf_in_closed_form(model: MiniModel) -> None:
    weights = idf(model.text, ["yeast oven", "yeast flour", "yeast"])
    tokenizer = model.text.tokenizer
    everywhere = weights[tokenizer.token_to_id("yeast")]
    once = weights[tokenizer.token_to_id("oven")]
    assert everywhere.item() == pytest.approx(math.log(1 + 3 / 4) / math.log(4), abs=1e-6)
    assert once.item() == pytest.approx(math.log(1 + 3 / 2) / math.log(4), abs=1e-6)
    assert weights[: LAST_SPECIAL + 1].abs().sum() == 0
    assert float(weights.max()) == pytest.approx(1.0)


def test_texts_of_lists_name_queries_by_their_prefix() -> None:
    graded_list = GradedList(
        source="s", qid="q", query="a", docids=("1", "2"), texts=("b", "c"), grades=(1.0, 0.0)
    )
    assert texts_of([graded_list]) == ["query:a", "b", "c"]
