"""The graphs of rnx-mini that ship: what the modules of this room compute, written in ONNX. It
knows no weights, only their names and shapes.

A test holds each of them to its module. Axes, named once: B chunks or images, T word pieces,
N candidates, S memory tokens, C chunks of a text, L cells, Q query tokens, H heads, W width.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import TensorProto

from llama_index_rnx.system import atomic_write
from training.mini.bert import EPSILON
from training.mini.graph_builder import FUSED, GraphBuilder
from training.mini.listwise_scorer import BASE_FEATURES
from training.mini.model import MiniModel


def write_graphs(model: MiniModel, folder: Path) -> None:
    """Write `text.onnx` and its four siblings beside the weights of a model."""
    for name, content in build_graphs(model).items():
        with atomic_write(folder / f"{name}.onnx") as partial:
            partial.write_bytes(content)


def build_graphs(model: MiniModel) -> dict[str, bytes]:
    """Return every graph of a model as the content of its file, by its name."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    additions = {
        "text": add_text_encoder,
        "caption": add_caption_head,
        "image": add_image_encoder,
        "candidates": add_candidate_scorer,
        "list": add_list_attention,
    }
    contents: dict[str, bytes] = {}
    for name, add in additions.items():
        graph = GraphBuilder(name, shapes)
        add(graph, model)
        contents[name] = graph.build()
    return contents


# --- texts


def add_text_encoder(graph: GraphBuilder, model: MiniModel) -> None:
    """Rows of the word embedding [B, T, W] -> states [B, T, W], of texts of one length.

    All but attention sees a batch as rows [B x T, W], which is what matrices multiply fastest.
    """
    config = model.text.config
    width = config.width
    words = graph.input("words", ["B", "T", width])
    shape = graph.add("Shape", words)

    name = "text.bert.embeddings"
    length = graph.add("Shape", words, start=1, end=2)
    positions = graph.add(
        "Slice",
        graph.weight(f"{name}.position_embeddings.weight"),
        graph.constant([0]),
        length,
        graph.constant([0]),
    )  # [T, W]
    kinds = graph.weight(f"{name}.token_type_embeddings.weight")
    first_kind = graph.add("Gather", kinds, graph.constant([0]))  # [1, W]
    summed = graph.add("Add", graph.add("Add", words, first_kind), positions)
    states = graph.layer_norm(summed, f"{name}.LayerNorm", EPSILON)
    states = graph.reshape(states, [-1, width])  # [B x T, W]

    for index in range(config.layers):
        states = _add_bert_layer(
            graph, states, shape, f"text.bert.encoder.layer.{index}", config.heads, width
        )
    graph.output("states", graph.add("Reshape", states, shape), ["B", "T", width])


def _add_bert_layer(
    graph: GraphBuilder, states: str, shape: str, name: str, heads: int, width: int
) -> str:
    """[B x T, W] -> [B x T, W]; `shape` is that of [B, T, W]."""
    query, key, value = (
        graph.add("Reshape", _rows_linear(graph, states, f"{name}.attention.self.{side}"), shape)
        for side in ("query", "key", "value")
    )
    mixed = graph.reshape(graph.attention(query, key, value, heads), [-1, width])
    states = _add_and_norm(graph, mixed, states, f"{name}.attention.output")
    inner = graph.add("Gelu", _rows_linear(graph, states, f"{name}.intermediate.dense"))
    return _add_and_norm(graph, inner, states, f"{name}.output")


def _add_and_norm(graph: GraphBuilder, inner: str, residual: str, name: str) -> str:
    return graph.add(
        "SkipLayerNormalization",
        _rows_linear(graph, inner, f"{name}.dense"),
        residual,
        graph.weight(f"{name}.LayerNorm.weight"),
        graph.weight(f"{name}.LayerNorm.bias"),
        domain=FUSED,
        epsilon=EPSILON,
    )


