"""What the scorer of rnx-mini is handed: texts compressed to slots, word pieces counted, memories
padded.
"""

from __future__ import annotations

import numpy as np
import pytest

from llama_index_rnx.rankers.mini import ScorerConfig
from llama_index_rnx.rankers.mini.candidate_batch import (
    collate,
    compress_tokens,
    count_occurrences,
    distinct_pieces,
    heaviest,
    pad_rows,
)
from llama_index_rnx.rankers.mini.quantization import dequantize_rows, normalize, quantize_rows

SMALL = ScorerConfig(state_width=4, memory_width=2)


def test_compress_drops_the_light_then_averages_neighbours() -> None:
    weights = np.zeros(2000, np.float32)
    weights[1100:] = 1.0
    # Four heavy words, four light ones.
    ids = np.array([101, 1000, 1100, 1001, 1101, 1102, 1002, 1103, 1003, 102])
    states = np.arange(10, dtype=np.float32)[:, None]  # each state is its position
    eight, four, two = (
        compress_tokens(states, ids, weights, slots)[:, 0].tolist() for slots in (8, 4, 2)
    )
    assert eight == list(range(1, 9))
    assert four == [2.0, 4.0, 5.0, 7.0]
    assert two == [3.0, 6.0]


@pytest.mark.parametrize(("count", "slots"), [(7, 3), (5, 4), (4, 1)])
def test_neighbours_share_slots_of_nearly_one_size(count: int, slots: int) -> None:
    ids = np.full(2 * count, 1000)
    states = np.arange(2 * count, dtype=np.float32)[:, None]
    means = compress_tokens(states, ids, np.ones(2000, np.float32), slots)
    slot = np.arange(count) * slots // count
    assert means[:, 0].tolist() == pytest.approx(
        [np.arange(count)[slot == index].mean() for index in range(slots)]
    )


def test_of_equal_weights_the_earlier_are_heavier() -> None:
    assert heaviest(np.array([1, 3, 1, 3, 2], np.float32), 4).tolist() == [1, 3, 4, 0]


def test_distinct_pieces_are_counted_and_the_heaviest_kept() -> None:
    weights = np.arange(2000, dtype=np.float32)
    ids = np.array([101, 1000, 1500, 1500, 1200, 102])
    pieces, counts = distinct_pieces(ids, weights, limit=2)
    assert dict(zip(pieces.tolist(), counts.tolist(), strict=True)) == {1500: 2, 1200: 1}
    _, counts = distinct_pieces(np.full(1000, 1500), weights, limit=2)
    assert counts.tolist() == [255]


def test_padding_knows_what_is_missing() -> None:
    rows, mask = pad_rows([np.ones((2, 3)), None, np.ones((1, 3))], 3)
    assert rows.shape == (3, 2, 3)
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    rows, mask = pad_rows([None, None], 3)
    assert (rows.shape, mask.tolist()) == ((2, 1, 3), [[False], [False]])


def test_memories_become_one_batch() -> None:
    text = {
        "tokens": np.array([[127, 0], [0, 127]], np.int8),
        "token_scales": np.array([1 / 127] * 2, np.float16),
        "chunks": np.array([[127, 0, 0, 0]] * 2, np.int8),
        "chunk_scales": np.array([1 / 127] * 2, np.float16),
        "pieces": np.array([2000, 3000], np.int16),
        "counts": np.array([2, 1], np.uint8),
    }
    image = {"vector": np.zeros(2, np.float16)}
    batch = collate([text, image, text | image, {}], SMALL)
    assert batch.has_text.tolist() == batch.long.tolist() == [True, False, True, False]
    assert batch.has_image.tolist() == [False, True, True, False]
    assert batch.tokens[2] == pytest.approx(np.eye(2), abs=1e-3)
    assert batch.image_logit.tolist() == [0.0] * 4
    occurrences = count_occurrences(np.array([3000, 2000, 2000, 2001]), batch)
    assert occurrences.tolist() == [[1, 2, 2, 0], [0] * 4, [1, 2, 2, 0], [0] * 4]


def test_rows_in_int8_are_nearly_what_they_were() -> None:
    rows = normalize(np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32))
    numbers, scales = quantize_rows(rows)
    assert (numbers.dtype, scales.dtype) == (np.int8, np.float16)
    assert (dequantize_rows(numbers, scales) * rows).sum(-1) == pytest.approx(1.0, abs=2e-3)
    zeros, scales = quantize_rows(np.zeros((2, 4), np.float32))
    assert not dequantize_rows(zeros, scales).any()
    assert not normalize(np.zeros(4, np.float32)).any()
