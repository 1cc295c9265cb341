"""Graded lists and where they come from. It knows no model."""

from training.data.graded_list import (
    GradedList,
    Row,
    data_folder,
    distilled,
    files_read,
    insuranceqa,
    kept_lists,
    mediqa,
    mmdocir,
    pairs,
    rag24,
    rows,
    scifact_claims,
    scifact_corpus,
    take,
    trec,
)
from training.data.synthetic import HELD_OUT, same_words
from training.data.user_lists import OwnLists, read_own

__all__ = [
    "HELD_OUT",
    "GradedList",
    "OwnLists",
    "Row",
    "data_folder",
    "distilled",
    "files_read",
    "insuranceqa",
    "kept_lists",
    "mediqa",
    "mmdocir",
    "pairs",
    "rag24",
    "read_own",
    "rows",
    "same_words",
    "scifact_claims",
    "scifact_corpus",
    "take",
    "trec",
]