def _rows_linear(graph: GraphBuilder, rows: str, layer: str) -> str:
    """Return a `torch.nn.Linear` of [rows, I], in one operator."""
    weight, bias = graph.weight(f"{layer}.weight"), graph.weight(f"{layer}.bias")
    return graph.add("Gemm", rows, weight, bias, transB=1)


def add_caption_head(graph: GraphBuilder, model: MiniModel) -> None:
    """States [T, W] and the vector [1, W] of a text -> its vector [D], words [T, V] and their
    weights [T] on the image side.
    """
    config = model.image.config
    width = config.text_width
    states = graph.input("states", ["T", width])
    pooled = graph.input("pooled", [1, width])

    layer = "image.caption.layer"
    mixed = graph.linear(graph.layer_norm(states, f"{layer}.before"), f"{layer}.qkv")
    attended = _self_attention(graph, graph.unsqueeze(mixed, 0), config.text_heads)  # [1, T, W]
    attended = graph.linear(graph.squeeze(attended, 0), f"{layer}.out")
    states = graph.add("Add", states, attended)  # [T, W]
    up = graph.linear(graph.layer_norm(states, f"{layer}.between"), f"{layer}.up")
    states = graph.add("Add", states, graph.linear(graph.add("Gelu", up), f"{layer}.down"))
    hidden = graph.layer_norm(states, "image.caption.norm")

    shares = graph.add("Softmax", graph.linear(hidden, "image.caption.weigh"), axis=0)  # [T, 2]
    for_vector, for_words = graph.add_many("Split", 2, shares, axis=1, num_outputs=2)  # [T, 1]
    summary = graph.sum(graph.add("Mul", for_vector, hidden), 0, keepdims=True)  # [1, W]
    first = graph.add(
        "Add",
        graph.linear(pooled, "image.caption.identity"),
        graph.linear(summary, "image.caption.added"),
    )  # [1, D]
    others = [
        graph.normalize(graph.linear(pooled, f"image.more.{index}.caption"))
        for index in range(len(config.others))
    ]
    vector = _joined(graph, [graph.normalize(first), *others])  # [1, D]
    words = graph.normalize(graph.linear(hidden, "image.caption.words"))

    graph.output("vector", graph.squeeze(vector, 0), [config.dim])
    graph.output("words_of_query", words, ["T", config.word_dim])
    graph.output("weights", graph.squeeze(for_words, 1), ["T"])


def _self_attention(graph: GraphBuilder, mixed: str, heads: int) -> str:
    """Queries, keys and values in one, [B, T, 3 W] -> [B, T, W]."""
    query, key, value = graph.add_many("Split", 3, mixed, axis=2, num_outputs=3)
    return graph.attention(query, key, value, heads)


def _joined(graph: GraphBuilder, vectors: list[str]) -> str:
    """[B, D] of every head -> unit [B, D]; one head alone stays as it is."""
    if len(vectors) == 1:
        return vectors[0]
    joined = graph.add("Concat", *vectors, axis=1)
    return graph.normalize(graph.add("MatMul", joined, graph.weight("image.basis")))


# --- images


def add_image_encoder(graph: GraphBuilder, model: MiniModel) -> None:
    """Pixels [B, 3, 256, 256] -> vectors [B, D], regions [B, 16, V], hubness [B]."""
    config = model.image.config
    pixels = graph.input("pixels", ["B", 3, 256, 256])
    first, *others = model.eyes.add_maps(graph, "eyes", pixels)  # [B, C, 8, 8] each

    cells = graph.layer_norm(_cells(graph, first), "image.projector.norm")  # [B, 64, C]
    vectors = [_vector_head(graph, cells, "image.projector.vector")]
    for index, maps in enumerate(others):
        grid = _cells(graph, _means_of_four(graph, maps))  # [B, 16, C]
        normed = _plain_layer_norm(graph, grid)
        vectors.append(_vector_head(graph, normed, f"image.more.{index}.vector"))
    vector = _joined(graph, vectors)

    by_channel = graph.add("Transpose", cells, perm=[0, 2, 1])  # [B, C, 64]
    normed_maps = graph.reshape(by_channel, [0, 0, 8, 8])
    fours = _cells(graph, _means_of_four(graph, normed_maps))  # [B, 16, C]
    hidden = graph.add("Gelu", graph.linear(fours, "image.projector.region_in"))
    regions = graph.normalize(graph.linear(hidden, "image.projector.region_out"))

    bank = graph.add("Transpose", graph.weight("image.bank"), perm=[1, 0])
    cosines = graph.add("MatMul", vector, bank)  # [B, bank]
    nearest, _ = graph.add_many("TopK", 2, cosines, graph.constant([config.neighbours]))

    graph.output("vectors", vector, ["B", config.dim])
    graph.output("regions", regions, ["B", 16, config.word_dim])
    graph.output("hubs", graph.mean(nearest, 1), ["B"])


