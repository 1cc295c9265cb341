"""`rnx demo`: the main job on a small corpus, from nothing: files -> index -> retrieve -> rerank ->
tables and a page. It knows no models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_index.core.schema import QueryBundle
from rich.console import Console

from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.console import SafeConsole
from llama_index_rnx.defaults import TOP_K, TOP_N
from llama_index_rnx.demo.corpus import CORPUS, IMAGE_QUERY, build_corpus
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import StorageError
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.results import Comparison, compare, html_page, print_table
from llama_index_rnx.retrieve import RNXRetriever

INDEX = "index"
PAGE = "demo.html"
TITLE = "Texts and images in one list, best first"


@dataclass(frozen=True, kw_only=True)
class DemoQuery:
    """One query of the demo.

    about: which kind of file holds the answer. image: a path in the demo's folder.
    """

    about: str
    text: str = ""
    image: str | None = None

    def bundle(self, folder: Path) -> QueryBundle:
        """Return the query as LlamaIndex takes it."""
        return QueryBundle(self.text, image_path=str(folder / self.image) if self.image else None)


QUERIES = (
    DemoQuery(
        about="answered by a text",
        text="Why does our heat pump use so much electricity on damp winter days?",
    ),
    DemoQuery(about="answered by a photograph", text="a rocket ready for launch"),
    DemoQuery(
        about="answered by a chart",
        text="How much electricity came from solar and wind in each month?",
    ),
    DemoQuery(
        about="an image as the query: part of one that is indexed, askew and brighter",
        image=IMAGE_QUERY,
    ),
)


def run_demo(
    folder: Path,
    *,
    queries: Sequence[DemoQuery] = QUERIES,
    top_k: int = TOP_K,
    top_n: int = TOP_N,
    console: Console | None = None,
    show_progress: bool | None = None,
) -> Path:
    """Build a corpus in `folder`, index it, run the queries, print each list before and after
    reranking; return the path of the HTML page.

    A second run uses the same corpus and index and adds nothing.

    Raises:
        SettingsError: an optional package is missing.
        StorageError: the folder cannot be written.
    """
    console = console or SafeConsole(highlight=False)
    _build(folder, console)
    embedding = RNXEmbedding()

    # A newer model gets an index of its own.
    digest = embedding.ranker.fingerprint.split("/")[1]
    collection = NodeCollection(folder / f"{INDEX}-{digest}", embedding=embedding)
    try:
        _index(collection, folder, console, show_progress)
        retriever = RNXRetriever(collection, top_k=top_k)
        reranker = RNXRerank(top_n=top_n)

        # The first query opens models and memories, which is no part of the times below.
        for query in queries[:1]:
            compare(retriever, reranker, query.bundle(folder), top_n)
        comparisons = [_run_query(retriever, reranker, query, folder, console) for query in queries]
    finally:
        collection.close()

    page = folder / PAGE
    page.write_text(html_page(comparisons, title=TITLE), encoding="utf-8")
    console.print(
        f"The same as a page, with images: {page.resolve()}", markup=False, soft_wrap=True
    )
    return page


def _build(folder: Path, console: Console) -> None:
    start = time.perf_counter()
    try:
        build_corpus(folder)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); "
            "choose another --folder."
        ) from error
    count = sum(len(names) for _, _, names in os.walk(folder / CORPUS))
    _print_step(console, f"corpus: {count} files in {folder / CORPUS}", start)


def _index(
    collection: NodeCollection, folder: Path, console: Console, show_progress: bool | None
) -> None:
    start = time.perf_counter()
    report = index_paths(collection, [folder / CORPUS], show_progress=show_progress)
    for skipped in report.skipped:
        console.print(f"left out: {skipped.reason}", markup=False)
    _print_step(
        console,
        f"index: {report.written} nodes written, {report.unchanged} files unchanged, "
        f"{len(collection)} nodes",
        start,
    )


def _run_query(
    retriever: RNXRetriever, reranker: RNXRerank, query: DemoQuery, folder: Path, console: Console
) -> Comparison:
    """Print the hits of one query before and after reranking. The time is that of retrieving and
    reranking together.
    """
    comparison = compare(retriever, reranker, query.bundle(folder), reranker.top_n)
    milliseconds = comparison.seconds * 1000

    console.print(f"\n{query.text or query.image}", style="bold", markup=False)
    console.print(query.about, style="dim", markup=False)
    print_table(comparison.before, console, title="retrieved", query=query.text)
    print_table(
        comparison.after,
        console,
        title=f"reranked ({milliseconds:.0f} ms with retrieval)",
        query=query.text,
    )
    return comparison


def _print_step(console: Console, text: str, start: float) -> None:
    seconds = time.perf_counter() - start
    console.print(f"{text} ({seconds:.1f} s)", markup=False, soft_wrap=True)
