"""Pure functions on strings: splitting, weighing, cleaning. They know no nodes and no models."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "CUTTER",
    "QUESTION_WORDS",
    "UNSAFE",
    "UNSAFE_IN_LINES",
    "Span",
    "bm25",
    "clean",
    "clean_text",
    "clean_texts",
    "encodable",
    "grouped",
    "is_cut_by_words",
    "json_text",
    "lines",
    "marked_excerpts",
    "one_line",
    "passages",
    "printable_lines",
    "query_terms",
    "sentences",
]

if TYPE_CHECKING:
    from llama_index_rnx.text import bm25
    from llama_index_rnx.text.passage_splitter import CUTTER, is_cut_by_words, passages
    from llama_index_rnx.text.sanitize import (
        UNSAFE,
        UNSAFE_IN_LINES,
        clean,
        clean_text,
        clean_texts,
        encodable,
        json_text,
        lines,
        one_line,
        printable_lines,
    )
    from llama_index_rnx.text.sentence_splitter import Span, grouped, sentences
    from llama_index_rnx.text.snippets import QUESTION_WORDS, marked_excerpts, query_terms
else:
    __getattr__, __dir__, _ = lazy_loader.attach(
        __name__,
        submodules=["bm25"],
        submod_attrs={
            "passage_splitter": [
                "CUTTER",
                "is_cut_by_words",
                "passages",
            ],
            "sanitize": [
                "UNSAFE",
                "UNSAFE_IN_LINES",
                "clean",
                "clean_text",
                "clean_texts",
                "encodable",
                "json_text",
                "lines",
                "one_line",
                "printable_lines",
            ],
            "sentence_splitter": [
                "Span",
                "grouped",
                "sentences",
            ],
            "snippets": [
                "QUESTION_WORDS",
                "marked_excerpts",
                "query_terms",
            ],
        },
    )
