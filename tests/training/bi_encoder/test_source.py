"""What the bi-encoder reads: rows become pairs, caches become maps and states, splits share no
group.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import torch

from training.bi_encoder.pairs import FILES, read_pairs
from training.bi_encoder.source import CachedPairs, EncoderInputs, epoch_batch


def test_an_image_has_all_its_texts_once_without_credits(tmp_path: Path) -> None:
    path = tmp_path / FILES["openstax"]
    path.parent.mkdir(parents=True)
    rows = [
        {"image": "a.png", "module": "m1", "alt": "a cell", "caption": None, "title": "Cells"},
        {
            "image": "a.png",
            "module": "m1",
            "alt": "a cell",
            "caption": "a living cell (credit: NASA)",
            "title": "Cells",
        },
        {"image": "b.png", "module": "m1", "alt": "", "caption": "word", "title": ""},
    ]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)

    (pair,) = read_pairs(tmp_path, "openstax")
    assert pair.texts == ("a cell", "a living cell")
    assert (pair.name, pair.group) == ("a.png", "m1")
    assert pair.path == path.parent / "a.png"


def test_splits_of_openstax_share_no_module(middle: dict[str, CachedPairs]) -> None:
    train, dev = middle["openstax"], middle["openstax_dev"]
    modules = [{split.items[row].group for row in split.rows} for split in (train, dev)]
    assert not modules[0] & modules[1]
    assert len(train.rows) + len(dev.rows) == len(train.items)
    assert len(dev.rows) == 20


def test_states_of_captions_are_padded_and_cut(middle: dict[str, CachedPairs]) -> None:
    source = middle["flickr_train"]
    texts = source.texts[source.rows[0]]
    states, mask, pooled = source.caption_states(texts)
    lengths = [len(text.split()) for text in source.items[source.rows[0]].texts]
    assert mask.sum(1).tolist() == lengths
    assert states.shape == (3, max(lengths), 384)
    assert pooled.shape == (3, 384)
    assert float(states[~mask].abs().sum()) == 0.0

    cut, mask, _ = source.caption_states(texts, longest=2)
    assert torch.equal(cut, states[:, :2])
    assert mask.all()


def test_maps_are_of_the_views_that_are_asked_for(middle: dict[str, CachedPairs]) -> None:
    source = middle["flickr_train"]
    assert source.views == 6
    whole = source.image_maps([3, 4])
    second = source.image_maps([3, 4], np.array([0, 1]))
    assert whole.shape == (2, 16, 16, 120)
    assert torch.equal(whole[0], second[0])
    assert not torch.equal(whole[1], second[1])


def test_an_epoch_has_every_row_once_but_for_the_incomplete_batch() -> None:
    rows = list(range(10, 21))
    epoch = [epoch_batch(rows, 3, step, seed=0) for step in range(3)]
    seen = [row for batch in epoch for row in batch]
    assert len(seen) == len(set(seen)) == 9
    assert set(seen) < set(rows)
    assert epoch_batch(rows, 3, 3, seed=0) != epoch[0], "the next epoch has another order"
    assert epoch_batch(rows, 3, 1, seed=0) == epoch[1], "a function of the step"


def test_hashes_name_every_file_that_is_there(inputs: EncoderInputs) -> None:
    names = {"dev.jsonl.gz", "train.jsonl.gz", "figures.jsonl.gz", "random-lite2.pth"}
    assert set(inputs.hashes()) == names, "there is no text encoder: its states are cached"
