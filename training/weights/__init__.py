"""From and to checkpoints: conversion, averaging, export."""

from training.weights.averaging import weights_of
from training.weights.efficientnet import LITE2_CHANNELS, fold, unfold
from training.weights.export import LIMIT, model_of, write_mini
from training.weights.gte_small import SHA256, state_dict
from training.weights.hybrid import assemble, check, true_config

__all__ = [
    "LIMIT",
    "LITE2_CHANNELS",
    "SHA256",
    "assemble",
    "check",
    "fold",
    "model_of",
    "state_dict",
    "true_config",
    "unfold",
    "weights_of",
    "write_mini",
]
