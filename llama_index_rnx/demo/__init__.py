"""`rnx demo`: the main job on a small corpus, from nothing."""

from llama_index_rnx.demo.corpus import IMAGE_QUERY, QUESTIONS, build_corpus
from llama_index_rnx.demo.run import run_demo

__all__ = [
    "IMAGE_QUERY",
    "QUESTIONS",
    "build_corpus",
    "run_demo",
]
