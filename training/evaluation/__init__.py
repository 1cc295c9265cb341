"""Metrics, intervals, TREC files, results and plots. It knows no model."""

from training.evaluation.bootstrap import bootstrap, compare
from training.evaluation.metrics import (
    MEASURES,
    NDCG10,
    Run,
    Values,
    evaluate,
    first_run,
    first_stage_run,
    mean,
    qrels_of,
    run_of,
)
from training.evaluation.plots import ablations, draw, table
from training.evaluation.results import (
    Row,
    add_row,
    chain_of,
    longest_chain,
    read_history,
    rows_of,
    today,
    write_history,
)
from training.evaluation.trec import read_qrels, read_run, write_qrels, write_run

__all__ = [
    "MEASURES",
    "NDCG10",
    "Row",
    "Run",
    "Values",
    "ablations",
    "add_row",
    "bootstrap",
    "chain_of",
    "compare",
    "draw",
    "evaluate",
    "first_run",
    "first_stage_run",
    "longest_chain",
    "mean",
    "qrels_of",
    "read_history",
    "read_qrels",
    "read_run",
    "rows_of",
    "run_of",
    "table",
    "today",
    "write_history",
    "write_qrels",
    "write_run",
]
