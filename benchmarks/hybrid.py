"""How real language weights in the 2B class rank lists of texts on TREC DL19: read-outs, prejudice
for slots, windows.

    RNX_DATA=DIR python -m benchmarks.hybrid --model FOLDER --to OUT [--top 20] [--windows sliding]
    [--limit N] WAY...

FOLDER comes from `training.assemble_hybrid`: real language weights, a RANDOM vision tower, so texts
only. WAY is one of
    bm25, gte-small, rnx-mini                 for comparison, on the same candidates
    pointwise                                 yes against no, each candidate alone
    labels, labels+both, labels+bias, labels+both+bias one letter for each candidate; `both`: also
        the reversed list; `bias`: less the mean logit of each slot, fitted without grades on lists
        of DL22
    doctor                                    label mass, agreement of a list with its reverse, and the doctor's verdict on DL22
Nothing is fitted on DL19. Texts are cut to 70 tokens. Every read is kept in OUT and never made
twice: a killed run goes on where it was, and ways share their reads.
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
from training.data import GradedList, data_folder, rows, take, trec
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
BIAS_LISTS = 12  # of DL22, each shuffled four times: 48 reads a slot
LABELS = {
    "labels": (False, False),
    "labels+both": (True, False),
    "labels+bias": (False, True),
    "labels+both+bias": (True, True),
}
WAYS = ("bm25", "gte-small", "rnx-mini", "pointwise", *LABELS, "doctor")


def main() -> None:
    """Ranks the lists by every way and prints its nDCG@10, with the paired interval against BM25's
    order.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ways", nargs="+", choices=WAYS, metavar="WAY")
    parser.add_argument("--model", required=True)
    parser.add_argument("--to", type=Path, required=True, help="the folder of the kept reads")
    parser.add_argument(
        "--windows", choices=["sliding", "parallel"], default="sliding", help="of lists beyond 20"
    )
    parser.add_argument("--top", type=int, default=20, help="candidates of BM25's list")
    parser.add_argument("--limit", type=int, help="only the first queries")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    lists = [
        take(of, range(min(args.top, len(of.docids))))
        for of in trec("dl19", ["bm25"])[: args.limit]
    ]
    bm25 = evaluate(qrels_of(lists), first_run(lists), NDCG10)
    kept = lru_cache(maxsize=1)(partial(opened, args))
    print(
        f"DL19, BM25's top {args.top}, {len(lists)} queries, texts of {TEXT_TOKENS} tokens; {args.model} in {args.dtype}"
    )
    for way in args.ways:
        if way == "doctor":
            print(prejudice(kept("labels"), lists))
            continue
        values, spent = measured(way, lists, kept, args)
        print(
            f"{way:18} nDCG@10 {mean(values):.4f}  against BM25 {bootstrap(values, bm25)}  {spent}",
            flush=True,
        )


def measured(
    way: str, lists: Sequence[GradedList], kept: Callable[[str], KeptReads], args: Any
) -> tuple[Values, str]:
    """nDCG@10 by query, and what reading took (also what earlier runs spent on the same reads)."""
    if way == "bm25":
        return evaluate(qrels_of(lists), first_run(lists), NDCG10), ""
    if way == "gte-small":
        return evaluate(qrels_of(lists), run_of(lists, [cosines(of) for of in lists]), NDCG10), ""
    ranker: Ranker = (
        load_ranker(max_text_tokens=TEXT_TOKENS) if way == "rnx-mini" else way_of(way, kept)
    )
    found = evaluate(qrels_of(lists), reranked(ranker, lists, args), NDCG10)
    return found, kept(way.split("+")[0]).spent() if way != "rnx-mini" else ""


def way_of(way: str, kept: Callable[[str], KeptReads]) -> Ranker:
    """The ranker behind a way."""
    if way == "pointwise":
        return kept("pointwise")
    both, bias = LABELS[way]
    reads = kept("labels")
    return Corrected(
        reads,
        both,
        fit(cast(VLMRanker, reads), dl22(reads), lengths=[reads.window]) if bias else Calibration(),
    )


def reranked(ranker: Ranker, lists: Sequence[GradedList], args: Any) -> Run:
    """Every list through `RNXRerank`, as a user would."""
    memories = str(args.to / "memories")
    reranker, run = (
        RNXRerank(ranker=ranker, top_n=args.top, windows=args.windows, memory_path=memories),
        Run(),
    )
    with progress_bar("reranking", len(lists), "lists") as advance:
        for of in lists:
            nodes = [
                NodeWithScore(node=TextNode(id_=d, text=t))
                for d, t in zip(of.docids, of.texts, strict=True)
            ]
            best = reranker.postprocess_nodes(nodes, query_str=of.query)
            run[of.qid] = {hit.node_id: float(len(best) - place) for place, hit in enumerate(best)}
            advance(1)
    return run


def cosines(of: GradedList) -> list[float]:
    """gte-small's cosines, whole texts; it is the text tower of rnx-mini."""
    embedding = RNXEmbedding()
    asked = torch.tensor(embedding.get_query_embedding(of.query))
    found: list[float] = (
        torch.tensor(embedding.get_text_embedding_batch(list(of.texts))) @ asked
    ).tolist()
    return found


