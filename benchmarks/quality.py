"""Quality of the shipped model on the development sets, through the public API alone: index,
retrieve, rerank.

    python -m benchmarks.quality demo
    RNX_DATA=DIR python -m benchmarks.quality flickr8k|mmdocir [--limit N] RNX_DATA=DIR python -m
    benchmarks.quality dl19 [--limit N] [--window N] [--windows sliding|parallel]

`demo`: the questions of the demo's corpus, where texts, PDF pages and pictures stand in one list,
R@1 by the kind of the right answer. `flickr8k` dev: 1,000 photographs, 5,000 captions as queries,
the retriever's order and its top 20 reranked, R@1/5/10. `dl19`: TREC DL19, BM25's top 100 reranked,
nDCG@10, whole or in smaller windows. `mmdocir`: 26 documents, each indexed alone, question -> page,
R@1/3/5; also the pages' texts without their images. Gains come with a 95 % interval by paired
bootstrap over the queries.
"""

from __future__ import annotations

import argparse
import json
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
from training.data import data_folder, rows, trec
from training.evaluation import NDCG10, Run, bootstrap, evaluate, mean

FLICKR_K = 20
Ranks = list[int | None]  # of the first right answer, from 1; None where it was not found


def main() -> None:
    """Runs one set and prints its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=["demo", "flickr8k", "dl19", "mmdocir"])
    parser.add_argument(
        "--limit", type=int, help="only the first queries (flickr8k) or documents (mmdocir)"
    )
    parser.add_argument(
        "--window", type=int, help="dl19: candidates read at once; default: the whole list"
    )
    parser.add_argument(
        "--windows",
        choices=["sliding", "parallel"],
        default="sliding",
        help="dl19: how such windows are read",
    )
    args = parser.parse_args()
    if args.set == "dl19":
        dl19(args.limit, args.window, args.windows)
    else:
        {"demo": demo, "flickr8k": flickr8k, "mmdocir": mmdocir}[args.set](args.limit)


def demo(limit: int | None) -> None:
    """Question -> the note, PDF page or picture that answers it, all kinds in one list of 100."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        build_corpus(folder)
        collection = NodeCollection(":memory:")
        index_paths(collection, [folder / "corpus"])
        asked = [
            json.loads(line)
            for line in (folder / "queries" / "questions.jsonl").read_text().splitlines()
        ][:limit]
        queries = [(row["query"], set(row["answers"])) for row in asked]
        found = list(_searched(RNXRetriever(collection, top_k=100), RNXRerank(top_n=100), queries))
    ranks: dict[str, tuple[Ranks, Ranks]] = defaultdict(lambda: ([], []))
    for (_, right), (before, after) in zip(queries, found, strict=True):
        for kind in (" or ".join(sorted({_kind(docid) for docid in right})), "all"):
            ranks[kind][0].append(before)
            ranks[kind][1].append(after)
    for kind, (before_all, after_all) in sorted(ranks.items()):
        print(f"demo, {len(before_all)} questions, answered by: {kind}")
        _print_recalls(before_all, after_all, at=(1, 5))


def flickr8k(limit: int | None) -> None:
    """Caption -> its photograph among the 1,000 of the development split."""
    photographs = list(rows(data_folder() / "flickr8k" / "dev.jsonl.gz"))
    collection = NodeCollection(":memory:")
    collection.add([_photograph(row["image"]) for row in photographs], show_progress=True)
    retriever, reranker = RNXRetriever(collection, top_k=FLICKR_K), RNXRerank(top_n=FLICKR_K)
    queries = [(caption, {row["image"]}) for row in photographs for caption in row["captions"]][
        :limit
    ]
    found = list(_searched(retriever, reranker, queries))
    print(f"flickr8k dev, {len(queries)} captions, k = {FLICKR_K}")
    _print_recalls([before for before, _ in found], [after for _, after in found], at=(1, 5, 10))


