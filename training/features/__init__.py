"""What frozen encoders say of the training data, computed once."""

from training.features.feature_maps import PictureCache
from training.features.memory_mapped import Pair, Part, cache_maps, cache_texts, fold, pairs
from training.features.text_states import CachedText, TokenCache, idf

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
]