def prejudice(reads: KeptReads, lists: Sequence[GradedList]) -> str:
    """On the lists: agreement with the reverse, and label mass. On DL22, where the slot bias is
    fitted: the doctor's words.
    """
    asks = [ask_of(reads, of.query, of.texts) for of in lists]
    taus = []
    for query, memories in asks:
        there, back = reads.score(query, memories), reads.score(query, memories[::-1])
        taus.append(kendall_tau(torch.tensor(there), torch.tensor(back).flip(0)))
    masses = [reads.mass(query, memories) for query, memories in asks]
    verdict = diagnose(cast(VLMRanker, reads), dl22(reads))
    return (
        f"agreement of a list with its reverse {sum(taus) / len(taus):+.3f} (Kendall's tau, {len(asks)} lists), label mass "
        f"{sum(masses) / len(masses):.3f} ({min(masses):.3f} to {max(masses):.3f})\nDL22, {BIAS_LISTS} lists: {verdict}"
    )


def dl22(reads: KeptReads) -> list[ScoringRequest]:
    """The lists on which the slot bias is fitted; they need no grades."""
    found = islice(rows(data_folder() / "trec" / "dl22.bm25.jsonl.gz"), BIAS_LISTS)
    return [
        ask_of(reads, row["query"], [c["text"] for c in row["candidates"][: reads.window]])
        for row in found
    ]


def ask_of(reads: KeptReads, query: str, texts: Sequence[str]) -> ScoringRequest:
    return Query(text=query), reads.remember(
        [Candidate(id=str(i), text=text) for i, text in enumerate(texts)]
    )


def opened(args: Any, readout: str) -> KeptReads:
    """The reads of one read-out; those of another model, precision or prompt lie in another file."""
    ranker = cast(
        VLMRanker,
        load_ranker(args.model, readout=readout, dtype=args.dtype, max_text_tokens=TEXT_TOKENS),
    )
    settings = json.dumps([args.model, args.dtype, TEXT_TOKENS, ranker.prompts])
    return KeptReads(
        ranker, args.to / f"{readout}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.jsonl"
    )


class KeptReads:
    """A `VLMRanker` without its corrections, whose reads are written to a file as they come and are
    never made twice.
    """

    def __init__(self, ranker: VLMRanker, path: Path) -> None:
        self._ranker, self._path = ranker.uncalibrated(), path
        self.name, self.fingerprint, self.window = ranker.name, ranker.fingerprint, ranker.window
        self.readout, self.labels = ranker.readout, ranker.labels
        self._masses: list[float] = []
        self._kept: dict[str, dict[str, Any]] = _read_rows(path)
        self._used: set[str] = set()

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return self._ranker.remember(candidates)

    @property
    def label_mass(self) -> float | None:
        """Meaned over what was read."""
        return sum(self._masses) / len(self._masses) if self._masses else None

    def with_single_order(self) -> KeptReads:
        """The same reads, with a label mass of its own."""
        other = copy.copy(self)
        other._masses = []
        return other

    def uncalibrated(self) -> KeptReads:
        return self.with_single_order()

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        row = self._row(query, memories)
        self._masses.append(row["mass"])
        scores: list[float] = row["scores"]
        return scores

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        return [self.score(*ask) for ask in asks]

    def mass(self, query: Query, memories: Sequence[Memory]) -> float:
        """The share of probability on the answers of this list."""
        return float(self._row(query, memories)["mass"])

    def spent(self) -> str:
        """What the reads since the last call cost when they were made."""
        used, self._used = [self._kept[key] for key in self._used], set()
        cpu, wall = (sum(row[clock] for row in used) / 60 for clock in ("cpu", "wall"))
        return f"{len(used)} reads, {cpu:.1f} CPU minutes, {wall:.1f} by the clock"

    def _row(self, query: Query, memories: Sequence[Memory]) -> dict[str, Any]:
        key = self._key(query, memories)
        self._used.add(key)
        if key not in self._kept:
            self._kept[key] = self._made(query, memories)
            with self._path.open(
                "a"
            ) as stream:  # the break comes first: a torn last line costs only itself
                stream.write("\n" + json.dumps({"key": key, **self._kept[key]}))
        return self._kept[key]

    def _made(self, query: Query, memories: Sequence[Memory]) -> dict[str, Any]:
        once = self._ranker.with_single_order()
        cpu, wall = time.process_time(), time.perf_counter()
        scores = once.score(query, memories)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {
            "query": query.text,
            "scores": scores,
            "mass": once.label_mass,
            "cpu": cpu,
            "wall": wall,
        }

    def _key(self, query: Query, memories: Sequence[Memory]) -> str:
        texts = [memory["text"].tolist() for memory in memories]
        return hashlib.sha256(
            json.dumps([self.name, self.readout, query.text, texts]).encode()
        ).hexdigest()


class Corrected:
    """The ranker by labels over kept reads, with `both_orders` and a calibration as `VLMRanker`
    applies them.
    """

    def __init__(self, reads: KeptReads, both: bool, calibration: Calibration) -> None:
        self._reads, self._both, self._calibration = reads, both, calibration
        self.name, self.fingerprint, self.window = reads.name, reads.fingerprint, reads.window

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return self._reads.remember(candidates)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        found = [self._logits(query, memories)]
        if self._both and len(memories) > 1:
            found.append(self._logits(query, memories[::-1]).flip(0))
        scores: list[float] = torch.stack(found).mean(0).sigmoid().tolist()
        return scores

    def _logits(self, query: Query, memories: Sequence[Memory]) -> Tensor:
        scores = torch.tensor(self._reads.score(query, memories), dtype=torch.float64)
        return self._calibration.logits(scores.logit(1e-12))


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    kept = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn when the run was killed, or empty
        kept[row["key"]] = row
    return kept


if __name__ == "__main__":
    main()
