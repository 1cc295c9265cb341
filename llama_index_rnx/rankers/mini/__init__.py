"""rnx-mini: the embedded ranker. Frozen encoders remember, a small listwise scorer scores; no GPU,
no download.
"""

from llama_index_rnx.rankers.mini.candidate_batch import (
    LAST_SPECIAL,
    CandidateBatch,
    QueryStates,
    ScorerConfig,
    TextMemory,
    collate,
    compress_tokens,
    distinct_pieces,
)
from llama_index_rnx.rankers.mini.dense_vectors import CAPTION_SHARE
from llama_index_rnx.rankers.mini.image_encoder import ImageEncoder, ImageTower, preprocess
from llama_index_rnx.rankers.mini.image_heads import (
    AuxiliaryHead,
    CaptionVectors,
    ImageConfig,
    ImageProjector,
    ImageScorer,
    ImageVectors,
    TransformerLayer,
    grid,
)
from llama_index_rnx.rankers.mini.listwise_scorer import ListwiseScorer, list_bm25
from llama_index_rnx.rankers.mini.memories import IMAGE_PIXELS
from llama_index_rnx.rankers.mini.model import NAME, MiniModel, holds_mini, model_folder, read_mini
from llama_index_rnx.rankers.mini.quantization import quantize
from llama_index_rnx.rankers.mini.ranker import MiniRanker, load_mini
from llama_index_rnx.rankers.mini.text_encoder import (
    CHUNK_PIECES,
    EncodedText,
    TextEncoder,
    TextEncoderConfig,
    pad_ids,
    pool,
)

__all__ = [
    "CAPTION_SHARE",
    "CHUNK_PIECES",
    "IMAGE_PIXELS",
    "LAST_SPECIAL",
    "NAME",
    "AuxiliaryHead",
    "CandidateBatch",
    "CaptionVectors",
    "EncodedText",
    "ImageConfig",
    "ImageEncoder",
    "ImageProjector",
    "ImageScorer",
    "ImageTower",
    "ImageVectors",
    "ListwiseScorer",
    "MiniModel",
    "MiniRanker",
    "QueryStates",
    "ScorerConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "TextMemory",
    "TransformerLayer",
    "collate",
    "compress_tokens",
    "distinct_pieces",
    "grid",
    "holds_mini",
    "list_bm25",
    "load_mini",
    "model_folder",
    "pad_ids",
    "pool",
    "preprocess",
    "quantize",
    "read_mini",
]
