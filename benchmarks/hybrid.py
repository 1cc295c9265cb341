"""How real language weights in the 2B class rank lists of texts on TREC DL19: read-outs, position
bias, windows.

    RNX_DATA=DIR python -m benchmarks.hybrid --model FOLDER --to OUT [--top 20] [--windows sliding]
    [--limit N] WAY...

FOLDER comes from `training.assemble_hybrid`: real language weights, a RANDOM vision tower, so texts
only. WAY is one of
    bm25, gte-small, rnx-mini
        for comparison, on the same candidates
    pointwise
        yes against no, each candidate alone
    labels, labels+both, labels+bias, labels+both+bias
        one letter for each candidate; `both`: also the reversed list; `bias`: less the mean logit
        of each position, fitted without grades on lists of DL22
    doctor
        label mass, agreement of a list with its reverse, and the doctor's verdict on DL22
Nothing is fitted on DL19. Texts are cut to 70 tokens. Every scored list is kept in OUT and never
scored twice: a killed run goes on where it was, and ways share their scores.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from llama_index.core.schema import NodeWithScore, TextNode
from torch import Tensor

from llama_index_rnx import RNXEmbedding, RNXRerank, load_ranker
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.console import progress_bar
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm import VLMRanker, diagnose, fit, kendall_tau
from llama_index_rnx.ranking import Calibration, Ranker, ScoringRequest
from training.data import DataFolder, GradedList, take, trec
from training.evaluation import (
    NDCG10,
    Run,
    Values,
    bootstrap,
    evaluate,
    first_run,
    mean,
    qrels_of,
    run_of,
)

TEXT_TOKENS = 70

# Lists of DL22, each shuffled four times: 48 scores a position.
BIAS_LISTS = 12

# Ways to read labels: (both orders, bias taken off).
LABELS = {
    "labels": (False, False),
    "labels+both": (True, False),
    "labels+bias": (False, True),
    "labels+both+bias": (True, True),
}
WAYS = ("bm25", "gte-small", "rnx-mini", "pointwise", *LABELS, "doctor")


def main() -> None:
    """Rank the lists by every way and print its nDCG@10, with the paired interval against BM25."""
    args = _parser().parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    lists = [
        take(graded_list, range(min(args.top, len(graded_list.docids))))
        for graded_list in trec(DataFolder.from_environment(), "dl19", ["bm25"])[: args.limit]
    ]
    bm25 = evaluate(qrels_of(lists), first_run(lists), NDCG10)
    open_reads = lru_cache(maxsize=1)(partial(load_reads, args))
    print(
        f"DL19, BM25's top {args.top}, {len(lists)} queries, texts of {TEXT_TOKENS} tokens; "
        f"{args.model} in {args.dtype}"
    )
    for way in args.ways:
        if way == "doctor":
            print(diagnose_position_bias(open_reads("labels"), lists))
            continue
        values, spent = measure(way, lists, open_reads, args)
        gain = bootstrap(values, bm25)
        print(f"{way:18} nDCG@10 {mean(values):.4f}  against BM25 {gain}  {spent}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("ways", nargs="+", choices=WAYS, metavar="WAY")
    add("--model", required=True)
    add("--to", type=Path, required=True, help="the folder of the kept scores")
    windows = "of lists beyond 20"
    add("--windows", choices=["sliding", "parallel"], default="sliding", help=windows)
    add("--top", type=int, default=20, help="candidates of BM25's list")
    add("--limit", type=int, help="only the first queries")
    add("--dtype", default="bfloat16")
    return parser


def measure(
    way: str, lists: Sequence[GradedList], open_reads: Callable[[str], KeptReads], args: Any
) -> tuple[Values, str]:
    """Return nDCG@10 by query, and what scoring took, in earlier runs as well."""
    qrels = qrels_of(lists)
    if way == "bm25":
        return evaluate(qrels, first_run(lists), NDCG10), ""
    if way == "gte-small":
        scores = [cosines(graded_list) for graded_list in lists]
        return evaluate(qrels, run_of(lists, scores), NDCG10), ""
    if way == "rnx-mini":
        mini = load_ranker(max_text_tokens=TEXT_TOKENS)
        return evaluate(qrels, rerank(mini, lists, args), NDCG10), ""
    run = rerank(build_ranker(way, open_reads), lists, args)
    return evaluate(qrels, run, NDCG10), open_reads(way.split("+")[0]).spent()


def build_ranker(way: str, open_reads: Callable[[str], KeptReads]) -> Ranker:
    """Return the ranker behind a way."""
    if way == "pointwise":
        return open_reads("pointwise")
    both, has_bias = LABELS[way]
    reads = open_reads("labels")
    calibration = Calibration()
    if has_bias:
        calibration = fit(cast(VLMRanker, reads), dl22(reads), lengths=[reads.window])
    return Corrected(reads, both, calibration)


def rerank(ranker: Ranker, lists: Sequence[GradedList], args: Any) -> Run:
    """Return every list's order by `RNXRerank`, as a user would get it."""
    reranker = RNXRerank(
        ranker=ranker,
        top_n=args.top,
        windows=args.windows,
        memory_path=str(args.to / "memories"),
    )
    run: Run = {}
    with progress_bar("reranking", len(lists), "lists") as advance:
        for graded_list in lists:
            nodes = [
                NodeWithScore(node=TextNode(id_=docid, text=text))
                for docid, text in zip(graded_list.docids, graded_list.texts, strict=True)
            ]
            best = reranker.postprocess_nodes(nodes, query_str=graded_list.query)
            run[graded_list.qid] = {
                hit.node_id: float(len(best) - index) for index, hit in enumerate(best)
            }
            advance(1)
    return run