def _cells(graph: GraphBuilder, maps: str) -> str:
    """[B, C, h, w] -> [B, h x w, C]."""
    return graph.add("Transpose", graph.reshape(maps, [0, 0, -1]), perm=[0, 2, 1])


def _means_of_four(graph: GraphBuilder, maps: str) -> str:
    """[B, C, 8, 8] -> [B, C, 4, 4]."""
    return graph.add("AveragePool", maps, kernel_shape=[2, 2], strides=[2, 2])


def _plain_layer_norm(graph: GraphBuilder, values: str) -> str:
    """Return a layer norm over the last axis without weights."""
    centred = graph.add("Sub", values, graph.mean(values, -1, keepdims=True))
    variance = graph.mean(graph.add("Mul", centred, centred), -1, keepdims=True)
    return graph.add("Div", centred, graph.add("Sqrt", graph.scale(variance, 1.0, 1e-5)))


def _vector_head(graph: GraphBuilder, cells: str, name: str) -> str:
    """Normed cells [B, L, C] -> unit [B, D]."""
    weights = graph.add("Softmax", graph.linear(cells, f"{name}.attend"), axis=1)  # [B, L, H]
    pooled = graph.add("MatMul", graph.add("Transpose", weights, perm=[0, 2, 1]), cells)
    values = graph.weight(f"{name}.values")  # [H, C, d]
    heads = graph.add("MatMul", graph.unsqueeze(pooled, 2), values)  # [B, H, 1, d]
    flat = graph.reshape(heads, [0, -1])  # [B, H x d]
    of_mean = graph.linear(graph.mean(cells, 1), f"{name}.mean")  # [B, D]
    of_heads = graph.linear(graph.add("Gelu", flat), f"{name}.out")
    return graph.normalize(graph.add("Add", of_mean, of_heads))


# --- candidates


def add_candidate_scorer(graph: GraphBuilder, model: MiniModel) -> None:
    """One query with N texts -> features [N, F], vectors [N, W], logits [N]."""
    config = model.reader.config
    state, memory = config.state_width, config.memory_width
    states = graph.input("states", ["Q", state])
    weights = graph.input("weights", ["Q"])
    vector = graph.input("vector", [state])
    tokens = graph.input("tokens", ["N", "S", memory])
    token_mask = graph.input("token_mask", ["N", "S"], TensorProto.BOOL)
    chunks = graph.input("chunks", ["N", "C", state])
    chunk_mask = graph.input("chunk_mask", ["N", "C"], TensorProto.BOOL)
    occurrences = graph.input("occurrences", ["N", "Q"])
    length = graph.input("length", ["N"])

    projected = graph.normalize(graph.linear(states, "reader.compress", bias=False))  # [Q, D]
    best = _best_similarity(graph, projected, tokens, token_mask)  # [N, Q]
    length = graph.add("Max", length, graph.constant(1.0))
    saturated = _saturated(graph, occurrences, length)  # [N, Q]
    columns = [
        *_cosine_columns(graph, vector, chunks, chunk_mask),
        *_token_columns(graph, states, weights, best, occurrences, saturated),
        graph.scale(graph.add("Log", length), 1.0, -4.0),
    ]
    features = graph.add("Concat", *(graph.unsqueeze(each, 1) for each in columns), axis=1)

    same_weights = graph.add("Expand", weights, graph.add("Shape", best))  # [N, Q]
    matched = [graph.scale(best, 4.0, -2.0), saturated, same_weights]
    matches = graph.add("Concat", *(graph.unsqueeze(each, 2) for each in matched), axis=2)

    vectors = _candidate_vectors(graph, model, projected, matches, weights, tokens, token_mask)
    base = graph.linear(features, "reader.base.linear")  # [N, 1]
    residual = graph.linear(vectors, "reader.joint.residual")
    logits = graph.squeeze(graph.add("Add", base, residual), 1)

    graph.output("features", features, ["N", len(columns)])
    graph.output("vectors", vectors, ["N", config.width])
    graph.output("logits", logits, ["N"])


