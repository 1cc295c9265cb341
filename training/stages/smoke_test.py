"""The stages of the smoke run, as data. It knows no lists."""

from __future__ import annotations

from training.engine import Stage
from training.stages.rnx_mini import READER

SMOKE = (
    Stage(
        name="retriever",
        sources=(("text-pairs", 1.0), ("picture-pairs", 2.0)),
        dev_sets=("texts", "pictures"),
        trainable=("image", "reader.base", "reader.compress"),
        steps=80,
        negatives="random",
        teacher="pairs",
        loss="softmax_kl",
        list_length=24,
        learning_rate=2e-3,
        scalar_learning_rate=1e-2,
        ema_decay=0.9,
        evaluate_every=40,
    ),
    Stage(
        name="text-lists",
        sources=(("texts", 1.0),),
        dev_sets=("texts",),
        trainable=READER,
        steps=60,
        list_length=12,
        learning_rate=5e-3,
        scalar_learning_rate=1e-2,
        ema_decay=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="image-lists",
        sources=(("pictures", 1.0),),
        dev_sets=("pictures",),
        trainable=("image",),
        steps=60,
        negatives="mined",
        mining_rounds=2,
        teacher="captions",
        loss="softmax_kl",
        list_length=16,
        learning_rate=3e-4,
        scalar_learning_rate=1e-3,
        ema_decay=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="joint-lists",
        sources=(("joint", 1.0), ("texts", 0.5)),
        dev_sets=("joint", "texts"),
        trainable=("reader.kinds", "reader.base", "reader.joint", "reader.list"),
        steps=60,
        learning_rate=2e-3,
        scalar_learning_rate=2e-2,
        ema_decay=0.9,
        evaluate_every=20,
    ),
)
