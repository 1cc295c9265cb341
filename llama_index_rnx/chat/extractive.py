"""Answers that are quoted, not written: the passages of the best nodes that the ranker itself puts
first. No language model.

It is honest about what it is: an answer holds sentences of the sources as they stand there, each
passage with the number of its source, or says that the best match is a picture, that nothing
answers clearly, or that nothing was found.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import llama_index.core.instrumentation as instrument
from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.instrumentation.events.synthesis import (
    SynthesizeEndEvent,
    SynthesizeStartEvent,
)
from llama_index.core.llms.mock import MockLLM
from llama_index.core.response_synthesizers.base import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.types import TokenAsyncGen, TokenGen

from llama_index_rnx.candidates import Candidate, Query, usable_candidate
from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, run_in_executor, score_batch
from llama_index_rnx.results import Hit, hits_of
from llama_index_rnx.text import bm25, clean_text, sentences
from llama_index_rnx.validation import checked_hits, checked_texts

# `python -m benchmarks.quotes` (2026-11-23): of 55 questions of mmdocir whose answer stands in the
# text of its page, an answer of these sizes holds it for 27; as many words of the sentences that
# share most words with the question for 22, the beginning of the page for 23.
PASSAGE_WORDS = 25  # neighbouring sentences are read together up to here
ANSWER_WORDS = 60
CONSIDERED = (
    48  # passages that the ranker reads; of more, those that share most words with the question
)
# A passage is quoted beside the best one if its score is at least this share of the best one's.
NEAR = 0.1
# Best scores below it: 9 % of those questions on their own page, 84 % on the page of another
# question.
CLEAR = 0.1
# Scores below it: 20 % of 120 captions of Flickr8k dev on their photograph; 90 % of DL19's on any
# of them.
PICTURE_CLEAR = 0.005

T = TypeVar("T")
_MARKUP = re.compile(r"^(?:#{1,6}|[-*\u2022\u2013]|\d+[.)])\s+|\*\*|__|`")
dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Quote:
    """A passage of a text: `source` is the text's index, `first` and `last` are its sentences."""

    text: str
    source: int
    first: int
    last: int
    score: float = 0.0

    @property
    def words(self) -> int:
        return len(self.text.split())


def quotes(ranker: Ranker, store: MemoryStore, query: Query, texts: Sequence[str]) -> list[Quote]:
    """The passages of these texts that answer best, about `ANSWER_WORDS` together, best first; none
    overlaps another.

    The ranker reads all that are considered as one list, as it reads nodes.
    """
    found = prefilter_by_overlap(
        query.text,
        [
            quote
            for source, text in enumerate(texts)
            for quote in passages(source, clean_text(text))
        ],
    )
    found = found[: ranker.window]
    if not found:
        return []
    memories = get_or_compute_memories(
        ranker, [Candidate(id=str(i), text=quote.text) for i, quote in enumerate(found)], store
    )
    scores = score_batch(ranker, [(query, memories)])[0]
    ranked = [found[i] for i in sorted(range(len(found)), key=lambda i: -scores[i])]
    by_rank = [
        _scored(quote, score)
        for quote, score in zip(ranked, sorted(scores, reverse=True), strict=True)
    ]
    return list(_kept(by_rank))


def prefilter_by_overlap(query: str, found: Sequence[Quote], most: int = CONSIDERED) -> list[Quote]:
    """Those that share most words with the query, in the given order; of equals the earlier ones."""
    asked = set(bm25.query_vector(query)[0])
    shared = [len(asked.intersection(bm25.query_vector(quote.text)[0])) for quote in found]
    best = sorted(range(len(found)), key=lambda i: -shared[i])[:most]
    return [found[i] for i in sorted(best)]


def passages(source: int, text: str) -> Iterator[Quote]:
    """From each sentence on, as many whole ones as `PASSAGE_WORDS` allow, one at least; a heading
    takes its sentence along.
    """
    said = [
        _MARKUP.sub("", " ".join(text[start:end].split())).strip() for start, end in sentences(text)
    ]
    said = [sentence for sentence in said if sentence]
    lengths, whole = (
        [len(sentence.split()) for sentence in said],
        [_is_whole(sentence) for sentence in said],
    )
    for first in range(len(said)):
        last, words = first, lengths[first]
        while last + 1 < len(said) and words + lengths[last + 1] <= PASSAGE_WORDS:
            last += 1
            words += lengths[last]
        if last + 1 < len(said) and whole[last + 1] and not any(whole[first : last + 1]):
            last += 1
        yield Quote(text=_joined(said[first : last + 1]), source=source, first=first, last=last)


def _joined(said: Sequence[str]) -> str:
    """Sentences one after the other; a dot in the middle where a line ended without a sign."""
    return " ".join(
        [
            *(sentence if _is_whole(sentence) else f"{sentence} \u00b7" for sentence in said[:-1]),
            said[-1],
        ]
    )


def _is_whole(sentence: str) -> bool:
    """It ends as sentences do; headings and lines of a table don't."""
    return sentence.rstrip("\"')]\u201d\u2019")[-1:] in tuple(".!?:;")


def _scored(quote: Quote, score: float) -> Quote:
    return Quote(
        text=quote.text, source=quote.source, first=quote.first, last=quote.last, score=score
    )


def _kept(ranked: Sequence[Quote]) -> Iterator[Quote]:
    """From the best one on, what adds something and still has room."""
    kept: list[Quote] = []
    for quote in ranked:
        room = not kept or sum(one.words for one in kept) + quote.words <= ANSWER_WORDS
        near = not kept or quote.score >= NEAR * kept[0].score
        if room and near and not any(_same(quote, one) for one in kept):
            kept.append(quote)
            yield quote


