"""Nodes and queries as rankers see them: text, image, digest. It knows no models, no Qdrant."""

from llama_index_rnx.candidates.candidate import (
    Candidate,
    Query,
    unreadable_images,
    without_unreadable_images,
)
from llama_index_rnx.candidates.decoding import count_pixels
from llama_index_rnx.candidates.images import (
    ImageSource,
    base64_source,
    bytes_source,
    file_source,
    is_data_uri,
    pil_source,
    source_at,
    url_source,
)
from llama_index_rnx.candidates.nodes import (
    EMPTY,
    PAGE,
    SOURCE,
    PageNode,
    candidate_of,
    image_of,
    inline_image,
    restore_inline_image,
    usable_candidate,
    with_file_state,
    with_inline_image,
)
from llama_index_rnx.candidates.pixels import DEFAULT_MAX_PIXELS, pad_to_aspect
from llama_index_rnx.candidates.queries import dense_texts_of, dense_vector_of, query_of

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "EMPTY",
    "PAGE",
    "SOURCE",
    "Candidate",
    "ImageSource",
    "PageNode",
    "Query",
    "base64_source",
    "bytes_source",
    "candidate_of",
    "count_pixels",
    "dense_texts_of",
    "dense_vector_of",
    "file_source",
    "image_of",
    "inline_image",
    "is_data_uri",
    "pad_to_aspect",
    "pil_source",
    "query_of",
    "restore_inline_image",
    "source_at",
    "unreadable_images",
    "url_source",
    "usable_candidate",
    "with_file_state",
    "with_inline_image",
    "without_unreadable_images",
]
