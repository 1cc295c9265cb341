"""`rnx search`: one query as a table, JSON or a page, or a file of queries as a TREC run. It knows
neither retriever nor ranker from inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_rnx.cli.options import (
    CollectionName,
    From,
    Model,
    Run,
    TopK,
    open_index,
    resolve_query_image,
)
from llama_index_rnx.cli.trec_file import open_trec_file
from llama_index_rnx.console import print_html, print_json, print_note
from llama_index_rnx.defaults import COLLECTION_NAME, RANKER_NAME, TOP_K, TOP_N
from llama_index_rnx.errors import ImageError, SettingsError

if TYPE_CHECKING:
    from llama_index_rnx.collection import NodeCollection
    from llama_index_rnx.results import Hit


class Format(StrEnum):
    """How hits are printed."""

    table = "table"
    json = "json"
    html = "html"


def search(
    query: Annotated[
        str, typer.Argument(help="What to look for; may be left out with --image or --queries.")
    ] = "",
    from_: From = "",
    image: Annotated[
        Path | None, typer.Option(help="An image as the query, alone or with a text.")
    ] = None,
    k: TopK = TOP_K,
    n: Annotated[int, typer.Option("-n", min=1, help="How many come out.")] = TOP_N,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Rerank what was fetched.")
    ] = True,
    model: Model = RANKER_NAME,
    format_: Annotated[
        Format, typer.Option("--format", help="How hits are printed.")
    ] = Format.table,
    queries: Annotated[
        Path | None, typer.Option(help='A batch: rows {"qid","query","image"?}; needs --run.')
    ] = None,
    run: Run = None,
    collection: CollectionName = COLLECTION_NAME,
) -> None:
    """Search an index: the retriever's list, reranked as a list."""
    batch = _read_batch(queries, run, query, image)
    if not batch and not query.strip() and image is None:
        raise SettingsError(
            "nothing to search for; give a QUERY, --image FILE, or --queries FILE with --run FILE."
        )

    ranker_name = model if rerank else None
    with open_index(from_, collection) as index:
        if batch:
            assert run is not None
            _search_batch(index, batch, run, k, n, ranker_name)
        else:
            _search_one(index, query, image, k, n, ranker_name, format_)


def _read_batch(
    queries: Path | None, run: Path | None, query: str, image: Path | None
) -> list[dict[str, Any]]:
    """Return the rows of `--queries`, or nothing where a single query was given."""
    if queries is None:
        if run is not None:
            raise SettingsError("--run needs --queries FILE; a single query prints to the screen.")
        return []
    if query or image is not None:
        raise SettingsError(
            "--queries takes the place of QUERY and --image; give one or the other."
        )
    if run is None:
        raise SettingsError(
            "--queries needs --run OUT.trec, the file that the TREC run is written to."
        )

    from llama_index_rnx.batch import read_queries

    return read_queries(queries)


def _search_one(
    index: NodeCollection,
    query: str,
    image: Path | None,
    k: int,
    n: int,
    ranker_name: str | None,
    format_: Format,
) -> None:
    from llama_index.core.schema import QueryBundle

    from llama_index_rnx import RNXRerank, RNXRetriever
    from llama_index_rnx.console import SafeConsole
    from llama_index_rnx.results import compare, html_page, print_table

    bundle = QueryBundle(query, image_path=resolve_query_image(image))
    reranker = RNXRerank(model=ranker_name, top_n=n) if ranker_name else None
    comparison = compare(RNXRetriever(index, top_k=k), reranker, bundle, n)

    if format_ is Format.json:
        print_json([hit.to_dict() for hit in comparison.after])
    elif format_ is Format.html:
        print_html(html_page([comparison], title=comparison.query or "Search by image"))
    else:
        print_table(comparison.after, SafeConsole(), title=query or str(image))


def _search_batch(
    index: NodeCollection,
    rows: Sequence[dict[str, Any]],
    run: Path,
    k: int,
    n: int,
    ranker_name: str | None,
) -> None:
    from llama_index.core.schema import QueryBundle

    from llama_index_rnx import RNXRerank, RNXRetriever, load_ranker
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.results import search_many

    bundles = [QueryBundle(row["query"], image_path=row.get("image")) for row in rows]
    reranker = None
    if ranker_name:
        reranker = RNXRerank(ranker=load_ranker(ranker_name), top_n=k, on_error="keep_order")

    unreadable: list[str] = []
    with open_trec_file(run) as write, progress_bar("searching", len(rows), "queries") as advance:
        results = search_many(RNXRetriever(index, top_k=k), reranker, bundles, k)
        for row, hits in zip(rows, results, strict=True):
            if isinstance(hits, ImageError):
                unreadable.append(f"query {row['qid']}: {hits}")
            else:
                write(row["qid"], _best_by_document(hits)[:n])
            advance(1)

    for line in unreadable:
        print_note(f"left out: {line}")
    if reranker is not None and reranker.failures:
        print_note(
            f"{reranker.failures} queries could not be reranked and keep the retriever's order"
        )
    print_note(f"{len(rows)} queries -> {run}")


def _best_by_document(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    """Return (docid, score), best first. A text file of many passages stands once, at the rank of
    its best passage.
    """
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.docid, hit.score)
    return list(best.items())
