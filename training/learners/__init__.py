"""The models in training: rnx-mini and vision-language models."""

from training.learners.mini import MiniLearner, begin_reader, candidate_batch
from training.learners.vlm import PART, Lora, VLMLearner

__all__ = [
    "PART",
    "Lora",
    "MiniLearner",
    "VLMLearner",
    "begin_reader",
    "candidate_batch",
]
