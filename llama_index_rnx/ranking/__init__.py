"""Scoring lists with any ranker: the protocol, windows, scheduling. It holds no model."""

from llama_index_rnx.ranking.batching import (
    TooLargeError,
    ahead,
    by_length,
    give_back,
    in_groups,
    in_parts,
    is_out_of_memory,
    rounded,
)
from llama_index_rnx.ranking.calibration import Calibration
from llama_index_rnx.ranking.executor import check_caller, in_thread
from llama_index_rnx.ranking.pipeline import LISTS_AT_ONCE, Windows, rank, rank_many
from llama_index_rnx.ranking.ranker import (
    Ask,
    BatchRanker,
    Ranker,
    Recalled,
    ScorePlan,
    prompted,
    prompts_of,
    recall,
    recall_usable,
    score_windows,
)
from llama_index_rnx.ranking.scheduler import SharedRanker, shared
from llama_index_rnx.ranking.windows import (
    Ranking,
    Reads,
    Window,
    drive,
    drive_all,
    parallel,
    sliding,
    with_last,
)

__all__ = [
    "LISTS_AT_ONCE",
    "Ask",
    "BatchRanker",
    "Calibration",
    "Ranker",
    "Ranking",
    "Reads",
    "Recalled",
    "ScorePlan",
    "SharedRanker",
    "TooLargeError",
    "Window",
    "Windows",
    "ahead",
    "by_length",
    "check_caller",
    "drive",
    "drive_all",
    "give_back",
    "in_groups",
    "in_parts",
    "in_thread",
    "is_out_of_memory",
    "parallel",
    "prompted",
    "prompts_of",
    "rank",
    "rank_many",
    "recall",
    "recall_usable",
    "rounded",
    "score_windows",
    "shared",
    "sliding",
    "with_last",
]
