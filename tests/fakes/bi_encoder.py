"""Fixtures of the bi-encoder's tests: generated inputs of stage 0, made once.

The training is imported by the fixtures: other tests run without what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from training.bi_encoder import EncoderInputs
    from training.bi_encoder.source import CachedPairs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EncoderInputs:
    """40 training images and 20 development images of Flickr8k, 200 of OpenStax."""
    from training.bi_encoder import write_inputs

    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"), photos=40, dev=20)


@pytest.fixture(scope="session")
def middle(inputs: EncoderInputs) -> dict[str, CachedPairs]:
    """The inputs with the middle feature map of every image."""
    from training.bi_encoder.source import load_sources

    return load_sources(inputs)


@pytest.fixture(scope="session")
def grid(inputs: EncoderInputs) -> dict[str, CachedPairs]:
    """The inputs with the grid feature map of every image."""
    from training.bi_encoder.source import load_sources

    return load_sources(inputs, kind="grid")
