"""The bi-encoder of rnx-mini: pairs, model, heads, calibration, cooperation with the cross-encoder."""

__all__ = []
