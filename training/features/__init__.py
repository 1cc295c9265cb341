"""What frozen encoders say of the training data, computed once."""

from training.bi_encoder.pairs import Pair, pairs
from training.features.feature_maps import PictureCache
from training.features.memory_mapped import Part, cache_maps, cache_texts
from training.features.text_states import CachedText, TokenCache, idf, texts_of
from training.weights.efficientnet import fold

__all__ = [
    "CachedText",
    "Pair",
    "Part",
    "PictureCache",
    "TokenCache",
    "cache_maps",
    "cache_texts",
    "fold",
    "idf",
    "pairs",
    "texts_of",
]
