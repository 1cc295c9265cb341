"""Quoted answers on mmdocir (development): how often does an answer of about 60 words hold the
known answer, word for word?

    RNX_DATA=DIR python -m benchmarks.quotes

The questions whose answer stands in the text layer of the page that answers; that page is given.
Compared with as many words of the sentences that share most words with the question, and with the
beginning of the page. Also: the best passage's score on the own page and on the page of another
question, which says what a score has to be to be called clear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llama_index_rnx import load_ranker
from llama_index_rnx.candidates import Query
from llama_index_rnx.chat import ANSWER_WORDS, CLEAR, quotes
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.pdf import read_pages
from llama_index_rnx.text import bm25, sentences
from training.data import data_folder, rows

OTHER = 20  # the page of the question that stands so many places further serves as a wrong one


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, its answer, and the texts of the pages that hold it."""

    question: str
    answer: str
    texts: Sequence[str]


def main() -> None:
    """Prints the table."""
    ranker, store, asked = load_ranker(), MemoryStore(), list(questions())
    own = [quotes(ranker, store, Query(text=one.question), one.texts) for one in asked]
    wrong = [*asked[OTHER:], *asked[:OTHER]]
    other = [
        quotes(ranker, store, Query(text=a.question), b.texts)
        for a, b in zip(asked, wrong, strict=True)
    ]
    ways = {
        "quoted": [" ".join(quote.text for quote in found) for found in own],
        "shared words": [
            _first_words(sorted(_said(one), key=lambda said: -_shared(one.question, said)))
            for one in asked
        ],
        "beginning": [_first_words(list(_said(one))) for one in asked],
    }
    print(f"mmdocir, {len(asked)} questions whose answer stands in the text of its page")
    for name, answers in ways.items():
        held = sum(
            _plain(one.answer) in _plain(answer) for one, answer in zip(asked, answers, strict=True)
        )
        words = np.mean([len(answer.split()) for answer in answers])
        print(f"{name:<14} {held:3} hold the answer, {words:.0f} words")
    for name, found in (("own page", own), ("another page", other)):
        best = [one[0].score if one else 0.0 for one in found]
        print(f"best score below {CLEAR} on {name}: {np.mean(np.array(best) < CLEAR):.0%}")


def questions() -> Iterator[Asked]:
    """Those that can be answered word for word."""
    folder = data_folder() / "mmdocir"
    for row in rows(folder / "questions.jsonl.gz"):
        pages = [page.text for page in read_pages(folder / "pdfs" / row["doc_name"])]
        for one in row["questions"]:
            texts, answer = [pages[page] for page in one["page_id"]], str(one["A"])
            if _plain(answer).strip() and _plain(answer) in _plain(" ".join(texts)):
                yield Asked(question=one["Q"], answer=answer, texts=texts)


def _said(one: Asked) -> Iterator[str]:
    for text in one.texts:
        yield from (text[slice(*span)] for span in sentences(text))


def _first_words(said: Sequence[str]) -> str:
    return " ".join(" ".join(said).split()[:ANSWER_WORDS])


def _shared(question: str, said: str) -> int:
    return len(set(bm25.query_vector(question)[0]).intersection(bm25.query_vector(said)[0]))


def _plain(text: str) -> str:
    return f" {' '.join(re.sub(r'[^a-z0-9]+', ' ', text.lower()).split())} "


if __name__ == "__main__":
    main()