def cosines(graded_list: GradedList) -> list[float]:
    """Return gte-small's cosines of whole texts; it is the text encoder of rnx-mini."""
    embedding = RNXEmbedding()
    query = torch.tensor(embedding.get_query_embedding(graded_list.query))
    texts = torch.tensor(embedding.get_text_embedding_batch(list(graded_list.texts)))
    values: list[float] = (texts @ query).tolist()
    return values


def diagnose_position_bias(reads: KeptReads, lists: Sequence[GradedList]) -> str:
    """Return the agreement of the lists with their reverse, their label mass, and the doctor's
    verdict on DL22, where the position bias is fitted.
    """
    requests = [build_request(reads, item.query, item.texts) for item in lists]
    taus = []
    for query, memories in requests:
        forward = torch.tensor(reads.score(query, memories))
        backward = torch.tensor(reads.score(query, memories[::-1])).flip(0)
        taus.append(kendall_tau(forward, backward))
    masses = [reads.mass(query, memories) for query, memories in requests]
    verdict = diagnose(cast(VLMRanker, reads), dl22(reads))
    return (
        f"agreement of a list with its reverse {sum(taus) / len(taus):+.3f} "
        f"(Kendall's tau, {len(requests)} lists), label mass "
        f"{sum(masses) / len(masses):.3f} ({min(masses):.3f} to {max(masses):.3f})\n"
        f"DL22, {BIAS_LISTS} lists: {verdict}"
    )


def dl22(reads: KeptReads) -> list[ScoringRequest]:
    """Return the lists on which the position bias is fitted; they need no grades."""
    rows = DataFolder.from_environment().rows("trec/dl22.bm25.jsonl.gz")
    return [
        build_request(
            reads,
            row["query"],
            [candidate["text"] for candidate in row["candidates"][: reads.window]],
        )
        for row in islice(rows, BIAS_LISTS)
    ]


def build_request(reads: KeptReads, query: str, texts: Sequence[str]) -> ScoringRequest:
    """Return the query with the memories of the texts."""
    candidates = [Candidate(id=str(i), text=text) for i, text in enumerate(texts)]
    return Query(text=query), reads.remember(candidates)


def load_reads(args: Any, readout: str) -> KeptReads:
    """Return the kept scores of one read-out.

    Those of another model, precision or prompt lie in another file.
    """
    ranker = load_ranker(args.model, readout=readout, dtype=args.dtype, max_text_tokens=TEXT_TOKENS)
    vlm = cast(VLMRanker, ranker)
    settings = json.dumps([args.model, args.dtype, TEXT_TOKENS, vlm.prompts])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return KeptReads(vlm, args.to / f"{readout}-{digest}.jsonl")


