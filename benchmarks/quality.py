"""Quality of the shipped model on the development sets, through the public API alone: index,
retrieve, rerank.

    python -m benchmarks.quality demo
    RNX_DATA=DIR python -m benchmarks.quality flickr8k|mmdocir [--limit N]
    RNX_DATA=DIR python -m benchmarks.quality dl19 [--limit N] [--window N] [--windows parallel]

`demo`: the questions of the demo's corpus, where texts, PDF pages and images stand in one list,
R@1 by the kind of the right answer. `flickr8k` dev: 1,000 photographs, 5,000 captions as queries,
the retriever's order and its top 20 reranked, R@1/5/10. `dl19`: TREC DL19, BM25's top 100 reranked,
nDCG@10, whole or in smaller windows. `mmdocir`: 26 documents, each indexed alone, question -> page,
R@1/3/5; also the pages' texts without their images. Gains come with a 95 % interval by paired
bootstrap over the queries.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llama_index.core.schema import BaseNode, ImageNode, NodeWithScore, QueryBundle, TextNode

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.console import progress_bar
from llama_index_rnx.demo import build_corpus
from llama_index_rnx.ingestion import SourceFile, index_paths, nodes_of
from llama_index_rnx.ranking import Windows
from training.data import DataFolder, read_jsonl, trec
from training.evaluation import (
    NDCG10,
    Run,
    Values,
    bootstrap,
    evaluate,
    first_run,
    mean,
    qrels_of,
)

FLICKR_K = 20

# The rank of the first right answer of every query, from 1; None where it was not retrieved.
Ranks = list[int | None]


def main() -> None:
    """Run one set and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("set", choices=["demo", "flickr8k", "dl19", "mmdocir"])
    limit = "only the first queries (flickr8k) or documents (mmdocir)"
    add("--limit", type=int, help=limit)
    window = "dl19: candidates read at once; default: the whole list"
    add("--window", type=int, help=window)
    windows = "dl19: how such windows are read"
    add("--windows", choices=["sliding", "parallel"], default="sliding", help=windows)
    args = parser.parse_args()
    if args.set == "dl19":
        dl19(args.limit, args.window, args.windows)
    else:
        {"demo": demo, "flickr8k": flickr8k, "mmdocir": mmdocir}[args.set](args.limit)


def demo(limit: int | None) -> None:
    """Question -> the note, PDF page or image that answers it, all kinds in one list of 100."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_corpus(folder)
        collection = NodeCollection(":memory:")
        index_paths(collection, [folder / "corpus"])
        questions = list(read_jsonl(folder / "queries" / "questions.jsonl"))[:limit]
        queries = [(row["query"], set(row["answers"])) for row in questions]
        retriever = RNXRetriever(collection, top_k=100)
        rank_pairs = list(_ranks(retriever, RNXRerank(top_n=100), queries))

    by_kind: dict[str, tuple[Ranks, Ranks]] = defaultdict(lambda: ([], []))
    for (_, answers), (before, after) in zip(queries, rank_pairs, strict=True):
        kinds = " or ".join(sorted({_kind(docid) for docid in answers}))
        for kind in (kinds, "all"):
            by_kind[kind][0].append(before)
            by_kind[kind][1].append(after)
    for kind, (all_before, all_after) in sorted(by_kind.items()):
        print(f"demo, {len(all_before)} questions, answered by: {kind}")
        _print_recalls(all_before, all_after, at=(1, 5))


def flickr8k(limit: int | None) -> None:
    """Caption -> its photograph among the 1,000 of the development split."""
    folder = DataFolder.from_environment()
    photographs = list(folder.rows("flickr8k/dev.jsonl.gz"))
    nodes = [_photograph(folder, row["image"]) for row in photographs]
    collection = NodeCollection(":memory:")
    collection.add(nodes, show_progress=True)
    retriever = RNXRetriever(collection, top_k=FLICKR_K)
    reranker = RNXRerank(top_n=FLICKR_K)

    queries = [(caption, {row["image"]}) for row in photographs for caption in row["captions"]]
    queries = queries[:limit]
    rank_pairs = list(_ranks(retriever, reranker, queries))
    before = [pair[0] for pair in rank_pairs]
    after = [pair[1] for pair in rank_pairs]
    print(f"flickr8k dev, {len(queries)} captions, k = {FLICKR_K}")
    _print_recalls(before, after, at=(1, 5, 10))


def dl19(limit: int | None, window: int | None, windows: Windows) -> None:
    """BM25's top 100 of TREC DL19 reranked; never trained on."""
    lists = trec(DataFolder.from_environment(), "dl19", ["bm25"])[:limit]
    reranker = RNXRerank(top_n=100, window=window, windows=windows)
    after: Run = {}
    with progress_bar("dl19", len(lists), "lists") as advance:
        for graded_list in lists:
            nodes = [
                NodeWithScore(node=TextNode(id_=docid, text=text))
                for docid, text in zip(graded_list.docids, graded_list.texts, strict=True)
            ]
            ranked = reranker.postprocess_nodes(nodes, query_str=graded_list.query)
            scores = {hit.node_id: float(len(ranked) - index) for index, hit in enumerate(ranked)}
            after[graded_list.qid] = scores
            advance(1)

    qrels = qrels_of(lists)
    bm25 = evaluate(qrels, first_run(lists), NDCG10)
    ours = evaluate(qrels, after, NDCG10)
    print(
        f"dl19, {len(lists)} queries: nDCG@10 BM25 {mean(bm25):.4f}, "
        f"reranked {mean(ours):.4f}, {bootstrap(ours, bm25)}"
    )


