"""Hits, and how people see them: tables, pages, explanations. It knows no model."""

from llama_index_rnx.results.comparison import compare
from llama_index_rnx.results.hits import Hit, hits_of, movement, source_of, with_bars
from llama_index_rnx.results.html import Comparison, excerpt_of, html_page, style_sheet
from llama_index_rnx.results.occlusion import why
from llama_index_rnx.results.search import search, search_many
from llama_index_rnx.results.table import print_table
from llama_index_rnx.results.thumbnails import thumbnail

__all__ = [
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
