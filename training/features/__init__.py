"""What frozen encoders say of the training data, computed once."""

from training.bi_encoder.pairs import Pair, pairs
from training.features.feature_maps import FeatureMapCache
from training.features.memory_mapped import Part, cache_maps, cache_texts
from training.features.text_states import CachedText, TextStateCache, idf, texts_of
from training.weights.efficientnet import fold

__all__ = [
    "CachedText",
    "FeatureMapCache",
    "Pair",
    "Part",
    "TextStateCache",
    "cache_maps",
    "cache_texts",
    "fold",
    "idf",
    "pairs",
    "texts_of",
]
