"""`rnx demo`: the main job on a small corpus, from nothing: files -> index -> retrieve -> rerank ->
tables and a page.
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
from llama_index_rnx.demo.corpus import CORPUS, PICTURE_QUERY, build_corpus
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.results import Comparison, compare, html_page, print_table
from llama_index_rnx.retrieve import RNXRetriever

INDEX, PAGE = "index", "demo.html"
TITLE = "Texts and images in one list, best first"


@dataclass(frozen=True, kw_only=True)
class DemoQuery:
    """What is asked. `image` is a path in the demo's folder; `about` says what kind of thing holds
    the answer.
    """

    about: str
    text: str = ""
    image: str | None = None

    def bundle(self, folder: Path) -> QueryBundle:
        """As LlamaIndex takes it."""
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
        about="a picture as the query: part of one that is indexed, askew and brighter",
        image=PICTURE_QUERY,
    ),
)


def run_demo(
    folder: Path,
    *,
    queries: Sequence[DemoQuery] = QUERIES,
    top_k: int = 100,
    top_n: int = 5,
    console: Console | None = None,
    show_progress: bool | None = None,
) -> Path:
    """Builds a corpus in `folder`, indexes it, asks, prints each list before and after reranking;
    returns the HTML page.

    A second run finds corpus and index and adds nothing.

    Raises:
        RNXError: an optional package is missing, or the folder cannot be written.
    """
    console = console or SafeConsole(highlight=False)
    _build(folder, console)
    embedding = RNXEmbedding()
    digest = embedding.ranker.fingerprint.split("/")[1]  # a newer model gets an index of its own
    collection = NodeCollection(folder / f"{INDEX}-{digest}", embedding=embedding)
    try:
        _index(collection, folder, console, show_progress)
        retriever, reranker = RNXRetriever(collection, top_k=top_k), RNXRerank(top_n=top_n)
        for query in queries[:1]:  # opens models and memories, which is not part of the times below
            compare(retriever, reranker, query.bundle(folder), top_n)
        sections = [_ask(retriever, reranker, query, folder, console) for query in queries]
    finally:
        collection.close()
    page = folder / PAGE
    page.write_text(html_page(sections, title=TITLE), encoding="utf-8")
    console.print(
        f"The same as a page, with pictures: {page.resolve()}", markup=False, soft_wrap=True
    )
    return page


def _build(folder: Path, console: Console) -> None:
    start = time.perf_counter()
    try:
        build_corpus(folder)
    except OSError as error:
        raise RNXError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); choose another --folder."
        ) from error
    count = sum(len(names) for _, _, names in os.walk(folder / CORPUS))
    _say(console, f"corpus: {count} files in {folder / CORPUS}", start)


def _index(
    collection: NodeCollection, folder: Path, console: Console, show_progress: bool | None
) -> None:
    start = time.perf_counter()
    report = index_paths(collection, [folder / CORPUS], show_progress=show_progress)
    for skipped in report.skipped:
        console.print(f"left out: {skipped.reason}", markup=False)
    _say(
        console,
        f"index: {report.written} nodes written, {report.unchanged} files unchanged, {len(collection)} nodes",
        start,
    )


def _ask(
    retriever: RNXRetriever, reranker: RNXRerank, query: DemoQuery, folder: Path, console: Console
) -> Comparison:
    """One query, before and after; the time is that of retrieving and reranking together."""
    section = compare(retriever, reranker, query.bundle(folder), reranker.top_n)
    console.print(f"\n{query.text or query.image}", style="bold", markup=False)
    console.print(query.about, style="dim", markup=False)
    print_table(section.before, console, title="retrieved", query=query.text)
    print_table(
        section.after,
        console,
        title=f"reranked ({section.seconds * 1000:.0f} ms with retrieval)",
        query=query.text,
    )
    return section


def _say(console: Console, text: str, start: float) -> None:
    console.print(f"{text} ({time.perf_counter() - start:.1f} s)", markup=False, soft_wrap=True)
