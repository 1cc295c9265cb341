"""The stages of the curriculum and of fine-tuning, and how they are carried out."""

from training.stages.comparison import compare_files
from training.stages.core_set_ablation import ARMS, AblationSettings, run_core_set_ablation
from training.stages.curriculum import run_curriculum
from training.stages.development import PICTURES, DevelopmentData, Sources, caption_teacher
from training.stages.fine_tuning import RATE, READINGS, base_folder, tune
from training.stages.lora import run_lora
from training.stages.mixtures import PAIRS, WEIGHTS, WRITTEN_LISTS, dl21_split, insurance_split
from training.stages.rehearsal import rehearsal_arguments, rehearsal_report, write_rehearsal
from training.stages.rnx_mini import MINI
from training.stages.runner import (
    ENDED,
    CurriculumData,
    ablation_chains,
    run_stages,
    scale_stage,
    select_stages,
)
from training.stages.smoke_run import run_smoke
from training.stages.smoke_test import SMOKE
from training.stages.synthetic import SyntheticData
from training.stages.text_cache import fill_text_cache

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
    "WRITTEN_LISTS",
    "AblationSettings",
    "CurriculumData",
    "DevelopmentData",
    "Sources",
    "SyntheticData",
    "ablation_chains",
    "base_folder",
    "caption_teacher",
    "compare_files",
    "dl21_split",
    "fill_text_cache",
    "insurance_split",
    "rehearsal_arguments",
    "rehearsal_report",
    "run_core_set_ablation",
    "run_curriculum",
    "run_lora",
    "run_smoke",
    "run_stages",
    "scale_stage",
    "select_stages",
    "tune",
    "write_rehearsal",
]
