"""Answers that are quoted, not written: the passages of the best nodes that the ranker itself puts
first. No language model.

It is honest about what it is: an answer holds sentences of the sources as they stand there, each
passage with the number of its source, or says that the best match is an image, that nothing answers
clearly, or that nothing was found.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
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

from llama_index_rnx.candidates import Query, usable_candidate
from llama_index_rnx.chat.quotations import Quote, quotes
from llama_index_rnx.errors import RNXError, SettingsError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker, get_or_compute_memories, run_in_executor, score_batch
from llama_index_rnx.results import Hit, hits_of
from llama_index_rnx.text import clean_text
from llama_index_rnx.validation import checked_hits, checked_texts

# A best score below it is not clear: of the questions of `benchmarks.quotes`, 9 % have a lower one
# on their own page, 84 % on the page of another question.
CLEAR = 0.1
# Scores below it: 20 % of 120 captions of Flickr8k dev on their photograph; 90 % of DL19's on any
# of them.
IMAGE_CLEAR = 0.005

UNCLEAR = "Nothing answers this clearly."

T = TypeVar("T")
dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]


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
        >>> text = "Bees sleep at night. In spring they make honey from nectar."
        >>> nodes = [NodeWithScore(node=TextNode(text=text))]
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
        # The base class wants a language model; without one it would ask for a key.
        super().__init__(llm=MockLLM(), streaming=streaming)
        self._ranker = ranker
        self._store = store or MemoryStore()
        self._search_query = query

    def __deepcopy__(self, memo: dict[int, Any]) -> ExtractiveSynthesizer:
        return deep_copy(self, memo, shared=[self._ranker])

    def synthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Return an answer of quotes from these nodes.

        Args:
            nodes: best first; passages are quoted from all of them.
            additional_source_nodes: named as sources of the answer, not quoted.

        Raises:
            RNXError: the query is no text, `nodes` are no nodes, or the ranker fails.
        """
        nodes = checked_hits(nodes)
        question = self._search_query or _text_of(query)

        dispatcher.event(SynthesizeStartEvent(query=query))
        answer = self._respond(question, nodes, additional_source_nodes)
        response: RESPONSE_TYPE = answer
        if self._streaming:
            stream = _stream(str(answer))
            response = StreamingResponse(stream, answer.source_nodes, answer.metadata)
        dispatcher.event(SynthesizeEndEvent(query=query, response=response))
        return response

    async def asynthesize(
        self,
        query: str | QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Return what `synthesize` does; the ranker works on threads of its own, beside the event
        loop.
        """
        nodes = checked_hits(nodes)
        question = self._search_query or _text_of(query)

        dispatcher.event(SynthesizeStartEvent(query=query))
        answer = await run_in_executor(
            partial(self._respond, question, nodes, additional_source_nodes)
        )
        response: RESPONSE_TYPE = answer
        if self._streaming:
            stream = _astream(str(answer))
            response = AsyncStreamingResponse(stream, answer.source_nodes, answer.metadata)
        dispatcher.event(SynthesizeEndEvent(query=query, response=response))
        return response

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        """Return the quotes from these texts, each with the number of its text, from 1."""
        question = _text_of(query_str)
        texts = checked_texts(text_chunks, "text_chunks")
        return _join_quotes(self._quotes(Query(text=clean_text(question)), texts))

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str:
        """Return what `get_response` does, beside the event loop."""
        return await run_in_executor(partial(self.get_response, query_str, text_chunks))

    def _respond(
        self,
        question: str,
        nodes: list[NodeWithScore],
        additional: Sequence[NodeWithScore] | None,
    ) -> Response:
        answer = self._answer(Query(text=clean_text(question)), hits_of(nodes, nodes))
        sources = [*nodes, *(additional or [])]
        metadata = {source.node.node_id: source.node.metadata for source in sources}
        return Response(answer, sources, metadata)

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """There are none."""

    def _answer(self, query: Query, hits: Sequence[Hit]) -> str:
        if not hits:
            return "Nothing was found."

        ranked = self._quotes(query, [hit.text for hit in hits])
        is_clear = bool(ranked) and ranked[0].score >= CLEAR
        best = hits[0]
        if not best.text.strip() and best.kind == "image":
            return self._answer_with_image(query, best, ranked if is_clear else [])
        if not ranked:
            return f"The best match has no sentence to quote: {best.docid} [1]"
        if is_clear:
            return _join_quotes(ranked)
        return f"{UNCLEAR} The nearest passage:\n\n{_join_quotes(ranked[:1])}"

    def _answer_with_image(self, query: Query, best: Hit, clear_quotes: Sequence[Quote]) -> str:
        """Return an answer that names the best match, an image, and the quotes that are clear."""
        match = f"The best match is an image: {best.docid} [1]"
        if clear_quotes:
            return f"{match}\n\n{_join_quotes(clear_quotes)}"
        return match if self._shows(query, best) else f"{UNCLEAR} {match}"

    def _shows(self, query: Query, hit: Hit) -> bool:
        """Whether an image is what the query looks for, and not only the best at hand."""
        ranker = self._load_ranker()
        candidate, _ = usable_candidate(hit.node)
        try:
            memories = get_or_compute_memories(ranker, [candidate], self._store)
        except RNXError:
            # The image cannot be read.
            return False
        (scores,) = score_batch(ranker, [(query, memories)])
        return scores[0] >= IMAGE_CLEAR

    def _load_ranker(self) -> Ranker:
        if self._ranker is None:
            self._ranker = load_ranker()
        return self._ranker

    def _quotes(self, query: Query, texts: Sequence[str]) -> list[Quote]:
        return quotes(self._load_ranker(), self._store, query, texts) if query.text else []


def deep_copy(original: T, memo: dict[int, Any], shared: Sequence[object]) -> T:
    """Return a deep copy that has these objects (models) in common with its original."""
    memo |= {id(model): model for model in shared}
    duplicate: T = object.__new__(type(original))
    memo[id(original)] = duplicate
    duplicate.__dict__.update(copy.deepcopy(original.__dict__, memo))
    return duplicate


def _text_of(query: Any) -> str:
    text = query.query_str if isinstance(query, QueryBundle) else query
    if not isinstance(text, str):
        raise SettingsError(
            f"the query is {shown(query)}; a string or a QueryBundle(query_str) is needed."
        )
    return text


def _join_quotes(ranked: Sequence[Quote]) -> str:
    return "\n\n".join(f"{quote.text} [{quote.source + 1}]" for quote in ranked)


def _stream(text: str) -> TokenGen:
    yield text


async def _astream(text: str) -> TokenAsyncGen:
    yield text
