"""rnx-mini: the embedded ranker. Frozen encoders remember, a small listwise scorer scores; no GPU,
no download.
"""

from llama_index_rnx.rankers.mini.candidate_batch import LAST_SPECIAL
from llama_index_rnx.rankers.mini.checkpoint import GRAPHS, NAME, holds_mini, model_folder
from llama_index_rnx.rankers.mini.config import ImageConfig, ScorerConfig
from llama_index_rnx.rankers.mini.dense_vectors import CAPTION_SHARE
from llama_index_rnx.rankers.mini.image_encoder import preprocess
from llama_index_rnx.rankers.mini.memories import IMAGE_PIXELS
from llama_index_rnx.rankers.mini.quantization import SCALE, dequantize_matrix
from llama_index_rnx.rankers.mini.ranker import MiniRanker, load_mini
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, MAX_CHUNKS, ChunkTokenizer

__all__ = [
    "CAPTION_SHARE",
    "CHUNK_PIECES",
    "GRAPHS",
    "IMAGE_PIXELS",
    "LAST_SPECIAL",
    "MAX_CHUNKS",
    "NAME",
    "SCALE",
    "ChunkTokenizer",
    "ImageConfig",
    "MiniRanker",
    "ScorerConfig",
    "dequantize_matrix",
    "holds_mini",
    "load_mini",
    "model_folder",
    "preprocess",
]
