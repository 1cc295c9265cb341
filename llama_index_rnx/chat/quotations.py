"""The passages of texts that answer a question best: cut at sentences, chosen by a ranker. They
know no nodes and no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, score_batch
from llama_index_rnx.text import bm25, clean_texts, sentences

# `python -m benchmarks.quotes` (2026-11-23): of 55 questions of mmdocir whose answer stands in the
# text of its page, an answer of these sizes holds it for 27; as many words of the sentences that
# share most words with the question for 22, the beginning of the page for 23.
PASSAGE_WORDS = 25  # neighbouring sentences are read together up to here
ANSWER_WORDS = 60

# The ranker reads so many passages; of more, those that share most words with the question.
CONSIDERED = 48

# A passage is quoted beside the best one if its score is at least this share of the best one's.
NEAR = 0.1

_MARKUP = re.compile(r"^(?:#{1,6}|[-*\u2022\u2013]|\d+[.)])\s+|\*\*|__|`")


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A passage of a text: `source` is the text's index, `first` and `last` are its sentences, and
    `score` is the ranker's.
    """

    text: str
    source: int
    first: int
    last: int
    score: float = 0.0

    @property
    def words(self) -> int:
        """How many words the passage has."""
        return len(self.text.split())

    def overlaps(self, other_quote: Quote) -> bool:
        """Whether both share a sentence."""
        if self.source != other_quote.source:
            return False
        return self.first <= other_quote.last and other_quote.first <= self.last


def quotes(ranker: Ranker, store: MemoryStore, query: Query, texts: Sequence[str]) -> list[Quote]:
    """Return the passages of these texts that answer best, about `ANSWER_WORDS` words together,
    best first; none overlaps another.

    The ranker reads all passages that are considered as one list, as it reads nodes.

    Args:
        store: where the memories of passages are looked up and kept.
        query: its text is compared with the passages.
    """
    candidates = [
        quote for source, text in enumerate(clean_texts(texts)) for quote in passages(source, text)
    ]
    considered = prefilter_by_overlap(query.text, candidates)[: ranker.window]
    if not considered:
        return []
    return list(_select(_rank(ranker, store, query, considered)))


def prefilter_by_overlap(
    query: str, candidates: Sequence[Quote], most: int = CONSIDERED
) -> list[Quote]:
    """Return the `most` passages with the largest word overlap with the query, in document order;
    ties go to the earlier passage.
    """
    terms = set(bm25.query_vector(query)[0])
    overlaps = [len(terms.intersection(bm25.query_vector(quote.text)[0])) for quote in candidates]
    best = sorted(range(len(candidates)), key=lambda index: -overlaps[index])[:most]
    return [candidates[index] for index in sorted(best)]


def passages(source: int, text: str) -> Iterator[Quote]:
    """Yield a passage from each sentence on: as many whole sentences as `PASSAGE_WORDS` allow, at
    least one. A heading takes the sentence after it along.

    Args:
        source: the index of the text.
    """
    lines = _plain_sentences(text)
    lengths = [len(sentence.split()) for sentence in lines]
    are_whole = [_is_whole(sentence) for sentence in lines]

    for first in range(len(lines)):
        last = first
        words = lengths[first]
        while last + 1 < len(lines) and words + lengths[last + 1] <= PASSAGE_WORDS:
            last += 1
            words += lengths[last]

        is_heading_alone = not any(are_whole[first : last + 1])
        if last + 1 < len(lines) and are_whole[last + 1] and is_heading_alone:
            last += 1
        yield Quote(text=_join(lines[first : last + 1]), source=source, first=first, last=last)


def _plain_sentences(text: str) -> list[str]:
    """Return the sentences of a text without markup, each on one line."""
    lines = [" ".join(text[start:end].split()) for start, end in sentences(text)]
    plain = [_MARKUP.sub("", line).strip() for line in lines]
    return [line for line in plain if line]


def _join(sentence_run: Sequence[str]) -> str:
    """Return sentences one after the other, with a middle dot where a line ended without a sign."""
    *before, last = sentence_run
    marked = [sentence if _is_whole(sentence) else f"{sentence} \u00b7" for sentence in before]
    return " ".join([*marked, last])


def _is_whole(sentence: str) -> bool:
    """Whether a sentence ends as sentences do; headings and lines of a table don't."""
    return sentence.rstrip("\"')]\u201d\u2019")[-1:] in tuple(".!?:;")


def _rank(
    ranker: Ranker, store: MemoryStore, query: Query, considered: Sequence[Quote]
) -> list[Quote]:
    """Return the passages with their scores, best first; of equals the earlier one."""
    candidates = [
        Candidate(id=str(index), text=quote.text) for index, quote in enumerate(considered)
    ]
    memories = get_or_compute_memories(ranker, candidates, store)
    scores = score_batch(ranker, [(query, memories)])[0]
    scored = [replace(quote, score=score) for quote, score in zip(considered, scores, strict=True)]
    return sorted(scored, key=lambda quote: -quote.score)


def _select(ranked: Sequence[Quote]) -> Iterator[Quote]:
    """Yield, from the best passage on, each that adds something and still has room."""
    selected: list[Quote] = []
    for quote in ranked:
        if selected and not _fits(quote, selected):
            continue
        selected.append(quote)
        yield quote


def _fits(quote: Quote, selected: Sequence[Quote]) -> bool:
    has_room = sum(chosen.words for chosen in selected) + quote.words <= ANSWER_WORDS
    is_near = quote.score >= NEAR * selected[0].score
    return has_room and is_near and not any(_is_repeated(quote, chosen) for chosen in selected)


def _is_repeated(quote: Quote, chosen: Quote) -> bool:
    return quote.overlaps(chosen) or quote.text.lower() == chosen.text.lower()
