"""Tiny stand-ins: a ranker and an embedding that can be computed by hand, and files made by code.

`fakes.chat`, `fakes.places`, `fakes.results` and `fakes.ui` need more of the package, and are
imported by name.
"""

from fakes.colours import BLUE, COLOURS, GREEN, RED, colour_of, words
from fakes.embeddings import DIMENSIONS, FakeEmbedding
from fakes.images import image_base64, image_bytes, png_bomb, write_image
from fakes.nodes import text_hits
from fakes.pdfs import pdf_bytes, pdf_stream, write_endless_pdf, write_objects, write_pdf
from fakes.rankers import BrokenRanker, FakeRanker, SharingRanker

__all__ = [
    "BLUE",
    "COLOURS",
    "DIMENSIONS",
    "GREEN",
    "RED",
    "BrokenRanker",
    "FakeEmbedding",
    "FakeRanker",
    "SharingRanker",
    "colour_of",
    "image_base64",
    "image_bytes",
    "pdf_bytes",
    "pdf_stream",
    "png_bomb",
    "text_hits",
    "words",
    "write_endless_pdf",
    "write_image",
    "write_objects",
    "write_pdf",
]
