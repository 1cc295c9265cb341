"""From and to checkpoints: conversion, averaging, export. It trains nothing."""

from training.weights.averaging import average_weights
from training.weights.efficientnet import LITE2_CHANNELS, fold, unfold
from training.weights.export import export_mini, model_of, write_mini
from training.weights.gte_small import convert_gte_small
from training.weights.hybrid import assemble, check, true_config

__all__ = [
    "LITE2_CHANNELS",
    "assemble",
    "average_weights",
    "check",
    "convert_gte_small",
    "export_mini",
    "fold",
    "model_of",
    "true_config",
    "unfold",
    "write_mini",
]