class KeptReads:
    """A `VLMRanker` without its corrections, whose scores are kept in a file.

    They are written as they come, and no list is scored twice.
    """

    def __init__(self, ranker: VLMRanker, path: Path) -> None:
        self._ranker = ranker.uncalibrated()
        self._path = path
        self.name = ranker.name
        self.fingerprint = ranker.fingerprint
        self.window = ranker.window
        self.readout = ranker.readout
        self.labels = ranker.labels
        self._masses: list[float] = []
        self._rows: dict[str, dict[str, Any]] = _read_rows(path)
        self._used: set[str] = set()

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return self._ranker.remember(candidates)

    @property
    def label_mass(self) -> float | None:
        """The mean over the lists that were scored."""
        return sum(self._masses) / len(self._masses) if self._masses else None

    def with_single_order(self) -> KeptReads:
        """Return the same scores, with a label mass of their own."""
        reads = copy.copy(self)
        reads._masses = []
        return reads

    def uncalibrated(self) -> KeptReads:
        return self.with_single_order()

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        row = self._row(query, memories)
        self._masses.append(row["mass"])
        scores: list[float] = row["scores"]
        return scores

    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        return [self.score(*request) for request in requests]

    def mass(self, query: Query, memories: Sequence[Memory]) -> float:
        """Return the share of probability on the labels of this list."""
        return float(self._row(query, memories)["mass"])

    def spent(self) -> str:
        """Return what the lists scored since the last call cost when they were scored."""
        rows = [self._rows[key] for key in self._used]
        self._used = set()
        cpu = sum(row["cpu"] for row in rows) / 60
        wall = sum(row["wall"] for row in rows) / 60
        return f"{len(rows)} reads, {cpu:.1f} CPU minutes, {wall:.1f} by the clock"

    def _row(self, query: Query, memories: Sequence[Memory]) -> dict[str, Any]:
        key = self._key(query, memories)
        self._used.add(key)
        if key not in self._rows:
            self._rows[key] = self._score_now(query, memories)
            # The line break comes first: a torn last line costs only itself.
            with self._path.open("a") as stream:
                stream.write("\n" + json.dumps({"key": key, **self._rows[key]}))
        return self._rows[key]

    def _score_now(self, query: Query, memories: Sequence[Memory]) -> dict[str, Any]:
        once = self._ranker.with_single_order()
        cpu = time.process_time()
        wall = time.perf_counter()
        scores = once.score(query, memories)
        return {
            "query": query.text,
            "scores": scores,
            "mass": once.label_mass,
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
        }

    def _key(self, query: Query, memories: Sequence[Memory]) -> str:
        texts = [memory["text"].tolist() for memory in memories]
        content = json.dumps([self.name, self.readout, query.text, texts])
        return hashlib.sha256(content.encode()).hexdigest()


class Corrected:
    """The ranker by labels over kept scores.

    It applies `both_orders` and a calibration as `VLMRanker` does.
    """

    def __init__(self, reads: KeptReads, both: bool, calibration: Calibration) -> None:
        self._reads = reads
        self._both = both
        self._calibration = calibration
        self.name = reads.name
        self.fingerprint = reads.fingerprint
        self.window = reads.window

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return self._reads.remember(candidates)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        logits = [self._logits(query, memories)]
        if self._both and len(memories) > 1:
            logits.append(self._logits(query, memories[::-1]).flip(0))
        scores: list[float] = torch.stack(logits).mean(0).sigmoid().tolist()
        return scores

    def _logits(self, query: Query, memories: Sequence[Memory]) -> Tensor:
        scores = torch.tensor(self._reads.score(query, memories), dtype=torch.float64)
        return self._calibration.logits(scores.logit(1e-12))


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of the file by their keys; lines that a kill cut short are left out."""
    if not path.is_file():
        return {}
    rows = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["key"]] = row
    return rows


if __name__ == "__main__":
    main()
