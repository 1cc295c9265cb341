"""An rnx-mini so small that a minute trains it, over the words of the generated data.

Its encoders are random and frozen; the scorers of texts and of images are the package's own. It
knows no stage.
"""

from __future__ import annotations

from typing import cast

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from llama_index_rnx.rankers.mini import LAST_SPECIAL, ImageConfig, ScorerConfig
from training.data import synthetic
from training.mini import (
    GraphBuilder,
    ImageEncoder,
    ImageProjector,
    ImageScorer,
    ListwiseScorer,
    MiniModel,
    TextEncoder,
    TextEncoderConfig,
)

# The width of a token state of the text encoder.
WIDTH = 48


class TinyImageEncoder(nn.Module):
    """A frozen random image encoder: its maps are of random filters and of plain colours."""

    channels = 99

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 7, 4, 3)
        self.second = nn.Conv2d(32, 96, 5, 4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, 256, 256] -> [B, 1, 99, 8, 8]"""
        hidden = self.second(self.first(pixels).relu()).relu()  # [B, 96, 16, 16]
        filters = nn.functional.avg_pool2d(hidden, 2)  # [B, 96, 8, 8]
        colours = nn.functional.avg_pool2d(pixels, 32)  # [B, 3, 8, 8]
        return torch.cat([filters, colours], dim=1).unsqueeze(1)  # [B, 1, 99, 8, 8]

    def add_maps(self, graph: GraphBuilder, name: str, x: str) -> list[str]:
        """The same in a graph; `name` is that of this module in the checkpoint."""
        hidden = x
        for layer, padding in (("first", 3), ("second", 2)):
            weight = graph.weight(f"{name}.{layer}.weight")
            bias = graph.weight(f"{name}.{layer}.bias")
            pads = [padding] * 4
            convolved = graph.add("Conv", hidden, weight, bias, strides=[4, 4], pads=pads)
            hidden = graph.add("Relu", convolved)  # at last [B, 96, 16, 16]
        filters = graph.add("AveragePool", hidden, kernel_shape=[2, 2], strides=[2, 2])
        colours = graph.add("AveragePool", x, kernel_shape=[32, 32], strides=[32, 32])
        return [graph.add("Concat", filters, colours, axis=1)]


def tiny_model(seed: int) -> MiniModel:
    """Return rnx-mini with a vocabulary of the generated words and random weights."""
    torch.manual_seed(seed)
    tokenizer, vocabulary = _tokenizer()
    image = _image_scorer()
    text = _text_encoder(tokenizer, vocabulary)
    # The tiny image encoder stands in for the real one: pixels go in, maps come out.
    eyes = cast(ImageEncoder, TinyImageEncoder())
    model = MiniModel(text, eyes, image, ListwiseScorer(_scorer_config(vocabulary)))
    with torch.no_grad():
        # The scorer expects the narrow cosines of a trained text encoder.
        model.reader.base.linear.weight.mul_(0.1)
    return model


def _tokenizer() -> tuple[Tokenizer, int]:
    """Return a tokenizer of whole words, and the size of its vocabulary."""
    ids = {"[PAD]": 0, "[CLS]": 101, "[SEP]": 102, "[UNK]": 100}
    ids.update({word: LAST_SPECIAL + 1 + index for index, word in enumerate(synthetic.words())})
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer, max(ids.values()) + 1


def _image_scorer() -> ImageScorer:
    scorer = ImageScorer(
        ImageConfig(
            dim=WIDTH - 2,
            word_dim=32,
            text_width=WIDTH,
            heads=4,
            head_dim=16,
            text_heads=4,
            bank=128,
            neighbours=4,
            dropout=0.05,
        )
    )
    scorer.projector = ImageProjector(scorer.config, TinyImageEncoder.channels)
    return scorer


def _text_encoder(tokenizer: Tokenizer, vocabulary: int) -> TextEncoder:
    config = TextEncoderConfig(
        vocabulary=vocabulary, width=WIDTH, layers=1, heads=4, intermediate=96, positions=64
    )
    encoder = TextEncoder(tokenizer, config)
    # A random state then says which word it is of, and nothing else.
    embeddings = encoder.bert.embeddings
    nn.init.zeros_(embeddings.position_embeddings.weight)
    nn.init.zeros_(embeddings.token_type_embeddings.weight)
    return encoder


def _scorer_config(vocabulary: int) -> ScorerConfig:
    return ScorerConfig(
        vocabulary=vocabulary,
        state_width=WIDTH,
        memory_width=32,
        slots=24,
        lexicon=24,
        query_tokens=8,
        width=32,
        heads=4,
        layers=2,
        list_width=32,
        list_heads=2,
        list_layers=1,
    )
