"""Hits, and how people see them: tables, pages, explanations. It knows no model."""

from llama_index_rnx.candidates.candidate import PAGE
from llama_index_rnx.results.comparison import compare
from llama_index_rnx.results.hits import Hit, hits_of, search, search_many
from llama_index_rnx.results.html import (
    Comparison,
    excerpt_of,
    html_page,
    movement,
    print_table,
    source_of,
    style_sheet,
    thumbnail,
    with_bars,
)
from llama_index_rnx.results.occlusion import why

__all__ = [
    "PAGE",
    "Comparison",
    "Hit",
    "compare",
    "excerpt_of",
    "hits_of",
    "html_page",
    "movement",
    "print_table",
    "search",
    "search_many",
    "source_of",
    "style_sheet",
    "thumbnail",
    "why",
    "with_bars",
]
