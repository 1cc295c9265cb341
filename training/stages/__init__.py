"""The stages of the curriculum and of fine-tuning, and how they are carried out."""

from training.stages.development import PICTURES, DevelopmentMaterial, Sources, caption_teacher
from training.stages.mixtures import PAIRS, WEIGHTS, dl21_split, insurance_split
from training.stages.synthetic import GeneratedMaterial

__all__ = [
    "PAIRS",
    "PICTURES",
    "WEIGHTS",
    "DevelopmentMaterial",
    "GeneratedMaterial",
    "Sources",
    "caption_teacher",
    "dl21_split",
    "insurance_split",
]
