"""Scoring lists with any ranker: the protocol, windows, scheduling. It holds no model."""

from llama_index_rnx.defaults import Windows
from llama_index_rnx.ranking.batching import (
    TooLargeError,
    batches_by_token_budget,
    batches_of_equal_shape,
    halve_on_oom,
    is_out_of_memory,
    pad_to_multiple,
    prefetch,
    release_memory,
)
from llama_index_rnx.ranking.calibration import Calibration
from llama_index_rnx.ranking.executor import check_caller, run_in_executor
from llama_index_rnx.ranking.memories import (
    UsableMemories,
    get_or_compute_memories,
    get_usable_memories,
)
from llama_index_rnx.ranking.pipeline import LISTS_AT_ONCE, rank, rank_many
from llama_index_rnx.ranking.ranker import (
    BatchRanker,
    Ranker,
    ScorePlan,
    ScoringRequest,
    prompted,
    prompts_of,
)
from llama_index_rnx.ranking.scheduler import BatchingRanker, score_batch, with_dynamic_batching
from llama_index_rnx.ranking.windows import (
    Ranking,
    Window,
    WindowPlan,
    parallel_windows,
    run_plan,
    run_plans,
    sliding_windows,
    with_last,
)

__all__ = [
    "LISTS_AT_ONCE",
    "BatchRanker",
    "BatchingRanker",
    "Calibration",
    "Ranker",
    "Ranking",
    "ScorePlan",
    "ScoringRequest",
    "TooLargeError",
    "UsableMemories",
    "Window",
    "WindowPlan",
    "Windows",
    "batches_by_token_budget",
    "batches_of_equal_shape",
    "check_caller",
    "get_or_compute_memories",
    "get_usable_memories",
    "halve_on_oom",
    "is_out_of_memory",
    "pad_to_multiple",
    "parallel_windows",
    "prefetch",
    "prompted",
    "prompts_of",
    "rank",
    "rank_many",
    "release_memory",
    "run_in_executor",
    "run_plan",
    "run_plans",
    "score_batch",
    "sliding_windows",
    "with_dynamic_batching",
    "with_last",
]
