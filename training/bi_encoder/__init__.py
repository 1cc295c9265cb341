"""The bi-encoder of rnx-mini: data, model, heads, calibration, cooperation with a cross-encoder."""

from training.bi_encoder.cooperation import CooperationSettings
from training.bi_encoder.heads import HeadSettings
from training.bi_encoder.logistic import fit_logistic
from training.bi_encoder.model import BiEncoderSettings
from training.bi_encoder.options import encoder_parser, inputs_from, settings_from
from training.bi_encoder.pairs import Pair, read_pairs
from training.bi_encoder.runs import (
    BANK_SHARE,
    calibrate_images,
    compare_cooperation,
    train_head,
    train_retriever,
    train_stage_zero,
)
from training.bi_encoder.smoke import smoke_stage_zero
from training.bi_encoder.source import EncoderInputs
from training.bi_encoder.synthetic import write_inputs

__all__ = [
    "BANK_SHARE",
    "BiEncoderSettings",
    "CooperationSettings",
    "EncoderInputs",
    "HeadSettings",
    "Pair",
    "calibrate_images",
    "compare_cooperation",
    "encoder_parser",
    "fit_logistic",
    "inputs_from",
    "read_pairs",
    "settings_from",
    "smoke_stage_zero",
    "train_head",
    "train_retriever",
    "train_stage_zero",
    "write_inputs",
]
