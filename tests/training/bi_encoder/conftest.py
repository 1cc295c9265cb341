"""Generated inputs of stage 0, made once."""

from __future__ import annotations

import pytest
import torch

from training.bi_encoder import EncoderInputs, write_inputs
from training.bi_encoder.source import CachedPairs, load_sources


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EncoderInputs:
    """40 training images and 20 development images of Flickr8k, 200 of OpenStax."""
    torch.set_num_threads(1)
    return write_inputs(tmp_path_factory.mktemp("inputs"), photos=40, dev=20)


@pytest.fixture(scope="session")
def middle(inputs: EncoderInputs) -> dict[str, CachedPairs]:
    return load_sources(inputs)


@pytest.fixture(scope="session")
def grid(inputs: EncoderInputs) -> dict[str, CachedPairs]:
    return load_sources(inputs, kind="grid")
