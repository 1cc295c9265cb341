"""PDF pages as text and images, read in child processes with limits. It knows no nodes."""

from llama_index_rnx.pdf.pages import READER, PageText, count_pages, draw_page, read_pages

__all__ = [
    "READER",
    "PageText",
    "count_pages",
    "draw_page",
    "read_pages",
]
