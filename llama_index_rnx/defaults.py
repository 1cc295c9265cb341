"""Defaults and choices that several rooms share, each said once. It imports nothing of the package.

A function of Python, a command of `rnx` and its help page read them here.
"""

from typing import Literal

COLLECTION_NAME = "rnx"
RANKER_NAME = "rnx-mini"
TOP_K = 100  # hits that the retriever fetches
TOP_N = 5  # hits that come out of the reranker

# How a list longer than a ranker's window is read.
Windows = Literal["sliding", "parallel"]
