"""The reader on tiny made-up memories: where it starts, and what must not matter to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from llama_index_rnx.rankers.mini import ScorerConfig
from training.mini import (
    ListwiseScorer,
    QueryStates,
    TextMemory,
    collate,
    compress_tokens,
    distinct_pieces,
)
from training.mini.candidate_batch import pad_rows
from training.mini.cross_attention import CrossAttentionLayer
from training.mini.listwise_scorer import ModalityCalibration, blend_long

SMALL = ScorerConfig(
    state_width=16,
    memory_width=8,
    slots=6,
    lexicon=5,
    query_tokens=4,
    width=12,
    heads=2,
    list_width=8,
    list_heads=2,
)


def test_it_starts_at_the_order_of_the_cosine(
    reader: ListwiseScorer, query: QueryStates, memories: list[TextMemory]
) -> None:
    # Pages are blended with BM25.
    passages = [replace(memory, chunks=memory.chunks[:1]) for memory in memories]
    cosines = torch.stack(
        [normalize(memory.chunks.mean(0), dim=0) @ query.vector for memory in passages]
    )
    assert reader(query, collate(passages, SMALL)).argsort().tolist() == cosines.argsort().tolist()


def test_scores_follow_their_candidates(
    trained: ListwiseScorer, query: QueryStates, memories: list[TextMemory]
) -> None:
    order = [3, 0, 4, 2, 1]
    shuffled = trained(query, collate([memories[place] for place in order], SMALL))
    assert torch.allclose(shuffled, trained(query, collate(memories, SMALL))[order], atol=1e-5)


def test_candidates_matter_to_one_another(
    trained: ListwiseScorer, query: QueryStates, memories: list[TextMemory]
) -> None:
    whole = trained(query, collate(memories, SMALL))
    alone = trained(query, collate(memories[:2], SMALL))
    assert not torch.allclose(whole[0] - whole[1], alone[0] - alone[1], atol=1e-5)


def test_padding_does_not_matter(
    trained: ListwiseScorer, query: QueryStates, memories: list[TextMemory]
) -> None:
    batch = collate(memories, SMALL)
    padded = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    for name in ("tokens", "token_mask", "chunks", "chunk_mask", "pieces", "counts"):
        value = padded[name]
        padded[name] = torch.cat(
            [value, torch.zeros_like(value[:, :1]).expand(-1, 3, *value.shape[2:])], dim=1
        )
    assert torch.allclose(trained(query, type(batch)(**padded)), trained(query, batch), atol=1e-5)


def test_a_picture_needs_no_text(
    trained: ListwiseScorer, query: QueryStates, memories: list[TextMemory]
) -> None:
    has_image, logits = torch.tensor([True, False, True]), torch.tensor([1.0, 0.0, -1.0])
    scores = trained(query, collate([None, memories[0], memories[1]], SMALL, has_image, logits))
    assert scores.shape == (3,)
    assert scores.isfinite().all()
    assert trained(query, collate([None], SMALL, has_image[:1], logits[:1])).isfinite().all()


def test_what_is_both_answers_by_its_text_or_by_its_picture(memories: list[TextMemory]) -> None:
    batch = collate(
        [memories[0], memories[0], memories[0], None],
        SMALL,
        torch.tensor([0, 1, 1, 1]).bool(),
        torch.zeros(4),
    )
    batch = replace(batch, image_logit=torch.tensor([0.0, -9.0, 5.0, -9.0]))
    text, blank, shown, alone = ModalityCalibration(replace(SMALL, picture_bias=3.0))(
        torch.full((4,), -2.0), batch
    ).tolist()
    assert text == -2.0
    assert blank == pytest.approx(-2.0, abs=0.01)  # a picture that says nothing
    assert blank > text
    assert shown == pytest.approx(5.0, abs=0.01)
    assert alone == -6.0


def test_reading_makes_no_keys_and_values_and_finds_what_they_would_give() -> None:
    torch.manual_seed(3)
    layer = CrossAttentionLayer(SMALL).eval()
    asks, memory, mask = torch.randn(5, 3, 12), torch.randn(5, 7, 8), torch.rand(5, 1, 1, 7) > 0.3
    mask[..., 0] = True
    key, value = layer.key_value(memory).chunk(2, dim=-1)
    heads = [part.view(*part.shape[:2], 2, 6).transpose(1, 2) for part in (asks, key, value)]
    expected = scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(-2)
    assert torch.allclose(
        layer._attend_to_memory(asks, memory.unsqueeze(1), mask), expected, atol=1e-5
    )


def test_padding_knows_what_is_missing() -> None:
    rows, mask = pad_rows([torch.ones(2, 3), None, torch.ones(1, 3)], 3)
    assert rows.shape == (3, 2, 3)
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    rows, mask = pad_rows([None, None], 3)
    assert (rows.shape, mask.tolist()) == ((2, 1, 3), [[False], [False]])


def test_remember_keeps_within_the_slots_and_unit_length(reader: ListwiseScorer) -> None:
    ids = torch.tensor([101, *range(2000, 2040), 102])
    memory = reader.remember(torch.randn(42, 16), ids, normalize(torch.randn(2, 16), dim=-1))
    assert memory.tokens.shape == (6, 8)
    assert memory.tokens.norm(dim=-1).tolist() == pytest.approx([1.0] * 6, abs=1e-5)
    assert len(memory.pieces) == len(memory.counts) == 5


def test_compress_drops_the_light_then_averages_neighbours() -> None:
    weights = torch.zeros(2000)
    weights[1100:] = 1.0
    # Four heavy words, four light ones.
    ids = torch.tensor([101, 1000, 1100, 1001, 1101, 1102, 1002, 1103, 1003, 102])
    states = torch.arange(10.0).unsqueeze(1)  # each state is its place
    assert compress_tokens(states, ids, weights, slots=8).squeeze(1).tolist() == list(range(1, 9))
    assert compress_tokens(states, ids, weights, slots=4).squeeze(1).tolist() == [
        2.0,
        4.0,
        5.0,
        7.0,
    ]
    assert compress_tokens(states, ids, weights, slots=2).squeeze(1).tolist() == [3.0, 6.0]


def test_distinct_pieces_are_counted_and_the_heaviest_kept() -> None:
    weights = torch.arange(2000.0)
    pieces, counts = distinct_pieces(
        torch.tensor([101, 1000, 1500, 1500, 1200, 102]), weights, limit=2
    )
    assert dict(zip(pieces.tolist(), counts.tolist(), strict=True)) == {1500: 2, 1200: 1}


def test_an_empty_query_and_an_empty_text_have_a_score(trained: ListwiseScorer) -> None:
    specials = torch.tensor([101, 102])
    query = trained.query(torch.randn(2, 16), specials, normalize(torch.randn(16), dim=0))
    empty = trained.remember(torch.randn(2, 16), specials, normalize(torch.randn(1, 16), dim=-1))
    assert trained(query, collate([empty, empty], SMALL)).isfinite().all()


@pytest.fixture
def reader() -> ListwiseScorer:
    torch.manual_seed(0)
    return ListwiseScorer(SMALL).eval()


@pytest.fixture
def trained(reader: ListwiseScorer) -> ListwiseScorer:
    """Residuals that are no longer zero."""
    for layer in (reader.joint.residual, reader.list.residual):
        torch.nn.init.normal_(layer.weight)
    return reader.requires_grad_(False)


@pytest.fixture
def query(reader: ListwiseScorer) -> QueryStates:
    torch.manual_seed(1)
    return reader.query(
        torch.randn(5, 16),
        torch.tensor([101, 2000, 2001, 2002, 102]),
        normalize(torch.randn(16), dim=0),
    )


@pytest.fixture
def memories(reader: ListwiseScorer) -> list[TextMemory]:
    torch.manual_seed(2)
    lengths = (3, 9, 5, 4, 7)
    return [
        reader.remember(
            torch.randn(n, 16),
            torch.arange(1999, 1999 + n),
            normalize(torch.randn(n // 4 + 1, 16), dim=-1),
        )
        for n in lengths
    ]


def test_pages_are_ordered_by_the_mean_of_three_views() -> None:
    scores, chunk, words = (
        torch.tensor([1.0, 0.0, 5.0]),
        torch.tensor([0.0, 1.0, 9.0]),
        torch.tensor([0.0, 1.0, 9.0]),
    )
    long = torch.tensor([True, True, False])
    blended = blend_long(scores, chunk, words, long)
    assert blended[2] == 5.0  # a text of one chunk keeps its score
    assert blended[1] > blended[0]  # two views against one
    assert float(blended[:2].mean()) == pytest.approx(0.5)
    # There is nothing to compare.
    assert torch.equal(blend_long(scores, chunk, words, torch.tensor([True, False, False])), scores)
