"""The whole curriculum from its options: data, stages, ablations, and the checkpoint at the end."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from llama_index_rnx.errors import SettingsError
from training.engine import Learner, Stage
from training.evaluation import chain_of, rows_of, write_history
from training.stages.development import DevelopmentData, Sources, caption_teacher
from training.stages.rnx_mini import MINI
from training.stages.runner import (
    RESULTS,
    CurriculumData,
    ablation_chains,
    run_stages,
    scale_stage,
    select_stages,
)
from training.stages.smoke_test import SMOKE
from training.stages.synthetic import SyntheticData

# The value of --data that stands for generated data.
GENERATED = "generated"


def run_curriculum(options: Namespace) -> None:
    """Carry out every chain of stages that the options ask for, and save the last one's ranker.

    Raises:
        RNXError: an option, the data, or a checkpoint in the work folder does not fit.
    """
    curriculum = SMOKE if options.data == GENERATED else MINI
    stages = [
        scale_stage(stage, options.scale) for stage in select_stages(curriculum, options.stages)
    ]
    chains = ablation_chains(stages, options.without)
    data = load_data(options)
    for chain in chains:
        learner = run_stages(chain, data, options.work, options.seed)
    if options.to:
        save_ranker(learner, chains[-1], options.work, options.to)


def load_data(options: Namespace) -> CurriculumData:
    """Return the data that `--data` names.

    Raises:
        SettingsError: the development data need weights that are not given, or are not there.
    """
    if options.data == GENERATED:
        return SyntheticData(options.work / "data", options.seed)
    if options.text is None or options.tower is None:
        raise SettingsError(
            "--data FOLDER needs --text and --tower, the weights to start from; "
            "training/runs/mini.sh gets them."
        )
    os.environ["RNX_DATA"] = options.data
    sources = Sources(
        text=options.text,
        tower=options.tower,
        cache=options.cache or options.work / "cache",
        retriever=options.retriever,
        images=options.pictures,
    )
    teacher = caption_teacher(options.teacher) if options.teacher else None
    return DevelopmentData(sources, options.seed, teacher)


def save_ranker(learner: Learner, chain: Sequence[Stage], work: Path, folder: Path) -> None:
    """Write the ranker with the history of its stages."""
    rows = rows_of(work / RESULTS)
    names = [stage.name for stage in chain]
    last = next(row for row in rows if row["chain"] == names)
    learner.save(folder)
    write_history(folder, chain_of(rows, last))
