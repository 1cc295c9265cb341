"""From and to checkpoints: conversion, averaging, export."""

from training.weights.averaging import weights_of
from training.weights.efficientnet import fold
from training.weights.export import LIMIT, model_of, write_mini
from training.weights.gte_small import SHA256, state_dict
from training.weights.hybrid import assemble, check, true_config

__all__ = [
    "LIMIT",
    "SHA256",
    "assemble",
    "check",
    "fold",
    "model_of",
    "state_dict",
    "true_config",
    "weights_of",
    "write_mini",
]
