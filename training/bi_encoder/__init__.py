"""The bi-encoder of rnx-mini: pairs, model, heads, calibration, cooperation with the cross-encoder."""

from training.bi_encoder.calibration import (
    Chain,
    ImageSplit,
    calibrate,
    calibration_table,
    drawn_texts,
    export,
    scores_of,
)
from training.bi_encoder.cooperation import (
    CooperationRun,
    CooperationSettings,
    new_reader,
    result_rows,
)
from training.bi_encoder.heads import Head, HeadSettings, train_heads
from training.bi_encoder.model import BiEncoder, BiEncoderSettings
from training.bi_encoder.pairs import pairs
from training.bi_encoder.source import sources
from training.bi_encoder.training import train_bi_encoder

__all__ = [
    "BiEncoder",
    "BiEncoderSettings",
    "Chain",
    "CooperationRun",
    "CooperationSettings",
    "Head",
    "HeadSettings",
    "ImageSplit",
    "calibrate",
    "calibration_table",
    "drawn_texts",
    "export",
    "new_reader",
    "pairs",
    "result_rows",
    "scores_of",
    "sources",
    "train_bi_encoder",
    "train_heads",
]
