"""What frozen encoders say of the training data, computed once."""

from training.features.feature_maps import FeatureMapCache
from training.features.memory_mapped import Part, cache_maps, cache_texts
from training.features.text_states import CachedText, TextStateCache, idf, texts_of

__all__ = [
    "CachedText",
    "FeatureMapCache",
    "Part",
    "TextStateCache",
    "cache_maps",
    "cache_texts",
    "idf",
    "texts_of",
]
