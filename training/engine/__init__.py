"""The one training loop, its tasks, checkpoints and processes. It knows no model."""

from training.engine import checkpoint
from training.engine.checkpoint import Record, hashes, record_of, strip_prefix
from training.engine.distributed import Distributed, SingleProcess, processes
from training.engine.graded_lists import LOSSES, GradedListTask, Lists, ndcg, run_lists
from training.engine.learner import Learner
from training.engine.schedules import warmup_times_cosine
from training.engine.stage import Stage
from training.engine.task import ModuleTask, Task
from training.engine.trainer import CHECKPOINT, Trainer

__all__ = [
    "CHECKPOINT",
    "LOSSES",
    "Distributed",
    "GradedListTask",
    "Learner",
    "Lists",
    "ModuleTask",
    "Record",
    "SingleProcess",
    "Stage",
    "Task",
    "Trainer",
    "checkpoint",
    "hashes",
    "ndcg",
    "processes",
    "record_of",
    "run_lists",
    "strip_prefix",
    "warmup_times_cosine",
]
