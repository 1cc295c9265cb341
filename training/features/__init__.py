"""The outputs of frozen encoders for the training data, computed once and kept on disk. It trains
nothing.
"""

from training.features.feature_maps import FeatureMapCache
from training.features.memory_mapped import TowerOutput, cache_maps, cache_texts
from training.features.text_states import QUERY_PREFIX, CachedText, TextStateCache, idf, texts_of

__all__ = [
    "QUERY_PREFIX",
    "CachedText",
    "FeatureMapCache",
    "TextStateCache",
    "TowerOutput",
    "cache_maps",
    "cache_texts",
    "idf",
    "texts_of",
]
