"""What frozen encoders say of the training data, computed once."""

from training.features.feature_maps import FeatureMapCache
from training.features.memory_mapped import TowerOutput, cache_maps, cache_texts
from training.features.text_states import CachedText, TextStateCache, idf, texts_of

__all__ = [
    "CachedText",
    "FeatureMapCache",
    "TextStateCache",
    "TowerOutput",
    "cache_maps",
    "cache_texts",
    "idf",
    "texts_of",
]
