"""Graded lists and where they come from. It knows no model."""

from training.data import synthetic
from training.data.files import Row, data_folder, files_read, rows
from training.data.from_index import IndexRow, list_of, read_questions, summary
from training.data.graded_list import GradedList, kept_lists, take
from training.data.image_datasets import CaptionedImage, flickr, openstax
from training.data.jsonl import write_lists
from training.data.synthetic import HELD_OUT, same_words
from training.data.text_datasets import (
    distilled,
    insuranceqa,
    mediqa,
    mmdocir,
    pairs,
    rag24,
    scifact_claims,
    scifact_corpus,
    trec,
)
from training.data.user_lists import OwnLists, read_own

__all__ = [
    "HELD_OUT",
    "CaptionedImage",
    "GradedList",
    "IndexRow",
    "OwnLists",
    "Row",
    "data_folder",
    "distilled",
    "files_read",
    "flickr",
    "insuranceqa",
    "kept_lists",
    "list_of",
    "mediqa",
    "mmdocir",
    "openstax",
    "pairs",
    "rag24",
    "read_own",
    "read_questions",
    "rows",
    "same_words",
    "scifact_claims",
    "scifact_corpus",
    "summary",
    "synthetic",
    "take",
    "trec",
    "write_lists",
]
