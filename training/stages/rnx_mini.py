"""The stages of rnx-mini's curriculum, as data. It knows no lists."""

from __future__ import annotations

from training.engine import Stage
from training.stages.mixtures import WEIGHTS

# The modules of the scorer that text lists train.
READER = ("reader.base", "reader.compress", "reader.joint", "reader.list")

MINI = (
    Stage(
        name="retriever",
        sources=(("flickr", 1.0), ("openstax", 0.33)),
        dev_sets=("flickr", "openstax"),
        trainable=("tower", "image"),
        steps=260,
        negatives="in batch",
        teacher="pairs",
        loss="info_nce",
        list_length=256,
        learning_rate=1e-3,
    ),
    Stage(
        name="text-lists",
        sources=tuple(WEIGHTS.items()),
        dev_sets=("rag24", "dl21", "scifact", "insuranceqa", "mediqa"),
        trainable=READER,
        steps=600,
        negatives="mined",
        mining_rounds=3,
        teacher="judgments; SPLADE++ and the text tower where there are none",
    ),
    Stage(
        name="image-lists",
        sources=(("flickr", 1.0), ("openstax", 0.5)),
        dev_sets=("flickr", "openstax"),
        trainable=("image",),
        steps=300,
        negatives="mined",
        mining_rounds=3,
        teacher="captions",
        loss="mixed",
        list_length=20,
        batch_size=8,
        learning_rate=1e-4,
        scalar_learning_rate=1e-3,
        evaluate_every=50,
    ),
    Stage(
        name="joint-lists",
        sources=(
            ("joint-flickr", 1.0),
            ("joint-openstax", 1.0),
            ("rag24", 0.2),
            ("dl21", 0.2),
            ("scifact", 0.1),
        ),
        dev_sets=("joint-flickr", "joint-openstax", "rag24", "dl21", "scifact"),
        # With the list attention too, joint lists gained .03 to .07 and SciFact lost .10.
        trainable=("reader.kinds",),
        steps=60,
        scalar_learning_rate=3e-2,
        ema_decay=0.95,
        evaluate_every=20,
    ),
)