def _same(one: Quote, other: Quote) -> bool:
    overlap = one.source == other.source and one.first <= other.last and other.first <= one.last
    return overlap or one.text.lower() == other.text.lower()


class ExtractiveSynthesizer(BaseSynthesizer):
    """A LlamaIndex response synthesizer that quotes; it needs no key and no language model.

    Args:
        ranker: chooses the passages; by default rnx-mini.
        store: keeps their memories; by default in RAM.
        query: what is looked for, where it differs from what `synthesize` is given (a follow-up
            question as it stands).
        streaming: give a `StreamingResponse`, or from `asynthesize` an `AsyncStreamingResponse`:
            the same text, in one piece.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> nodes = [NodeWithScore(node=TextNode(text="Bees sleep at night. In spring they make honey from nectar."))]
        >>> str(ExtractiveSynthesizer().synthesize("How do bees make honey?", nodes))
        'Bees sleep at night. In spring they make honey from nectar. [1]'
    """

    def __init__(
        self,
        ranker: Ranker | None = None,
        store: MemoryStore | None = None,
        query: str | None = None,
        streaming: bool = False,
    ) -> None:
        super().__init__(
            llm=MockLLM(), streaming=streaming
        )  # the base class wants one, and would ask for a key
        self._ranker, self._store, self._asked = ranker, store or MemoryStore(), query

    def __deepcopy__(self, memo: dict[int, Any]) -> ExtractiveSynthesizer:
        return deep_copy(self, memo, shared=[self._ranker])

    def synthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        nodes = checked_hits(nodes)
        asked = self._asked or _question_of(query)
        dispatcher.event(SynthesizeStartEvent(query=query))
        answer = self._response(asked, nodes, additional_source_nodes)
        response: RESPONSE_TYPE = answer
        if self._streaming:
            response = StreamingResponse(
                _streamed(str(answer)), answer.source_nodes, answer.metadata
            )
        dispatcher.event(SynthesizeEndEvent(query=query, response=response))
        return response

    async def asynthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """The same beside the event loop: the ranker reads on its own threads."""
        nodes = checked_hits(nodes)
        asked = self._asked or _question_of(query)
        dispatcher.event(SynthesizeStartEvent(query=query))
        response: RESPONSE_TYPE = await run_in_executor(
            partial(self._response, asked, nodes, additional_source_nodes)
        )
        if self._streaming:
            response = AsyncStreamingResponse(
                _astreamed(str(response)), response.source_nodes, response.metadata
            )
        dispatcher.event(SynthesizeEndEvent(query=query, response=response))
        return response

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        question, texts = _question_of(query_str), checked_texts(text_chunks, "text_chunks")
        quoted = self._quotes(Query(text=clean_text(question)), texts)
        return "\n\n".join(_marked(quote) for quote in quoted)

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        return await run_in_executor(partial(self.get_response, query_str, text_chunks))

    def _response(
        self, question: str, nodes: list[NodeWithScore], more: Sequence[NodeWithScore] | None
    ) -> Response:
        answer = self._answer(Query(text=clean_text(question)), hits_of(nodes, nodes))
        sources = [*nodes, *(more or [])]
        return Response(answer, sources, {hit.node.node_id: hit.node.metadata for hit in sources})

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """There are none."""

    def _answer(self, query: Query, hits: Sequence[Hit]) -> str:
        if not hits:
            return "Nothing was found."
        found = self._quotes(query, [hit.text for hit in hits])
        clear = bool(found) and found[0].score >= CLEAR
        said = "\n\n".join(map(_marked, found if clear else found[:1]))
        if not hits[0].text.strip() and hits[0].kind == "image":
            seen = f"The best match is a picture: {hits[0].docid} [1]"
            if clear:
                return f"{seen}\n\n{said}"
            return seen if self._shows(query, hits[0]) else f"Nothing answers this clearly. {seen}"
        if not found:
            return f"The best match has no sentence to quote: {hits[0].docid} [1]"
        return said if clear else f"Nothing answers this clearly. The nearest passage:\n\n{said}"

    def _shows(self, query: Query, hit: Hit) -> bool:
        """Whether a picture is what was asked for, rather than only the best of those at hand."""
        try:
            memories = get_or_compute_memories(
                self._chooser(), [usable_candidate(hit.node)[0]], self._store
            )
        except RNXError:  # a picture that cannot be seen
            return False
        return score_batch(self._chooser(), [(query, memories)])[0][0] >= PICTURE_CLEAR

    def _chooser(self) -> Ranker:
        if self._ranker is None:
            self._ranker = load_ranker()
        return self._ranker

    def _quotes(self, query: Query, texts: Sequence[str]) -> list[Quote]:
        return quotes(self._chooser(), self._store, query, texts) if query.text else []


def deep_copy(original: T, memo: dict[int, Any], shared: Sequence[object]) -> T:
    """A deep copy that has these objects (models) in common with its original."""
    memo |= {id(one): one for one in shared}
    other: T = object.__new__(type(original))
    memo[id(original)] = other
    other.__dict__.update(copy.deepcopy(original.__dict__, memo))
    return other


def _question_of(query: Any) -> str:
    text = query.query_str if isinstance(query, QueryBundle) else query
    if not isinstance(text, str):
        raise RNXError(
            f"the query is {shown(query)}; a string or a QueryBundle(query_str) is needed."
        )
    return text


def _marked(quote: Quote) -> str:
    return f"{quote.text} [{quote.source + 1}]"


def _streamed(text: str) -> TokenGen:
    yield text


async def _astreamed(text: str) -> TokenAsyncGen:
    yield text
