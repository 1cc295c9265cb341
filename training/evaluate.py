"""nDCG@10, MRR and R@k of orders by ir-measures, with paired bootstrap intervals. It knows no model.

    rnx rerank dev.jsonl --run after.trec --model my-ranker
    python -m training.evaluate after.trec dev.jsonl [--results results.jsonl] [--write-first first.trec]
    python -m training.evaluate RUN.trec QRELS [--against FIRST.trec]

Graded lists (.jsonl) say what is relevant and what the first order was: by their scores, or as they stand where they have
none. Judgments in TREC's form say the former only. Results are a row of a file, to stand beside those of the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ir_measures
import torch
from ir_measures import RR, Measure, R, nDCG

from llama_index_rnx.batch import docid_of, judgment_row, run_row
from llama_index_rnx.errors import RNXError
from training.data import GradedList, read_own
from training.engine import hashes, record_of
from training.progress import add_row, today

Run = dict[str, dict[str, float]]  # qid -> docid -> score
Values = dict[str, float]  # qid -> value
NDCG10: Measure = nDCG @ 10
MEASURES: tuple[Measure, ...] = (NDCG10, RR @ 10, R @ 1, R @ 3, R @ 5, R @ 10)
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
    rows = []
    for qid, scores in run.items():
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        rows += [run_row(qid, docid, rank, score, tag) for rank, (docid, score) in enumerate(ranked, 1)]
    path.write_text("".join(rows), encoding="utf-8")


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Judgments as TREC has them: `qid 0 docid grade`."""
    rows = [judgment_row(qid, docid, grade) for qid, of in qrels.items() for docid, grade in of.items()]
    path.write_text("".join(rows), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of a run, and what it adds to another run."""

    value: float
    before: float | None = None
    gain: Difference | None = None

    def __str__(self) -> str:
        return f"{self.value:.4f}" + (f"  before {self.before:.4f}  {self.gain}" if self.gain else "")


def compare(qrels: Mapping[str, Mapping[str, int]], ours: Run, theirs: Run | None = None) -> dict[str, Comparison]:
    """Every measure, by its name."""
    found = {}
    for measure in MEASURES:
        values = evaluate(qrels, ours, measure)
        before = evaluate(qrels, theirs, measure) if theirs is not None else None
        gain = bootstrap(values, before) if before is not None else None
        found[str(measure)] = Comparison(value=mean(values), before=mean(before) if before is not None else None, gain=gain)
    return found


def given_run(lists: Sequence[GradedList]) -> Run:
    """The first order: by the scores of the lists, or as they stand where one of them has none."""
    if all(of.first for of in lists):
        return first_run(lists)
    return run_of(lists, [[-float(place) for place in range(len(of.docids))] for of in lists])


def read_run(path: Path) -> Run:
    """A TREC run file.

    Raises:
        RNXError: it is not there, or holds something else.
    """
    run: Run = {}
    for row in _rows(path, ir_measures.read_trec_run):
        run.setdefault(row.query_id, {})[docid_of(row.doc_id)] = row.score
    return run


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """A TREC file of judgments; errors as `read_run`."""
    qrels: dict[str, dict[str, int]] = {}
    for row in _rows(path, ir_measures.read_trec_qrels):
        qrels.setdefault(row.query_id, {})[docid_of(row.doc_id)] = max(0, row.relevance)
    return qrels


def _rows(path: Path, read: Callable[[str], Iterable[Any]]) -> list[Any]:
    if not path.is_file():
        raise RNXError(f"{path} does not exist; give a TREC file, or graded lists (.jsonl) for the judgments.")
    try:
        return list(read(str(path)))
    except (ValueError, IndexError, TypeError) as error:
        raise RNXError(f"{path} is not a TREC file ({error}); a run has `qid Q0 docid rank score tag` in a row.") from error


def _whole(grades: Mapping[str, float]) -> dict[str, int]:
    return {docid: round(grade) for docid, grade in grades.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("judgments", type=Path, help="graded lists (.jsonl) or TREC judgments")
    parser.add_argument("--against", type=Path, help="another run, in place of the first order of the lists")
    parser.add_argument("--write-first", type=Path, help="write the first order of the lists as a TREC run")
    parser.add_argument("--results", type=Path, help="add a row to this results.jsonl")
    found = parser.parse_args(arguments)
    try:
        _compare_files(found)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


def _compare_files(asked: argparse.Namespace) -> None:
    first: Run | None = None
    if asked.judgments.suffix == ".jsonl":
        own = read_own(asked.judgments)
        print(own)
        qrels, first = qrels_of(own.lists), given_run(own.lists)
    else:
        qrels = read_qrels(asked.judgments)
    if asked.write_first and first is not None:
        write_run(asked.write_first, first, "first")
    against = read_run(asked.against) if asked.against else first
    table = compare(qrels, read_run(asked.run), against)
    print("\n".join(f"{name:8} {of}" for name, of in table.items()))
    if asked.results:
        files = hashes([path for path in (asked.run, asked.judgments, asked.against) if path])
        row = {
            "kind": "run",
            "date": today(),
            "queries": len(qrels),
            "measures": {name: asdict(of) for name, of in table.items()},
        }
        add_row(asked.results, {**row, **asdict(record_of({"run": asked.run.name}, 0, files))})


if __name__ == "__main__":
    main()