def _best_similarity(graph: GraphBuilder, projected: str, tokens: str, mask: str) -> str:
    """The cosine of every query token with the nearest memory token, [N, Q]; -1 without any."""
    similarity = graph.add("MatMul", tokens, graph.add("Transpose", projected, perm=[1, 0]))
    masked = graph.add("Where", graph.unsqueeze(mask, 2), similarity, graph.constant(-1.0))
    return graph.max(masked, 1)


def _saturated(graph: GraphBuilder, occurrences: str, length: str) -> str:
    """The saturation of BM25, k1 = .9, b = .67: [N, Q]."""
    hundreds = graph.scale(graph.unsqueeze(length, 1), 0.006, 0.3)  # [N, 1]
    return graph.add("Div", occurrences, graph.add("Add", occurrences, hundreds))


def _cosine_columns(graph: GraphBuilder, vector: str, chunks: str, mask: str) -> list[str]:
    """How near the whole text is to the query, and by how much its best chunk is nearer: [N]."""
    cosines = graph.add("MatMul", chunks, vector)  # [N, C]
    best = graph.max(graph.add("Where", mask, cosines, graph.constant(-1.0)), 1)

    # What is padded is zero, so the sum needs no mask.
    whole = graph.add("MatMul", graph.normalize(graph.sum(chunks, 1)), vector)  # [N]
    nearer = graph.scale(graph.add("Sub", best, whole), 20.0)
    return [graph.scale(whole, 20.0, -17.0), nearer]


def _token_columns(
    graph: GraphBuilder, states: str, weights: str, best: str, occurrences: str, saturated: str
) -> list[str]:
    """What the query's tokens have in common with a text, weighed in several ways: [N] each."""
    total = graph.add("Max", graph.sum(weights, 0), graph.constant(1e-6))
    share = graph.add("Div", weights, total)  # [Q]
    learned_logit = graph.squeeze(graph.linear(states, "reader.base.token_weight"), 1)
    idf_logit = graph.add("Mul", graph.weight("reader.base.weigh_idf"), weights)
    learned = graph.add("Softmax", graph.add("Add", learned_logit, idf_logit), axis=0)

    occurs = graph.add("Greater", occurrences, graph.constant(0.0))
    exact = graph.add("Cast", occurs, to=TensorProto.FLOAT)  # [N, Q]
    return [
        graph.scale(graph.add("MatMul", best, learned), 5.0, -3.0),
        graph.scale(graph.add("MatMul", best, share), 5.0, -3.0),
        graph.scale(graph.mean(best, 1), 5.0, -3.0),
        graph.scale(graph.add("MatMul", exact, share), 2.0, -1.0),
        graph.scale(graph.add("MatMul", saturated, share), 2.0, -1.0),
    ]


