"""Quoted answers on mmdocir (development): how often does an answer of about 60 words hold the
known answer, word for word?

    RNX_DATA=DIR python -m benchmarks.quotes

It reads the questions whose answer stands in the text layer of the page that answers, and gives
that page. Quotes are compared with as many words of the sentences that share most words with the
question, and with the beginning of the page. It also prints how often the best passage of the right
page, and of another question's page, scores too low to be called clear.
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
from training.data import DataFolder

# The page of the question so many positions further serves as a wrong one.
OFFSET = 20


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, its answer, and the texts of the pages that hold it."""

    text: str
    answer: str
    pages: Sequence[str]

    def sentences(self) -> list[str]:
        """Return the sentences of all pages."""
        return [page[slice(*span)] for page in self.pages for span in sentences(page)]


def main() -> None:
    """Print the table."""
    ranker = load_ranker()
    store = MemoryStore()
    questions = list(read_questions(DataFolder.from_environment()))
    shifted = [*questions[OFFSET:], *questions[:OFFSET]]
    right = [quotes(ranker, store, Query(text=q.text), q.pages) for q in questions]
    wrong_page = [
        quotes(ranker, store, Query(text=question.text), another.pages)
        for question, another in zip(questions, shifted, strict=True)
    ]

    answers = {
        "quoted": [" ".join(quote.text for quote in chosen) for chosen in right],
        "shared words": [_answer_by_shared_words(question) for question in questions],
        "beginning": [_first_words(question.sentences()) for question in questions],
    }
    print(f"mmdocir, {len(questions)} questions whose answer stands in the text of its page")
    for name, texts in answers.items():
        hits = sum(
            _plain(question.answer) in _plain(text)
            for question, text in zip(questions, texts, strict=True)
        )
        words = np.mean([len(text.split()) for text in texts])
        print(f"{name:<14} {hits:3} hold the answer, {words:.0f} words")
    for name, chosen_quotes in (("own page", right), ("another page", wrong_page)):
        best = np.array([chosen[0].score if chosen else 0.0 for chosen in chosen_quotes])
        print(f"best score below {CLEAR} on {name}: {np.mean(best < CLEAR):.0%}")


def read_questions(folder: DataFolder) -> Iterator[Question]:
    """Yield the questions that can be answered word for word."""
    for row in folder.rows("mmdocir/questions.jsonl.gz"):
        path = folder.path / "mmdocir" / "pdfs" / row["doc_name"]
        texts = [page.text for page in read_pages(path)]
        for question in row["questions"]:
            pages = [texts[page] for page in question["page_id"]]
            answer = _plain(str(question["A"]))
            if answer.strip() and answer in _plain(" ".join(pages)):
                yield Question(text=question["Q"], answer=str(question["A"]), pages=pages)


def _answer_by_shared_words(question: Question) -> str:
    def shared(sentence: str) -> int:
        return len(_stems(question.text) & _stems(sentence))

    return _first_words(sorted(question.sentences(), key=shared, reverse=True))


def _stems(text: str) -> set[int]:
    return set(bm25.query_vector(text)[0])


def _first_words(texts: Sequence[str]) -> str:
    return " ".join(" ".join(texts).split()[:ANSWER_WORDS])


def _plain(text: str) -> str:
    """Return the words of a text in lower case, with a blank at both ends."""
    return f" {' '.join(re.sub(r'[^a-z0-9]+', ' ', text.lower()).split())} "


if __name__ == "__main__":
    main()
