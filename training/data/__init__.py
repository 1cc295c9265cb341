"""Graded lists and where they come from. It knows no model."""

from training.data import synthetic
from training.data.files import DataFolder
from training.data.from_index import (
    IndexRow,
    build_list_row,
    read_questions,
    retrieve_lists,
    summarize,
)
from training.data.graded_list import GradedList, take
from training.data.image_datasets import CaptionedImage, flickr, openstax
from training.data.jsonl import Row, read_jsonl, write_jsonl
from training.data.list_files import load_or_build_lists, write_lists
from training.data.synthetic import HELD_OUT, word_overlap
from training.data.text_datasets import (
    distilled,
    insuranceqa,
    mediqa,
    mmdocir,
    query_text_pairs,
    rag24,
    scifact_claims,
    scifact_corpus,
    trec,
)
from training.data.user_lists import UserLists, read_user_lists

__all__ = [
    "HELD_OUT",
    "CaptionedImage",
    "DataFolder",
    "GradedList",
    "IndexRow",
    "Row",
    "UserLists",
    "build_list_row",
    "distilled",
    "flickr",
    "insuranceqa",
    "load_or_build_lists",
    "mediqa",
    "mmdocir",
    "openstax",
    "query_text_pairs",
    "rag24",
    "read_jsonl",
    "read_questions",
    "read_user_lists",
    "retrieve_lists",
    "scifact_claims",
    "scifact_corpus",
    "summarize",
    "synthetic",
    "take",
    "trec",
    "word_overlap",
    "write_jsonl",
    "write_lists",
]
