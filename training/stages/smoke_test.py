"""The stages of the smoke test, as data."""

from __future__ import annotations

from training.engine import Stage
from training.stages.rnx_mini import READER

SMOKE = (
    Stage(
        name="retriever",
        mix=(("text-pairs", 1.0), ("picture-pairs", 2.0)),
        development=("texts", "pictures"),
        trained=("image", "reader.base", "reader.compress"),
        steps=80,
        negatives="random",
        teacher="pairs",
        loss="softmax_kl",
        candidates=24,
        rate=2e-3,
        scalar_rate=1e-2,
        average=0.9,
        evaluate_every=40,
    ),
    Stage(
        name="text-lists",
        mix=(("texts", 1.0),),
        development=("texts",),
        trained=READER,
        steps=60,
        candidates=12,
        rate=5e-3,
        scalar_rate=1e-2,
        average=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="image-lists",
        mix=(("pictures", 1.0),),
        development=("pictures",),
        trained=("image",),
        steps=60,
        negatives="mined",
        rounds=2,
        teacher="captions",
        loss="softmax_kl",
        candidates=16,
        rate=3e-4,
        scalar_rate=1e-3,
        average=0.9,
        evaluate_every=20,
    ),
    Stage(
        name="joint-lists",
        mix=(("joint", 1.0), ("texts", 0.5)),
        development=("joint", "texts"),
        trained=("reader.kinds", "reader.base", "reader.joint", "reader.list"),
        steps=60,
        rate=2e-3,
        scalar_rate=2e-2,
        average=0.9,
        evaluate_every=20,
    ),
)
