"""PDF pages as text and images, read in child processes with limits. It knows no nodes."""

from llama_index_rnx.pdf.pages import READER, count_pages, draw_page, read_pages

__all__ = [
    "READER",
    "count_pages",
    "draw_page",
    "read_pages",
]
