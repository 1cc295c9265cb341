"""Stage 0 on generated data in less than a minute: the bi-encoder, a head, calibration and the
comparison of shared with separate weights. It returns what went wrong.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from training.bi_encoder.cooperation import CooperationSettings
from training.bi_encoder.heads import HeadSettings
from training.bi_encoder.model import BiEncoderSettings
from training.bi_encoder.runs import (
    calibrate_images,
    compare_cooperation,
    train_head,
    train_retriever,
)
from training.bi_encoder.synthetic import write_inputs

# Every step reads both sources, so that losses of different steps can be compared.
RETRIEVER = BiEncoderSettings(steps=12, batch=12, frozen_steps=3, captions=2, openstax=1.0)
HEAD = HeadSettings(steps=24, batch=32, figures=32, openstax=1.0)
COOPERATION = CooperationSettings(
    rounds=40, pictures=24, lists=8, length=4, nearest=8, mine_every=10, queries=10, width=64
)

FALL = 0.9  # the last third of a run's losses is below this share of the first third
LEARNED = 50.0  # R@5 of the calibrated scores on Flickr8k dev, in percent; by chance 21


def smoke_stage_zero(work: Path) -> list[str]:
    """Run stage 0 in an empty folder.

    Returns:
        A line for everything that should not be: a loss that does not fall, or images that are not
        found.
    """
    inputs = write_inputs(work / "inputs")
    losses = train_retriever(inputs, RETRIEVER, work / "retriever")
    failures = _unlearned("bi-encoder", losses)
    failures += _unlearned("head", train_head(inputs, HEAD, work / "head"))

    heads = [(work / "head", inputs.tower)]
    calibrate_images(inputs, work / "retriever", heads, work / "final", losses=losses)
    failures += _not_found(work / "final")

    rows = compare_cooperation(inputs, COOPERATION, ["SEP", "JOINT"])
    print("\n".join(rows))
    return failures


def _unlearned(name: str, losses: Sequence[float]) -> list[str]:
    third = len(losses) // 3
    first = sum(losses[:third]) / third
    last = sum(losses[-third:]) / third
    return [f"{name}: loss {first:.3f} -> {last:.3f}"] if last > FALL * first else []


def _not_found(final: Path) -> list[str]:
    results = json.loads((final / "image.json").read_text())["results"]
    recall = results["flickr_dev"]["+ late, all"]["R@5"]
    print(f"stage 0: R@5 {recall} on generated images")
    if recall >= LEARNED:
        return []
    return [f"stage 0: R@5 {recall} on generated images, at least {LEARNED} expected"]
