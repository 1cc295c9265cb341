"""The text tower's network: what transformers computes, bit for bit, without importing it."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from transformers import BertConfig, BertModel

from training.mini import TextEncoderConfig
from training.mini.bert import BertEncoder
from training.mini.quantization import WithoutInitialWeights

SHAPE = TextEncoderConfig(
    vocabulary=100, width=48, layers=3, heads=4, intermediate=96, positions=64
)


def reference() -> BertModel:
    """The same network by transformers, with the same random weights."""
    config = BertConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.width,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        intermediate_size=SHAPE.intermediate,
        max_position_embeddings=SHAPE.positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return BertModel(config, add_pooling_layer=False).eval()


def ours() -> BertEncoder:
    torch.manual_seed(0)
    return BertEncoder(**asdict(SHAPE)).eval()


def test_it_begins_with_the_weights_of_transformers_under_the_same_names() -> None:
    expected, weights = reference().state_dict(), ours().state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [0, 1, 17], ids="padded-{}".format)
@pytest.mark.parametrize(("texts", "length"), [(1, 1), (1, 9), (4, 64)])
def test_it_computes_what_transformers_computes(
    texts: int, length: int, padded: int, dtype: torch.dtype
) -> None:
    ids = torch.randint(
        1, SHAPE.vocabulary, (texts, length), generator=torch.Generator().manual_seed(1)
    )
    mask = torch.ones(texts, length, dtype=torch.long)
    mask[1:, length - padded :] = 0 if padded else 1

    with torch.inference_mode():
        expected = reference().to(dtype)(input_ids=ids, attention_mask=mask).last_hidden_state
        states = ours().to(dtype)(ids, mask)
    assert torch.equal(states, expected)


def test_what_is_padded_changes_nothing() -> None:
    encoder, ids = ours(), torch.tensor([[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    with torch.inference_mode():
        alone = encoder(ids[:1, :3], mask[:1, :3])
        together = encoder(ids, mask)
    torch.testing.assert_close(together[0, :3], alone[0])


def test_a_network_that_is_read_from_a_file_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with WithoutInitialWeights():
        encoder = BertEncoder(**asdict(SHAPE))
    assert torch.equal(torch.get_rng_state(), before)

    encoder.load_state_dict(ours().state_dict(), assign=True)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert torch.equal(encoder.eval()(ids, ids > 0), ours()(ids, ids > 0))
