"""Losses: scores in, one number out. They know no model."""

from training.losses.contrastive import hard_triplet, infonce
from training.losses.listwise import lambdarank, listmle, ranknet, softmax_kl

__all__ = [
    "hard_triplet",
    "infonce",
    "lambdarank",
    "listmle",
    "ranknet",
    "softmax_kl",
]
