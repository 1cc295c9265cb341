"""Files of candidate lists, ranked without an index. It knows no collection."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "CandidateList",
    "calibrate",
    "docid_of",
    "examine",
    "judgment_row",
    "list_of",
    "needs_none",
    "rank_lists",
    "read_lists",
    "read_queries",
    "run_row",
]

if TYPE_CHECKING:
    from llama_index_rnx.batch.diagnose import calibrate, examine, needs_none
    from llama_index_rnx.batch.lists import (
        CandidateList,
        list_of,
        rank_lists,
        read_lists,
        read_queries,
    )
    from llama_index_rnx.batch.trec import docid_of, judgment_row, run_row
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submod_attrs={
            "diagnose": [
                "calibrate",
                "examine",
                "needs_none",
            ],
            "lists": [
                "CandidateList",
                "list_of",
                "rank_lists",
                "read_lists",
                "read_queries",
            ],
            "trec": [
                "docid_of",
                "judgment_row",
                "run_row",
            ],
        },
    )
