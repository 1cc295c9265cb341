"""Conversations over a collection: LlamaIndex's chat engine on our retriever and reranker, answered
by any LLM or by quotes.

question -> standalone question -> retrieve -> rerank -> answer. What was found is told before the
answer is there, and stays when the answer fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.response_synthesizers import BaseSynthesizer, CompactAndRefine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore

from llama_index_rnx.candidates import with_inline_image
from llama_index_rnx.chat.events import Event, FailedEvent, RetrievedEvent, TextEvent
from llama_index_rnx.chat.extractive import ExtractiveSynthesizer, deep_copy
from llama_index_rnx.chat.followups import standalone, user_questions
from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.chat.llms import EXTRACT, RankerLLM, load_llm
from llama_index_rnx.chat.prompts import CONTEXT_PROMPT, PAGES_PROMPT, REFINE_PROMPT
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.defaults import TOP_K, TOP_N
from llama_index_rnx.errors import RNXError, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.mini import NAME as MINI
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.results import Hit, compare
from llama_index_rnx.retrieve import RNXRetriever
from llama_index_rnx.text import clean_text

MAX_QUESTION = 4_000  # characters
HISTORY_WORDS = (
    1_500  # of the conversation that a language model is shown, a quarter of its context at most
)
SOURCES = 5  # that an answer has where no reranker says how many
NOTHING = "Nothing was found: the index is empty."


class _PictureSynthesizer(CompactAndRefine):
    """Shows the pictures of nodes wherever they are; one that is gone costs itself, not the answer."""

    def synthesize(
        self, query: Any, nodes: list[NodeWithScore], *more: Any, **options: Any
    ) -> RESPONSE_TYPE:
        return super().synthesize(query, _with_inline_images(nodes), *more, **options)

    async def asynthesize(
        self, query: Any, nodes: list[NodeWithScore], *more: Any, **options: Any
    ) -> RESPONSE_TYPE:
        shown = await asyncio.to_thread(_with_inline_images, nodes)
        return await super().asynthesize(query, shown, *more, **options)


class RNXChatEngine(CondensePlusContextChatEngine):
    """LlamaIndex's engine, with what it lacks: quotes instead of an LLM, pictures, sources that are
    told first.

    `chat`, `stream_chat` and their async kin are the base class's; `turn` tells a question's events
    as they happen.
    """

    def __init__(
        self,
        retriever: RNXRetriever,
        reranker: RNXRerank | None,
        llm: LLM | None,
        *,
        extractor: Ranker | None = None,
        multimodal: bool = False,
        condense: bool = True,
    ) -> None:
        writer = llm or MockLLM()
        memory = ChatMemoryBuffer(token_limit=_history_words(writer), tokenizer_fn=str.split)
        super().__init__(
            retriever=retriever,
            llm=writer,
            memory=memory,
            context_prompt=CONTEXT_PROMPT,
            context_refine_prompt=REFINE_PROMPT,
            node_postprocessors=[reranker] if reranker is not None else [],
        )
        self.reranker, self.quotes, self.multimodal = reranker, llm is None, multimodal
        self._rewrites = condense and llm is not None
        self._extractor, self._store, self._asked = extractor, MemoryStore(), ""

    def __deepcopy__(self, memo: dict[int, Any]) -> RNXChatEngine:
        """A conversation that goes on by itself; models are shared."""
        return deep_copy(self, memo, shared=[self._llm, self._extractor])

    @property
    def writer(self) -> str:
        """The name of the language model that answers."""
        return _name(self._llm)

    def turn(self, question: str) -> Iterator[Event]:
        """Answers a question: what was found, then the answer in pieces; or a line that says why
        there is none.

        A turn that fails or is left alone is not remembered.

        Raises:
            RNXError: the question is empty or too long, or retrieving fails.
        """
        question = _checked(question)
        history = self._memory.get(input=question)
        asked, fault = self._standalone(history, question)
        section = compare(
            self._retriever, self.reranker, asked, self.reranker.top_n if self.reranker else SOURCES
        )
        yield RetrievedEvent(section=section)
        if fault is not None:
            yield FailedEvent(line=fault)
        elif not section.after:
            yield TextEvent(text=NOTHING)
        else:
            yield from self._answered(question, history, numbered(section.after))

    def reset(self) -> None:
        """Forgets the conversation."""
        super().reset()
        self._asked = ""

    def _answered(
        self, question: str, history: Sequence[ChatMessage], nodes: list[NodeWithScore]
    ) -> Iterator[Event]:
        said: list[str] = []
        try:
            response: Any = self._get_response_synthesizer(
                list(history), streaming=True
            ).synthesize(question, nodes)
            for piece in response.response_gen:
                said.append(piece)
                yield TextEvent(text=piece)
        except Exception as error:  # of a language model that we do not know
            yield FailedEvent(line=_fault(self._llm, error))
            return
        self._memory.put(ChatMessage(role=MessageRole.USER, content=question))
        self._memory.put(ChatMessage(role=MessageRole.ASSISTANT, content="".join(said)))

    def _standalone(self, history: Sequence[ChatMessage], question: str) -> tuple[str, str | None]:
        """The question as it can be looked for, and what failed on the way to it."""
        try:
            return self._condense_question(list(history), question), None
        except Exception as error:  # as above: the sources can be found without a language model
            return standalone(user_questions(history), question), _fault(self._llm, error)

    def _run_c3(self, message: str, *more: Any, **options: Any) -> Any:
        """Retrieve and rerank for `chat` and `stream_chat`."""
        return super()._run_c3(_checked_message(message), *more, **options)

    async def _arun_c3(self, message: str, *more: Any, **options: Any) -> Any:
        return await super()._arun_c3(_checked_message(message), *more, **options)

    def _condense_question(self, chat_history: list[ChatMessage], latest_message: str) -> str:
        if self._rewrites:
            self._asked = (
                super()._condense_question(chat_history, latest_message).strip() or latest_message
            )
        else:
            self._asked = standalone(user_questions(chat_history), latest_message)
        return self._asked

    async def _acondense_question(
        self, chat_history: list[ChatMessage], latest_message: str
    ) -> str:
        if self._rewrites:
            self._asked = (
                await super()._acondense_question(chat_history, latest_message)
            ).strip() or latest_message
            return self._asked
        return self._condense_question(chat_history, latest_message)

    def _get_response_synthesizer(  # type: ignore[override]
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> BaseSynthesizer:
        if self.quotes:
            return ExtractiveSynthesizer(
                self._extractor, self._store, query=self._asked, streaming=streaming
            )
        if self.multimodal:
            said = "\n".join(f"{message.role.value}: {message.content}" for message in chat_history)
            prompt = PAGES_PROMPT.partial_format(history=said)
            return _PictureSynthesizer(
                llm=self._llm, multimodal=True, chat_content_qa_template=prompt, streaming=streaming
            )
        return super()._get_response_synthesizer(chat_history, streaming)


def chat_engine(
    retriever: RNXRetriever,
    reranker: RNXRerank | None,
    llm: LLM | None = None,
    *,
    extractor: Ranker | None = None,
    multimodal: bool | None = None,
    condense: bool | None = None,
) -> RNXChatEngine:
    """A conversation of its own; make one for each user.

    Args:
        reranker: None answers from the retriever's order.
        llm: any LlamaIndex LLM; without one the answers are quoted from the sources, which needs no
            key.
        extractor: the ranker that chooses quotes; by default rnx-mini.
        multimodal: show the LLM the pictures of the sources; by default where it is the ranker
            itself. It must be a chat model.
        condense: let the LLM put a follow-up question into words that stand alone; by default all
            but small ones do. Without, a question that points back is looked for together with the
            one before it.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(text="Bees make honey from nectar."), TextNode(text="Rust is iron oxide.")])
        2
        >>> engine = chat_engine(RNXRetriever(collection), RNXRerank())
        >>> str(engine.chat("What do bees make?"))
        'Bees make honey from nectar. [1]'
    """
    kinds = {
        "retriever": (retriever, BaseRetriever),
        "reranker": (reranker, BaseNodePostprocessor),
        "llm": (llm, LLM),
    }
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind) and (value is not None or name == "retriever"):
            raise RNXError(f"{name}={shown(value)} was given; a {kind.__name__} is needed.")

    sees = isinstance(llm, RankerLLM) if multimodal is None else multimodal
    rewrites = not isinstance(llm, GGUFModel) if condense is None else condense
    return RNXChatEngine(
        retriever, reranker, llm, extractor=extractor, multimodal=sees, condense=rewrites
    )


def conversations(
    collection: NodeCollection,
    *,
    model: str = MINI,
    llm: str = EXTRACT,
    options: Mapping[str, Any] | None = None,
    images: bool | None = None,
    k: int = TOP_K,
    n: int = TOP_N,
) -> Callable[[], RNXChatEngine]:
    """Loads all that conversations over a collection share; what is returned begins a new one. See
    `load_llm` for `llm`.

    Raises:
        RNXError: a model is unknown or cannot be loaded.
    """
    mini = (
        collection.ranker
        if collection.ranker is not None and collection.ranker.name == MINI
        else None
    )
    ranker = mini if model == MINI and mini is not None else load_ranker(model)
    writer = load_llm(llm, options, lambda: ranker)
    retriever, reranker = RNXRetriever(collection, top_k=k), RNXRerank(ranker=ranker, top_n=n)
    return lambda: chat_engine(retriever, reranker, writer, extractor=mini, multimodal=images)


def numbered(hits: Sequence[Hit]) -> list[NodeWithScore]:
    """The nodes with their numbers in the text that a language model is shown, so that it can name
    them.
    """
    return [NodeWithScore(node=_numbered(hit), score=hit.score) for hit in hits]


def _with_inline_images(hits: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    return [NodeWithScore(node=with_inline_image(hit.node), score=hit.score) for hit in hits]


def _numbered(hit: Hit) -> Any:
    node = hit.node.model_copy()
    node.metadata = {"number": f"[{hit.rank}]", **hit.node.metadata}
    return node


def _checked_message(message: Any) -> str:
    """The message as it came, if it asks something."""
    if not isinstance(message, str):
        raise RNXError(f"the question is {shown(message)}; a string is needed.")
    if not clean_text(message):
        raise RNXError("the question is empty; ask something.")
    return message


def _checked(question: str) -> str:
    question = clean_text(_checked_message(question))
    if len(question) > MAX_QUESTION:
        raise RNXError(
            f"the question has {len(question):,} characters; {MAX_QUESTION:,} are allowed."
        )
    return question


def _history_words(llm: LLM) -> int:
    return max(1, min(HISTORY_WORDS, llm.metadata.context_window // 4))


def _fault(llm: LLM, error: Exception) -> str:
    if isinstance(error, RNXError):
        return str(error)
    line = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return f"the language model ({_name(llm)}) does not answer: {line}. The sources were found without it."


def _name(llm: LLM) -> str:
    name = llm.metadata.model_name
    return llm.class_name() if name == "unknown" else name  # LlamaIndex's default
