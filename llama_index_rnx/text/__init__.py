"""Pure functions on strings: cutting, weighing, cleaning. They know no nodes and no models."""

from typing import TYPE_CHECKING

import lazy_loader

__all__ = [
    "CUTTER",
    "UNSAFE",
    "UNSAFE_IN_LINES",
    "Span",
    "bm25",
    "clean",
    "clean_text",
    "encodable",
    "excerpt",
    "grouped",
    "is_cut_by_words",
    "json_text",
    "lines",
    "one_line",
    "passages",
    "prose",
    "query_terms",
    "sentences",
    "split_at_terms",
]

if TYPE_CHECKING:
    from llama_index_rnx.text import bm25
    from llama_index_rnx.text.passage_splitter import CUTTER, is_cut_by_words, passages
    from llama_index_rnx.text.sanitize import (
        UNSAFE,
        UNSAFE_IN_LINES,
        clean,
        clean_text,
        encodable,
        json_text,
        lines,
        one_line,
    )
    from llama_index_rnx.text.sentence_splitter import Span, grouped, sentences
    from llama_index_rnx.text.snippets import excerpt, prose, query_terms, split_at_terms
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
                "encodable",
                "json_text",
                "lines",
                "one_line",
            ],
            "sentence_splitter": [
                "Span",
                "bm25",
                "grouped",
                "sentences",
            ],
            "snippets": [
                "excerpt",
                "prose",
                "query_terms",
                "split_at_terms",
            ],
        },
    )
