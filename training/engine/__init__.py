"""The one training loop, checkpoints, processes. It knows no model and no data."""

from training.engine import checkpoint
from training.engine.checkpoint import Record, hashes, record_of, strip_prefix
from training.engine.distributed import Distributed, SingleProcess, processes
from training.engine.learner import Learner
from training.engine.stage import Stage
from training.engine.trainer import CHECKPOINT, LOSSES, Lists, Trainer, ndcg, run_lists, train

__all__ = [
    "CHECKPOINT",
    "LOSSES",
    "Distributed",
    "Learner",
    "Lists",
    "Record",
    "SingleProcess",
    "Stage",
    "Trainer",
    "checkpoint",
    "hashes",
    "ndcg",
    "processes",
    "record_of",
    "run_lists",
    "strip_prefix",
    "train",
]
