"""The graphs that ship are those of the torch modules, and compute what these compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index_rnx.rankers.mini import GRAPHS, model_folder
from llama_index_rnx.rankers.mini import candidate_batch as inference
from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from llama_index_rnx.rankers.mini.config import ImageConfig, ScorerConfig
from llama_index_rnx.rankers.mini.image_scorer import CaptionVectors, ImageScorer
from llama_index_rnx.rankers.mini.listwise_scorer import ListwiseScorer, ScorerOutput
from llama_index_rnx.rankers.mini.quantization import quantize_rows
from llama_index_rnx.rankers.mini.text_encoder import EncodedText, TextEncoder
from training.mini import (
    MiniModel,
    TextMemory,
    build_graphs,
    collate,
    compress_tokens,
    distinct_pieces,
    read_mini,
)
from training.stages.tiny_mini import tiny_model
from training.weights import write_mini

TEXTS = (
    "Bees make honey from the nectar of flowers.",
    "Rust is iron oxide, a red crust on old iron.",
    "",
    "The parliament passed the budget after a long night. " * 60,
)

# Sums of a thousand products in fp32, in another order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def model() -> MiniModel:
    """The shipped weights in torch."""
    return read_mini(model_folder())[0].eval().requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(model_folder())


@pytest.fixture(scope="module")
def encoded(checkpoint: Checkpoint) -> list[EncodedText]:
    return TextEncoder(checkpoint).encode(TEXTS)


def close(ours: NDArray[np.float32], theirs: Tensor, by: float = TOLERANCE) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), atol=by, rtol=by)


# --- files


def test_the_graphs_that_ship_are_those_of_the_modules(model: MiniModel) -> None:
    graphs = build_graphs(model)
    assert set(graphs) == set(GRAPHS)
    for name, content in graphs.items():
        shipped = (model_folder() / f"{name}.onnx").read_bytes()
        assert onnx.load_from_string(content) == onnx.load_from_string(shipped), name


def test_a_graph_names_its_weights_and_holds_none(model: MiniModel, checkpoint: Checkpoint) -> None:
    names = list(model.state_dict())
    for content in build_graphs(model).values():
        tensors = onnx.load_from_string(content).graph.initializer
        external = {tensor.name for tensor in tensors if tensor.external_data}
        # It is so that inference finds out which weights to hand over.
        assert external == {name for name in names if name.encode() in content}
        assert external
        assert len(content) < 100_000


def test_a_graph_is_the_same_when_it_is_built_again(model: MiniModel) -> None:
    assert build_graphs(model) == build_graphs(model)


def test_a_trained_model_is_written_with_its_graphs(model: MiniModel, tmp_path: Path) -> None:
    write_mini(model, tmp_path, {"retrieval": [1.0, 0.0]})
    vectors = [
        TextEncoder(Checkpoint(folder)).encode(TEXTS[:1])[0].vector
        for folder in (tmp_path, model_folder())
    ]
    # The rows are quantized a second time.
    np.testing.assert_allclose(*vectors, atol=2e-3)


def test_graphs_fit_a_model_of_any_shape(tmp_path: Path) -> None:
    """That of the smoke run, whose image encoder is another one; its weights are stored in fp16."""
    model = tiny_model(0).eval().requires_grad_(False)
    write_mini(model, tmp_path, {"retrieval": [1.0, 0.0]})
    checkpoint = Checkpoint(tmp_path)

    pixels = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = model.image.images(model.eyes(pixels))
    vectors, regions, _ = checkpoint.run("image", {"pixels": pixels.numpy()})
    close(vectors, images.vector, 5e-3)
    close(regions, images.regions, 5e-3)

    (ours,) = TextEncoder(checkpoint).encode(["red bread"])
    (theirs,) = model.text.encode(["red bread"])
    close(ours.vector, theirs.vector, 5e-3)


# --- encoders


def test_the_text_encoder(model: MiniModel, encoded: Sequence[EncodedText]) -> None:
    for ours, theirs in zip(encoded, model.text.encode(TEXTS), strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
        close(ours.states, theirs.states, 1e-4)  # of about 1
        close(ours.chunks, theirs.chunks)
        close(ours.vector, theirs.vector)


def test_the_image_encoder_and_its_heads(model: MiniModel, checkpoint: Checkpoint) -> None:
    pixels = torch.rand(3, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vectors, regions, hubs = checkpoint.run("image", {"pixels": pixels.numpy()})
    with torch.inference_mode():
        images = model.image.images(model.eyes(pixels))
        close(vectors, images.vector)
        close(regions, images.regions)
        close(hubs, model.image.hubness(images.vector))


def test_the_caption_head(
    model: MiniModel, checkpoint: Checkpoint, encoded: Sequence[EncodedText]
) -> None:
    scorer = ImageScorer(checkpoint, ImageConfig(**checkpoint.config["image"]))
    for text in encoded[:2]:
        ours = scorer.caption(text.states, text.vector)
        states = torch.from_numpy(text.states)[None]
        mask = torch.ones(states.shape[:2])
        theirs = model.image.captions(states, mask, torch.from_numpy(text.vector)[None])
        close(ours.vector, theirs.vector[0])
        close(ours.words, theirs.words[0])
        close(ours.weights, theirs.weights[0])


def test_the_score_and_the_index_vector_of_images(model: MiniModel, checkpoint: Checkpoint) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((382,), (5, 128), (5,), (7, 382), (7, 16, 128))
    unit = [nn.functional.normalize(torch.randn(s, generator=generator), dim=-1) for s in shapes]
    query, words, weights, images, regions = unit
    hubs = torch.rand(7, generator=generator)

    scorer = ImageScorer(checkpoint, ImageConfig(**checkpoint.config["image"]))
    caption = CaptionVectors(vector=query.numpy(), words=words.numpy(), weights=weights.numpy())
    ours = scorer.score(caption, images.numpy(), regions.numpy(), hubs.numpy())
    close(ours, model.image.score(query, words, weights, images, regions, hubs), 1e-4)
    close(scorer.index_vector(images.numpy(), hubs.numpy()), model.image.index_vector(images, hubs))
    close(scorer.query_vector(images.numpy()), model.image.query_vector(images))


# --- the scorer


def test_the_memory_tokens_and_the_query(
    model: MiniModel, checkpoint: Checkpoint, encoded: Sequence[EncodedText]
) -> None:
    scorer = ListwiseScorer(checkpoint, ScorerConfig(**checkpoint.config["reader"]))
    for text in encoded:
        states, ids = torch.from_numpy(text.states), torch.from_numpy(text.ids)
        theirs = model.reader.remember(states, ids, torch.from_numpy(text.chunks))
        close(scorer.remember(text), theirs.tokens)
        query = model.reader.query(states, ids, torch.from_numpy(text.vector))
        assert scorer.query(text).pieces.tolist() == query.pieces.tolist()
        close(scorer.query(text).states, query.states)


def test_of_equal_word_pieces_the_same_are_kept() -> None:
    """Half of the weights are equal, and more pieces than there is room for."""
    generator = np.random.default_rng(0)
    weights = generator.integers(0, 3, 2_000).astype(np.float32)
    ids = generator.integers(900, 2_000, 400)
    states = generator.normal(size=(400, 8)).astype(np.float32)
    ours = inference.compress_tokens(states, ids, weights, 50)
    pieces, counts = inference.distinct_pieces(ids, weights, 60)

    tensors = torch.from_numpy(states), torch.from_numpy(ids), torch.from_numpy(weights)
    close(ours, compress_tokens(*tensors, 50))
    assert [pieces.tolist(), counts.tolist()] == [
        each.tolist() for each in distinct_pieces(*tensors[1:], 60)
    ]


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param("tttt", id="texts"),
        pytest.param("titb", id="mixed"),
        pytest.param("iii", id="images"),
        pytest.param("t", id="one text"),
        pytest.param("n", id="nothing"),
    ],
)
def test_the_listwise_scorer(
    model: MiniModel, checkpoint: Checkpoint, encoded: Sequence[EncodedText], kinds: str
) -> None:
    """Whether scored in steps or at once; "t" is a text, "i" an image, "b" both, "n" neither."""
    scorer = ListwiseScorer(checkpoint, ScorerConfig(**checkpoint.config["reader"]))
    (query,) = TextEncoder(checkpoint).encode(["how do bees make honey?"])
    memories = [memory(scorer, text, kind) for text, kind in zip(encoded, kinds, strict=False)]
    logits = np.linspace(-3, 2, len(kinds), dtype=np.float32) * np.array(
        [kind in "ib" for kind in kinds]
    )

    steps = [
        scorer.score_each(
            scorer.query(query),
            inference.collate(memories[part], scorer.config, logits[part]),
        )
        for part in (slice(0, 1), slice(1, None))
        if memories[part]
    ]
    ours = scorer.compare(ScorerOutput.join(steps))

    states, ids = torch.from_numpy(query.states), torch.from_numpy(query.ids)
    has_image = torch.tensor([kind in "ib" for kind in kinds])
    batch = collate(
        [text_memory(each) for each in memories],
        model.reader.config,
        has_image,
        torch.from_numpy(logits),
    )
    asked = model.reader.query(states, ids, torch.from_numpy(query.vector))
    close(ours, model.reader(asked, batch), 1e-4)


def memory(
    scorer: ListwiseScorer, text: EncodedText, kind: str
) -> Mapping[str, NDArray[np.generic]]:
    """What is remembered of a text, as a candidate of a kind."""
    image = {"vector": np.zeros(382, np.float16)} if kind in "ib" else {}
    if kind not in "tb":
        return image
    pieces, counts = inference.distinct_pieces(text.ids, scorer.weights, scorer.config.lexicon)
    tokens, token_scales = quantize_rows(scorer.remember(text))
    chunks, chunk_scales = quantize_rows(text.chunks)
    return image | {
        "tokens": tokens,
        "token_scales": token_scales,
        "chunks": chunks,
        "chunk_scales": chunk_scales,
        "pieces": pieces.astype(np.int16),
        "counts": counts.astype(np.uint8),
    }


def text_memory(each: Mapping[str, NDArray[np.generic]]) -> TextMemory | None:
    """The same in torch."""
    if "tokens" not in each:
        return None
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in each.items()}
    return TextMemory(
        tokens=tensors["tokens"].float() * tensors["token_scales"].float()[:, None],
        chunks=tensors["chunks"].float() * tensors["chunk_scales"].float()[:, None],
        pieces=tensors["pieces"],
        counts=tensors["counts"],
    )
