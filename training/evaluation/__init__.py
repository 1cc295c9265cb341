"""Metrics, intervals, TREC files, results and plots. It knows no model."""

__all__ = []