def _candidate_vectors(
    graph: GraphBuilder,
    model: MiniModel,
    projected: str,
    matches: str,
    weights: str,
    tokens: str,
    mask: str,
) -> str:
    """Query tokens attend to the memory tokens of each candidate, [N, W]."""
    config = model.reader.config

    # Unit vectors become entries of about 1.
    scale = math.sqrt(config.memory_width)
    entered = graph.linear(graph.scale(projected, scale), "reader.joint.enter")  # [Q, W]
    hidden = graph.add("Add", entered, graph.linear(matches, "reader.joint.enter_match"))
    memory = graph.scale(tokens, scale)
    bias = _attention_bias(graph, mask)  # [N, 1, 1 + S]
    for index in range(config.layers):
        hidden = _cross_attention_layer(graph, model, hidden, memory, bias, index)
    hidden = graph.layer_norm(hidden, "reader.joint.norm")  # [N, Q, W]

    logits = graph.squeeze(graph.linear(hidden, "reader.joint.pool"), 2)  # [N, Q]
    logits = graph.add("Add", logits, graph.scale(weights, 2.0))
    attention = graph.add("Softmax", logits, axis=1)
    return graph.squeeze(graph.add("MatMul", graph.unsqueeze(attention, 1), hidden), 1)


def _attention_bias(graph: GraphBuilder, mask: str) -> str:
    """bool [N, S] -> 0 where to attend, in front for the null state as well, [N, 1, 1 + S]."""
    nothing = graph.add("Where", mask, graph.constant(0.0), graph.constant(-math.inf))
    padded = graph.add("Pad", nothing, graph.constant([0, 1, 0, 0]))
    return graph.unsqueeze(padded, 1)


def _cross_attention_layer(
    graph: GraphBuilder, model: MiniModel, hidden: str, memory: str, bias: str, index: int
) -> str:
    """hidden [N, Q, W], memory [N, S, D], bias [N, 1, 1 + S] -> [N, Q, W]."""
    config = model.reader.config
    name = f"reader.joint.layers.{index}"
    count = graph.add("Shape", memory, start=0, end=1)
    null_shape = graph.add("Concat", count, graph.constant([1, config.memory_width]), axis=0)
    null = graph.add("Expand", graph.weight(f"{name}.null"), null_shape)  # [N, 1, D]
    memory = graph.add("Concat", null, memory, axis=1)  # [N, 1 + S, D]

    normed = graph.layer_norm(hidden, f"{name}.norm_read")
    queries = graph.linear(normed, f"{name}.ask")
    attended = _attend_to_memory(graph, model, queries, memory, bias, f"{name}.key_value")
    product = graph.add("Mul", normed, attended)
    compared = graph.add("Concat", normed, attended, product, axis=2)
    inner = graph.add("Gelu", graph.linear(compared, f"{name}.compare"))
    hidden = graph.add("Add", hidden, graph.linear(inner, f"{name}.write"))

    mixed = graph.linear(graph.layer_norm(hidden, f"{name}.norm_mix"), f"{name}.mix")
    attended = _self_attention(graph, mixed, config.heads)
    return graph.add("Add", hidden, graph.linear(attended, f"{name}.mixed"))


def _attend_to_memory(
    graph: GraphBuilder, model: MiniModel, queries: str, memory: str, bias: str, name: str
) -> str:
    """[N, Q, W], [N, 1 + S, D] -> [N, Q, W]; in the steps of `CrossAttentionLayer`."""
    config = model.reader.config
    heads, width = config.heads, config.width
    head_width = width // heads
    matrices = graph.reshape(graph.weight(f"{name}.weight"), [2, heads, head_width, -1])
    keys, values = (
        graph.add("Gather", matrices, graph.constant(np.array(half)), axis=0) for half in (0, 1)
    )  # [H, W / H, D] each
    value_bias = graph.add(
        "Slice", graph.weight(f"{name}.bias"), graph.constant([width]), graph.constant([2 * width])
    )  # [W]

    split = graph.reshape(queries, [0, 0, heads, head_width])
    split = graph.add("Transpose", split, perm=[0, 2, 1, 3])  # [N, H, Q, W / H]
    moved = graph.scale(graph.add("MatMul", split, keys), head_width**-0.5)  # [N, H, Q, D]

    # All heads and query tokens meet the memory in one product.
    shape = graph.add("Shape", moved)
    joined = graph.add("Reshape", moved, _joined_heads(graph, shape))  # [N, H x Q, D]
    across = graph.add("Transpose", memory, perm=[0, 2, 1])
    logits = graph.add("MatMul", joined, across)  # [N, H x Q, 1 + S]
    attention = graph.add("Softmax", graph.add("Add", logits, bias), axis=2)
    attended = graph.add("Reshape", graph.add("MatMul", attention, memory), shape)

    across = graph.add("Transpose", values, perm=[0, 2, 1])  # [H, D, W / H]
    result = graph.add("Transpose", graph.add("MatMul", attended, across), perm=[0, 2, 1, 3])
    return graph.add("Add", graph.reshape(result, [0, 0, width]), value_bias)


