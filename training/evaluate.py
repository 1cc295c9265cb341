"""nDCG@10, MRR and R@k of orders by ir-measures, with paired bootstrap intervals. It knows no model.

`python -m training.evaluate RUN.trec QRELS [--against FIRST.trec]` compares two TREC runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import torch
from ir_measures import RR, Measure, R, nDCG

from training.lists import GradedList

Run = dict[str, dict[str, float]]  # qid -> docid -> score
Values = dict[str, float]  # qid -> value
NDCG10: Measure = nDCG @ 10
MEASURES: tuple[Measure, ...] = (NDCG10, RR @ 10, R @ 1, R @ 3, R @ 5)
SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The mean of (ours - theirs) over queries and its 95 % interval by paired bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def run_of(lists: Sequence[GradedList], scores: Sequence[Sequence[float]]) -> Run:
    """Scores of every list's candidates as a run."""
    return {of.qid: dict(zip(of.docids, map(float, found), strict=True)) for of, found in zip(lists, scores, strict=True)}


def first_run(lists: Sequence[GradedList]) -> Run:
    """The order of the first stage as a run."""
    return run_of(lists, [of.first for of in lists])


def qrels_of(lists: Sequence[GradedList]) -> dict[str, dict[str, int]]:
    """All that is judged about the queries of the lists."""
    return {of.qid: _whole(of.judged or dict(zip(of.docids, of.grades, strict=True))) for of in lists}


def evaluate(qrels: Mapping[str, Mapping[str, int]], run: Run, measure: Measure = NDCG10) -> Values:
    """The measure of every judged query; a query without a run has 0."""
    found = {metric.query_id: float(metric.value) for metric in ir_measures.iter_calc([measure], qrels, run)}
    return {qid: found.get(qid, 0.0) for qid in qrels}


def mean(values: Values) -> float:
    """Over the queries."""
    return sum(values.values()) / max(len(values), 1)


def bootstrap(ours: Values, theirs: Values, samples: int = SAMPLES, seed: int = 0) -> Difference:
    """Paired: queries are drawn with replacement, both runs on the same draw."""
    change = torch.tensor([ours[qid] - theirs[qid] for qid in ours], dtype=torch.float64)  # [queries]
    draws = torch.randint(len(change), (samples, len(change)), generator=torch.Generator().manual_seed(seed))
    means = change[draws].mean(1).sort().values  # [samples]
    return Difference(
        mean=float(change.mean()), low=float(means[int(0.025 * samples)]), high=float(means[int(0.975 * samples)])
    )


def write_run(path: Path, run: Run, tag: str) -> None:
    """A TREC run file: `qid Q0 docid rank score tag`, ranks from 1."""
    lines = []
    for qid, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        lines += [f"{qid} Q0 {docid} {rank} {score:.6f} {tag}" for rank, (docid, score) in enumerate(ranked, 1)]
    path.write_text("\n".join(lines) + "\n")


def compare(qrels: Mapping[str, Mapping[str, int]], ours: Run, theirs: Run | None = None) -> list[str]:
    """One line a measure: its value and, against `theirs`, the difference with its interval."""
    lines = []
    for measure in MEASURES:
        values = evaluate(qrels, ours, measure)
        line = f"{measure!s:8} {mean(values):.4f}"
        if theirs is not None:
            before = evaluate(qrels, theirs, measure)
            line += f"  before {mean(before):.4f}  {bootstrap(values, before)}"
        lines.append(line)
    return lines


def _whole(grades: Mapping[str, float]) -> dict[str, int]:
    return {docid: round(grade) for docid, grade in grades.items()}


def _read_run(path: Path) -> Run:
    run: Run = {}
    for row in ir_measures.read_trec_run(str(path)):  # type: ignore[no-untyped-call]
        run.setdefault(row.query_id, {})[row.doc_id] = row.score
    return run


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for row in ir_measures.read_trec_qrels(str(path)):  # type: ignore[no-untyped-call]
        qrels.setdefault(row.query_id, {})[row.doc_id] = max(0, row.relevance)
    return qrels


def main() -> None:
    """Compare runs from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("qrels", type=Path)
    parser.add_argument("--against", type=Path, help="the run of the first order")
    found = parser.parse_args()
    against = _read_run(found.against) if found.against else None
    print("\n".join(compare(_read_qrels(found.qrels), _read_run(found.run), against)))


if __name__ == "__main__":
    main()
