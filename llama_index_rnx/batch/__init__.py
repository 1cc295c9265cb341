"""Files of candidate lists, ranked without an index. It knows no collection."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "CandidateList",
    "calibrate",
    "diagnose_checkpoint",
    "docid_of",
    "judgment_row",
    "list_of",
    "rank_lists",
    "read_lists",
    "read_queries",
    "run_row",
    "skip_reason",
]

if TYPE_CHECKING:
    from llama_index_rnx.batch.diagnose import calibrate, diagnose_checkpoint, skip_reason
    from llama_index_rnx.batch.lists import CandidateList, list_of, read_lists, read_queries
    from llama_index_rnx.batch.rerank import rank_lists
    from llama_index_rnx.batch.trec import docid_of, judgment_row, run_row
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "diagnose": [
                "calibrate",
                "diagnose_checkpoint",
                "skip_reason",
            ],
            "lists": [
                "CandidateList",
                "list_of",
                "read_lists",
                "read_queries",
            ],
            "rerank": [
                "rank_lists",
            ],
            "trec": [
                "docid_of",
                "judgment_row",
                "run_row",
            ],
        },
    )