def _joined_heads(graph: GraphBuilder, shape: str) -> str:
    """[N, H, Q, D] -> [N, H x Q, D], of shapes."""
    count = graph.add("Slice", shape, graph.constant([0]), graph.constant([1]))
    last = graph.add("Slice", shape, graph.constant([3]), graph.constant([4]))
    return graph.add("Concat", count, graph.constant([-1]), last, axis=0)


# --- the list


def add_list_attention(graph: GraphBuilder, model: MiniModel) -> None:
    """What N candidates are by themselves -> what each is beside the others, [N]."""
    config = model.reader.config
    vectors = graph.input("vectors", ["N", config.width])
    features = graph.input("features", ["N", BASE_FEATURES])
    logits, image_logit, has_text, has_image = (
        graph.input(name, ["N"]) for name in ("logits", "image_logit", "has_text", "has_image")
    )

    centred = graph.add("Sub", logits, graph.mean(logits, 0, keepdims=True))
    variance = graph.mean(graph.add("Mul", centred, centred), 0, keepdims=True)
    deviation = graph.scale(graph.add("Sqrt", variance), 1.0, 1e-3)
    spread = graph.add("Div", centred, deviation)
    flags = [logits, spread, image_logit, has_text, has_image]
    texts = graph.add("Mul", vectors, graph.unsqueeze(has_text, 1))
    columns = [texts, features, *(graph.unsqueeze(flag, 1) for flag in flags)]
    entered = graph.linear(graph.add("Concat", *columns, axis=1), "reader.list.enter")

    hidden = graph.unsqueeze(entered, 0)  # [1, N, list width]
    for index in range(config.list_layers):
        hidden = _list_layer(graph, hidden, f"reader.list.layers.{index}", config.list_heads)
    last = graph.layer_norm(hidden, "reader.list.norm")
    residual = graph.reshape(graph.linear(last, "reader.list.residual"), [-1])  # [N]
    residual = graph.add("Mul", residual, has_text)

    texts_count = graph.add("Max", graph.sum(has_text, 0), graph.constant(1.0))
    mean = graph.add("Div", graph.sum(residual, 0), texts_count)
    graph.output("residual", graph.add("Mul", graph.add("Sub", residual, mean), has_text), ["N"])


def _list_layer(graph: GraphBuilder, hidden: str, name: str, heads: int) -> str:
    """A `torch.nn.TransformerEncoderLayer`, norm first: [1, N, W] -> [1, N, W]."""
    normed = graph.layer_norm(hidden, f"{name}.norm1")
    matrix = graph.add("Transpose", graph.weight(f"{name}.self_attn.in_proj_weight"), perm=[1, 0])
    bias = graph.weight(f"{name}.self_attn.in_proj_bias")
    mixed = graph.add("Add", graph.add("MatMul", normed, matrix), bias)
    attended = _self_attention(graph, mixed, heads)
    hidden = graph.add("Add", hidden, graph.linear(attended, f"{name}.self_attn.out_proj"))
    up = graph.linear(graph.layer_norm(hidden, f"{name}.norm2"), f"{name}.linear1")
    return graph.add("Add", hidden, graph.linear(graph.add("Gelu", up), f"{name}.linear2"))
