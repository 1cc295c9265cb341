"""The stages of the curriculum and of fine-tuning, and how they are carried out."""

from training.stages.comparison import compare_files
from training.stages.core_set_ablation import ARMS, AblationSettings, run_core_set_ablation
from training.stages.curriculum import run_curriculum
from training.stages.development import PICTURES
from training.stages.fine_tuning import RATE, READINGS, base_folder, tune
from training.stages.lora import run_lora
from training.stages.mixtures import WRITTEN_LISTS
from training.stages.rehearsal import rehearsal_arguments, rehearsal_report, write_rehearsal
from training.stages.rnx_mini import MINI
from training.stages.runner import (
    ENDED,
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
    "PICTURES",
    "RATE",
    "READINGS",
    "SMOKE",
    "WRITTEN_LISTS",
    "AblationSettings",
    "SyntheticData",
    "ablation_chains",
    "base_folder",
    "compare_files",
    "fill_text_cache",
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
