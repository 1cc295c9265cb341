"""The modules of rnx-mini in torch, as they are trained, and their graphs, which inference runs. It
knows no list and no loss.
"""

from training.mini.candidate_batch import (
    CandidateBatch,
    QueryStates,
    TextMemory,
    collate,
    compress_tokens,
    distinct_pieces,
)
from training.mini.graph_builder import GraphBuilder
from training.mini.graphs import build_graphs, write_graphs
from training.mini.image_encoder import ImageEncoder, ImageTower
from training.mini.image_heads import (
    AuxiliaryHead,
    CaptionVectors,
    ImageProjector,
    ImageScorer,
    ImageVectors,
    TransformerLayer,
    grid,
)
from training.mini.listwise_scorer import ListwiseScorer, list_bm25
from training.mini.model import MiniModel, read_mini
from training.mini.quantization import quantize
from training.mini.text_encoder import (
    EncodedText,
    TextEncoder,
    TextEncoderConfig,
    pad_ids,
    pool,
)

__all__ = [
    "AuxiliaryHead",
    "CandidateBatch",
    "CaptionVectors",
    "EncodedText",
    "GraphBuilder",
    "ImageEncoder",
    "ImageProjector",
    "ImageScorer",
    "ImageTower",
    "ImageVectors",
    "ListwiseScorer",
    "MiniModel",
    "QueryStates",
    "TextEncoder",
    "TextEncoderConfig",
    "TextMemory",
    "TransformerLayer",
    "build_graphs",
    "collate",
    "compress_tokens",
    "distinct_pieces",
    "grid",
    "list_bm25",
    "pad_ids",
    "pool",
    "quantize",
    "read_mini",
    "write_graphs",
]
