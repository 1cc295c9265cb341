"""The stages of rnx-mini's curriculum, as data."""

from __future__ import annotations

from training.engine import Stage
from training.stages.mixtures import WEIGHTS

READER = ("reader.base", "reader.compress", "reader.joint", "reader.list")


MINI = (
    Stage(
        name="retriever",
        mix=(("flickr", 1.0), ("openstax", 0.33)),
        development=("flickr", "openstax"),
        trained=("tower", "image"),
        steps=260,
        negatives="in batch",
        teacher="pairs",
        loss="info_nce",
        candidates=256,
        rate=1e-3,
    ),
    Stage(
        name="text-lists",
        mix=tuple(WEIGHTS.items()),
        development=("rag24", "dl21", "scifact", "insuranceqa", "mediqa"),
        trained=READER,
        steps=600,
        negatives="mined",
        rounds=3,
        teacher="judgments; SPLADE++ and the text tower where there are none",
    ),
    Stage(
        name="image-lists",
        mix=(("flickr", 1.0), ("openstax", 0.5)),
        development=("flickr", "openstax"),
        trained=("image",),
        steps=300,
        negatives="mined",
        rounds=3,
        teacher="captions",
        loss="mixed",
        candidates=20,
        lists_a_step=8,
        rate=1e-4,
        scalar_rate=1e-3,
        evaluate_every=50,
    ),
    Stage(
        name="joint-lists",
        mix=(
            ("joint-flickr", 1.0),
            ("joint-openstax", 1.0),
            ("rag24", 0.2),
            ("dl21", 0.2),
            ("scifact", 0.1),
        ),
        development=("joint-flickr", "joint-openstax", "rag24", "dl21", "scifact"),
        trained=(
            "reader.kinds",
        ),  # with the list attention too, joint lists gained .03 to .07 and SciFact lost .10
        steps=60,
        scalar_rate=3e-2,
        average=0.95,
        evaluate_every=20,
    ),
)
