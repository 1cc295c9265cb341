"""Speed of rnx-mini against a cross-encoder of MiniLM-L6's size, on the same 100 texts, alternately
in one process.

    python -m benchmarks.mini [--rounds 20] [--threads 2]
    python -m benchmarks.mini --busy

With --busy it remembers fresh texts and answers a query, on idle cores and beside one busy core.

The cross-encoder has random weights: its speed does not depend on them, and no trained one can be
had without a hub. Texts are generated: 60 words each, about the length of an MS MARCO passage.
Prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.schema import NodeWithScore, TextNode
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.words import words
from llama_index_rnx import RNXRerank
from llama_index_rnx.rankers.mini import model_folder

CANDIDATES = 100

# Words of a text.
WORDS = 60


def main() -> None:
    """Measure both on the same lists and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--busy",
        action="store_true",
        help="compare idle cores with one that is busy, not with a rival",
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.busy:
        idle_and_busy(args.rounds)
        return
    nodes = texts(random.Random(0))
    mini = RNXRerank(top_n=10)
    start = time.perf_counter()
    mini.postprocess_nodes(nodes, query_str="warm up")
    first = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        rival = cross_encoder(Path(folder))
        rival.postprocess_nodes(nodes, query_str="warm up")
        ours, theirs = alternately(
            args.rounds,
            lambda q: mini.postprocess_nodes(nodes, query_str=q),
            lambda q: rival_run(rival, q),
        )
    print(
        f"{CANDIDATES} texts of {WORDS} words, {args.threads} threads, {args.rounds} rounds, "
        "median (least .. most)"
    )
    print(f"rnx-mini, remembered          {format_milliseconds(ours)}")
    print(f"cross-encoder, MiniLM-L6 size {format_milliseconds(theirs)}")
    print(f"ratio of the medians          {ratio(theirs, ours):.1f}")
    print(f"rnx-mini, first sight (loads the model and remembers the texts): {first:.2f} s")


def idle_and_busy(rounds: int) -> None:
    """Remember 100 fresh texts and answer a query, in turn with idle cores and beside an endless
    loop on one of them.
    """
    rng = random.Random(0)
    mini = RNXRerank(top_n=10)
    mini.postprocess_nodes(texts(rng), query_str="warm up")
    seconds = {
        (work, state): list[float]()
        for state in ("idle", "busy")
        for work in ("remembering", "a query")
    }

    for _ in range(rounds):
        for state in ("idle", "busy"):
            nodes = texts(rng)
            query = " ".join(words(rng, 8))
            with busy_core() if state == "busy" else nullcontext():
                seconds["remembering", state].append(
                    elapsed(partial(mini.postprocess_nodes, nodes, query_str=query))
                )
                seconds["a query", state].append(
                    elapsed(partial(mini.postprocess_nodes, nodes, query_str=f"{query} again"))
                )

    print(
        f"{CANDIDATES} texts of {WORDS} words, {torch.get_num_threads()} threads, "
        f"{rounds} rounds, median (least .. most)"
    )
    for work in ("remembering", "a query"):
        idle = seconds[work, "idle"]
        busy = seconds[work, "busy"]
        print(
            f"{work:12} idle {format_milliseconds(idle)}   one core busy "
            f"{format_milliseconds(busy)}   ratio {ratio(busy, idle):.2f}"
        )


@contextmanager
def busy_core() -> Iterator[None]:
    """Run a process that computes without end, for as long as the block lasts."""
    loop = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE
    )
    try:
        assert loop.stdout is not None
        # The line says that the loop has begun.
        loop.stdout.readline()
        yield
    finally:
        loop.kill()
        loop.communicate()


def elapsed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(seconds: list[float], others: list[float]) -> float:
    """Return the ratio of the medians."""
    return statistics.median(seconds) / statistics.median(others)


def texts(rng: random.Random) -> list[NodeWithScore]:
    """Return texts of content words and glue, no two alike."""
    return [
        NodeWithScore(node=TextNode(text=" ".join(words(rng, WORDS))), score=1 / rank)
        for rank in range(1, CANDIDATES + 1)
    ]


def cross_encoder(folder: Path) -> SentenceTransformerRerank:
    """Return LlamaIndex's own cross-encoder reranker over a BERT of 6 layers and width 384."""
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
        vocab_size=30522,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(model_folder() / "tokenizer.json"),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )
    tokenizer.save_pretrained(folder)
    return SentenceTransformerRerank(
        model=str(folder), top_n=10, device="cpu", trust_remote_code=False
    )


def rival_run(rival: SentenceTransformerRerank, query: str) -> None:
    """Rerank fresh copies, because the rival sorts and rescores its nodes in place."""
    rival.postprocess_nodes(texts(random.Random(0)), query_str=query)


def alternately(rounds: int, *runs: Callable[[str], object]) -> list[list[float]]:
    """Return the seconds of each run, taken in turn with a new query each round, so that a slow
    spell meets both.
    """
    rng = random.Random(1)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        query = " ".join(words(rng, 8))
        for of_run, run in zip(seconds, runs, strict=True):
            of_run.append(elapsed(partial(run, query)))
    return seconds


def format_milliseconds(seconds: list[float]) -> str:
    """Return the median and the extremes in milliseconds."""
    milliseconds = [1e3 * value for value in seconds]
    median = statistics.median(milliseconds)
    return f"{median:7.1f} ms ({min(milliseconds):.1f} .. {max(milliseconds):.1f})"


if __name__ == "__main__":
    main()
