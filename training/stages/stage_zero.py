"""Stage 0 of the curriculum: the bi-encoder that trains the image part. It knows no lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from training.engine import Stage


def train_image_part(*, text: Path, tower: Path, cache: Path, folder: Path, stage: Stage) -> None:
    """Train the bi-encoder, then make its bank and its calibration, and export it to `folder`."""
    common = ["--tower", str(tower), "--text", str(text), "--cache", str(cache)]
    common += ["--out", str(folder / "run")]
    training = ["--steps", str(stage.steps), "--batch", str(stage.list_length)]
    training += ["--rate", str(stage.learning_rate)]
    for module, options in (
        ("train_retriever", training),
        ("evaluate_images", ["--final", str(folder)]),
    ):
        command = [sys.executable, "-m", f"training.{module}", *common, *options]
        subprocess.run(command, check=True)
