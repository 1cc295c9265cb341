"""The one training loop, checkpoints, processes. It knows no model and no data."""

from training.engine.checkpoint import Record, below, hashes, record_of
from training.engine.distributed import Alone, Together, processes
from training.engine.learner import Learner
from training.engine.stage import Stage
from training.engine.trainer import CHECKPOINT, LOSSES, Lists, Trainer, ndcg, run_lists, train

__all__ = [
    "CHECKPOINT",
    "LOSSES",
    "Alone",
    "Learner",
    "Lists",
    "Record",
    "Stage",
    "Together",
    "Trainer",
    "below",
    "hashes",
    "ndcg",
    "processes",
    "record_of",
    "run_lists",
    "train",
]