def mmdocir(limit: int | None) -> None:
    """Question -> the page that answers it, inside its document."""
    folder = DataFolder.from_environment()
    documents = list(folder.rows("mmdocir/questions.jsonl.gz"))[:limit]
    kinds: dict[str, tuple[Ranks, Ranks]] = {"text and image": ([], []), "text alone": ([], [])}
    with progress_bar("mmdocir", len(documents), "documents") as advance:
        for document in documents:
            pages = _pages(folder, document)
            for kind, (before, after) in kinds.items():
                nodes = pages if kind == "text and image" else [_text_alone(page) for page in pages]
                for rank_before, rank_after in _document_ranks(nodes, document):
                    before.append(rank_before)
                    after.append(rank_after)
            advance(1)
    for kind, (before, after) in kinds.items():
        print(f"mmdocir, {len(before)} questions, {len(documents)} documents, pages by {kind}")
        _print_recalls(before, after, at=(1, 3, 5))


def _document_ranks(
    nodes: Sequence[BaseNode], document: dict[str, Any]
) -> Iterator[tuple[int | None, int | None]]:
    collection = NodeCollection(":memory:")
    collection.add(nodes)
    retriever = RNXRetriever(collection, top_k=len(nodes))
    reranker = RNXRerank(top_n=len(nodes))
    queries = [
        (question["Q"], {f"{page + 1}" for page in question["page_id"]})
        for question in document["questions"]
    ]
    yield from _ranks(retriever, reranker, queries, show=False)


def _pages(folder: DataFolder, document: dict[str, Any]) -> list[BaseNode]:
    path = folder.path / "mmdocir" / "pdfs" / document["doc_name"]
    pages = list(nodes_of(SourceFile(path=path, docid=path.name)))
    for number, page in enumerate(pages, start=1):
        page.id_ = str(number)
    return pages


def _kind(docid: str) -> str:
    if "#" in docid:
        return "page"
    return "text" if docid.endswith(".md") else "picture"


def _text_alone(page: BaseNode) -> BaseNode:
    return TextNode(id_=page.node_id, text=page.get_content() or ".")


def _photograph(folder: DataFolder, image: str) -> ImageNode:
    return ImageNode(id_=image, image_path=str(folder.path / "flickr8k" / image))


def _ranks(
    retriever: RNXRetriever,
    reranker: RNXRerank,
    queries: Sequence[tuple[str, set[str]]],
    show: bool | None = None,
) -> Iterator[tuple[int | None, int | None]]:
    """Yield the rank of the first right node before and after reranking, query by query."""
    with progress_bar("searching", len(queries), "queries", show) as advance:
        for text, answers in queries:
            before = retriever.retrieve(QueryBundle(text))
            after = reranker.postprocess_nodes(before, query_str=text)
            yield _rank(before, answers), _rank(after, answers)
            advance(1)


def _rank(hits: Sequence[NodeWithScore], answers: set[str]) -> int | None:
    return next((rank for rank, hit in enumerate(hits, start=1) if hit.node_id in answers), None)


def _print_recalls(before: Ranks, after: Ranks, at: Sequence[int]) -> None:
    for k in at:
        old = _recalls(before, k)
        new = _recalls(after, k)
        print(
            f"  R@{k:<2} retriever {100 * mean(old):5.1f}  reranked {100 * mean(new):5.1f}  "
            f"difference {bootstrap(new, old)}"
        )


def _recalls(ranks: Ranks, k: int) -> Values:
    """Return by query whether the first right answer is among the first k."""
    return {str(i): float(rank is not None and rank <= k) for i, rank in enumerate(ranks)}


if __name__ == "__main__":
    main()