def dl19(limit: int | None, window: int | None, windows: Windows) -> None:
    """BM25's top 100 of TREC DL19 reranked; never trained on."""
    lists = trec("dl19", ["bm25"])[:limit]
    reranker = RNXRerank(top_n=100, window=window, windows=windows)
    before: Run = {of.qid: dict(zip(of.docids, of.first, strict=True)) for of in lists}
    after: Run = {}
    with progress_bar("dl19", len(lists), "lists") as advance:
        for of in lists:
            nodes = [
                NodeWithScore(node=TextNode(id_=d, text=t))
                for d, t in zip(of.docids, of.texts, strict=True)
            ]
            ranked = reranker.postprocess_nodes(nodes, query_str=of.query)
            after[of.qid] = {
                hit.node_id: float(len(ranked) - place) for place, hit in enumerate(ranked)
            }
            advance(1)
    qrels = {of.qid: {docid: round(grade) for docid, grade in of.judged.items()} for of in lists}
    ours, bm25 = evaluate(qrels, after, NDCG10), evaluate(qrels, before, NDCG10)
    print(
        f"dl19, {len(lists)} queries: nDCG@10 BM25 {mean(bm25):.4f}, reranked {mean(ours):.4f}, {bootstrap(ours, bm25)}"
    )


def mmdocir(limit: int | None) -> None:
    """Question -> the page that answers it, inside its document."""
    documents = list(rows(data_folder() / "mmdocir" / "questions.jsonl.gz"))[:limit]
    kinds: dict[str, tuple[Ranks, Ranks]] = {"text and image": ([], []), "text alone": ([], [])}
    with progress_bar("mmdocir", len(documents), "documents") as advance:
        for document in documents:
            pages = _pages(document)
            for kind, (before, after) in kinds.items():
                nodes = pages if kind == "text and image" else [_text_alone(page) for page in pages]
                for one in _ask(nodes, document):
                    before.append(one[0])
                    after.append(one[1])
            advance(1)
    for kind, (before, after) in kinds.items():
        print(f"mmdocir, {len(before)} questions, {len(documents)} documents, pages by {kind}")
        _print_recalls(before, after, at=(1, 3, 5))


def _ask(
    nodes: Sequence[BaseNode], document: dict[str, Any]
) -> Iterator[tuple[int | None, int | None]]:
    collection = NodeCollection(":memory:")
    collection.add(nodes)
    retriever, reranker = RNXRetriever(collection, top_k=len(nodes)), RNXRerank(top_n=len(nodes))
    queries = [
        (one["Q"], {f"{page + 1}" for page in one["page_id"]}) for one in document["questions"]
    ]
    yield from _searched(retriever, reranker, queries, show=False)


def _pages(document: dict[str, Any]) -> list[BaseNode]:
    path = data_folder() / "mmdocir" / "pdfs" / document["doc_name"]
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


def _photograph(image: str) -> ImageNode:
    return ImageNode(id_=image, image_path=str(data_folder() / "flickr8k" / image))


def _searched(
    retriever: RNXRetriever,
    reranker: RNXRerank,
    queries: Sequence[tuple[str, set[str]]],
    show: bool | None = None,
) -> Iterator[tuple[int | None, int | None]]:
    """The rank of the first right node before and after reranking, query by query."""
    with progress_bar("searching", len(queries), "queries", show) as advance:
        for text, right in queries:
            before = retriever.retrieve(QueryBundle(text))
            after = reranker.postprocess_nodes(before, query_str=text)
            yield _rank(before, right), _rank(after, right)
            advance(1)


def _rank(hits: Sequence[NodeWithScore], right: set[str]) -> int | None:
    return next((rank for rank, hit in enumerate(hits, start=1) if hit.node_id in right), None)


def _print_recalls(before: Ranks, after: Ranks, at: Sequence[int]) -> None:
    for k in at:
        then, now = (
            {str(i): float(r is not None and r <= k) for i, r in enumerate(ranks)}
            for ranks in (before, after)
        )
        print(
            f"  R@{k:<2} retriever {100 * mean(then):5.1f}  reranked {100 * mean(now):5.1f}  difference {bootstrap(now, then)}"
        )


if __name__ == "__main__":
    main()
