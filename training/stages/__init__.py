"""The stages of the curriculum and of fine-tuning, and how they are carried out."""

from training.stages.core_set_ablation import ARMS, run_core_set_ablation
from training.stages.development import PICTURES, DevelopmentData, Sources, caption_teacher
from training.stages.fine_tuning import RATE, READINGS, base_folder, tune
from training.stages.lora import run_lora
from training.stages.mixtures import PAIRS, WEIGHTS, dl21_split, insurance_split
from training.stages.rnx_mini import MINI
from training.stages.runner import ENDED, CurriculumData, chains, chosen, run_stages, scaled
from training.stages.smoke_test import SMOKE
from training.stages.synthetic import SyntheticData

__all__ = [
    "ARMS",
    "ENDED",
    "MINI",
    "PAIRS",
    "PICTURES",
    "RATE",
    "READINGS",
    "SMOKE",
    "WEIGHTS",
    "CurriculumData",
    "DevelopmentData",
    "Sources",
    "SyntheticData",
    "base_folder",
    "caption_teacher",
    "chains",
    "chosen",
    "dl21_split",
    "insurance_split",
    "run_core_set_ablation",
    "run_lora",
    "run_stages",
    "scaled",
    "tune",
]
