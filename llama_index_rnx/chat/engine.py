"""Conversations over a collection: LlamaIndex's chat engine on our retriever and reranker, answered
by any LLM or by quotes.

question -> standalone question -> retrieve -> rerank -> answer. The sources are handed out before
the answer is there, and stay when the answer fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.mock import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore

from llama_index_rnx.chat.events import Event, FailedEvent, RetrievedEvent, TextEvent
from llama_index_rnx.chat.extractive import ExtractiveSynthesizer, deep_copy
from llama_index_rnx.chat.followups import standalone, user_questions
from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.chat.llms import EXTRACT, load_llm
from llama_index_rnx.chat.prompts import CONTEXT_PROMPT, PAGES_PROMPT, REFINE_PROMPT
from llama_index_rnx.chat.sources import MultimodalSynthesizer, numbered
from llama_index_rnx.chat.streaming import StreamedLLM
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.defaults import TOP_K, TOP_N
from llama_index_rnx.errors import RNXError, SettingsError, one_line, shown
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.mini import NAME as MINI
from llama_index_rnx.ranking import Ranker
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.results import compare
from llama_index_rnx.retrieve import RNXRetriever
from llama_index_rnx.text import clean_text

MAX_QUESTION = 4_000  # characters

# Words of the conversation that a language model is shown, a quarter of its context at most.
HISTORY_WORDS = 1_500

SOURCES = 5  # of an answer where no reranker says how many
ERROR_LENGTH = 200  # characters of a language model's own message
NOTHING = "Nothing was found: the index is empty."


class RNXChatEngine(CondensePlusContextChatEngine):
    """LlamaIndex's engine, with what it lacks: quotes instead of an LLM, images, and sources that
    come before the answer.

    `chat`, `stream_chat` and their async kin are the base class's; `turn` yields a question's
    events as they happen.
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
        self.reranker = reranker
        self.quotes = llm is None
        self.multimodal = multimodal
        self._condenses_by_llm = condense and llm is not None
        self._extractor = extractor
        self._store = MemoryStore()
        self._search_query = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> RNXChatEngine:
        """Return a conversation that goes on by itself; models are shared."""
        return deep_copy(self, memo, shared=[self._llm, self._extractor])

    @property
    def writer(self) -> str:
        """The name of the language model that answers."""
        return _name_of(self._llm)

    def turn(self, question: str) -> Iterator[Event]:
        """Answer a question: yield the sources, then the answer in pieces, or a line that says why
        there is none.

        A turn that fails, or whose reader stops reading, is not remembered.

        Raises:
            RNXError: the question is empty or too long, or retrieving fails.
        """
        question = _checked_question(question)
        history = self._memory.get(input=question)
        query, fault = self._search_query_of(history, question)

        count = self.reranker.top_n if self.reranker else SOURCES
        comparison = compare(self._retriever, self.reranker, query, count)
        yield RetrievedEvent(section=comparison)

        if fault is not None:
            yield FailedEvent(line=fault)
        elif not comparison.after:
            yield TextEvent(text=NOTHING)
        else:
            yield from self._answer(question, history, numbered(comparison.after))

    def reset(self) -> None:
        """Forget the conversation."""
        super().reset()
        self._search_query = ""

    def _answer(
        self, question: str, history: Sequence[ChatMessage], nodes: list[NodeWithScore]
    ) -> Iterator[Event]:
        answer = ""
        try:
            synthesizer = self._get_response_synthesizer(list(history), streaming=True)
            response: Any = synthesizer.synthesize(question, nodes)
            for piece in response.response_gen:
                answer += piece
                yield TextEvent(text=piece)
        # The language model may be anybody's, so it may raise anything.
        except Exception as error:
            yield FailedEvent(line=_fault_of(self._llm, error))
            return

        self._memory.put(ChatMessage(role=MessageRole.USER, content=question))
        self._memory.put(ChatMessage(role=MessageRole.ASSISTANT, content=answer))

    def _search_query_of(
        self, history: Sequence[ChatMessage], question: str
    ) -> tuple[str, str | None]:
        """Return the question as it can be looked for, and what failed on the way to it.

        The sources can be found without a language model, so its failure does not end the turn.
        """
        try:
            return self._condense_question(list(history), question), None
        # The language model may be anybody's, so it may raise anything.
        except Exception as error:
            return standalone(user_questions(history), question), _fault_of(self._llm, error)

    def _run_c3(self, message: str, *args: Any, **options: Any) -> Any:
        """Retrieve and rerank for `chat` and `stream_chat`."""
        return super()._run_c3(_checked_message(message), *args, **options)

    async def _arun_c3(self, message: str, *args: Any, **options: Any) -> Any:
        """Retrieve and rerank for `achat` and `astream_chat`."""
        return await super()._arun_c3(_checked_message(message), *args, **options)

    def _condense_question(self, chat_history: list[ChatMessage], latest_message: str) -> str:
        if self._condenses_by_llm:
            condensed = super()._condense_question(chat_history, latest_message)
            self._search_query = condensed.strip() or latest_message
        else:
            self._search_query = standalone(user_questions(chat_history), latest_message)
        return self._search_query

    async def _acondense_question(
        self, chat_history: list[ChatMessage], latest_message: str
    ) -> str:
        if not self._condenses_by_llm:
            return self._condense_question(chat_history, latest_message)
        condensed = await super()._acondense_question(chat_history, latest_message)
        self._search_query = condensed.strip() or latest_message
        return self._search_query

    def _get_response_synthesizer(  # type: ignore[override]
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> BaseSynthesizer:
        if self.quotes:
            return ExtractiveSynthesizer(
                self._extractor, self._store, query=self._search_query, streaming=streaming
            )
        if not self.multimodal:
            return super()._get_response_synthesizer(chat_history, streaming)

        lines = [f"{message.role.value}: {message.content}" for message in chat_history]
        prompt = PAGES_PROMPT.partial_format(history="\n".join(lines))
        return MultimodalSynthesizer(
            llm=self._llm, multimodal=True, chat_content_qa_template=prompt, streaming=streaming
        )


def chat_engine(
    retriever: RNXRetriever,
    reranker: RNXRerank | None,
    llm: LLM | None = None,
    *,
    extractor: Ranker | None = None,
    multimodal: bool | None = None,
    condense: bool | None = None,
) -> RNXChatEngine:
    """Return a conversation of its own; build one for each user.

    Args:
        reranker: None answers from the retriever's order.
        llm: any LlamaIndex LLM; without one the answers are quoted from the sources, which needs no
            key.
        extractor: the ranker that chooses quotes; by default rnx-mini.
        multimodal: show the LLM the images of the sources; by default where it is the ranker
            itself. It must be a chat model.
        condense: let the LLM put a follow-up question into words that stand alone; by default all
            but small ones do. Without, a question that points back is looked for together with the
            one before it.

    Raises:
        SettingsError: an argument is of another type.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
        >>> texts = "Bees make honey from nectar.", "Rust is iron oxide."
        >>> collection = NodeCollection(":memory:")
        >>> collection.add([TextNode(text=text) for text in texts])
        2
        >>> engine = chat_engine(RNXRetriever(collection), RNXRerank())
        >>> str(engine.chat("What do bees make?"))
        'Bees make honey from nectar. [1]'
    """
    _check_type("retriever", retriever, BaseRetriever)
    if reranker is not None:
        _check_type("reranker", reranker, BaseNodePostprocessor)
    if llm is not None:
        _check_type("llm", llm, LLM)

    if multimodal is None:
        multimodal = isinstance(llm, StreamedLLM) and llm.sees_images
    if condense is None:
        condense = not isinstance(llm, GGUFModel)
    return RNXChatEngine(
        retriever, reranker, llm, extractor=extractor, multimodal=multimodal, condense=condense
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
    """Load all that conversations over a collection share, and return a function that begins a new
    one.

    Args:
        model: of the reranker.
        llm: the language model, and `options` its arguments; see `load_llm`.
        images: show the LLM the images of the sources; see `chat_engine`.
        k: how many nodes are retrieved.
        n: how many sources an answer has.

    Raises:
        RNXError: a model is unknown or cannot be loaded.
    """
    mini = collection.ranker
    if mini is not None and mini.name != MINI:
        mini = None
    ranker = mini if model == MINI and mini is not None else load_ranker(model)

    writer = load_llm(llm, options, lambda: ranker)
    retriever = RNXRetriever(collection, top_k=k)
    reranker = RNXRerank(ranker=ranker, top_n=n)
    return lambda: chat_engine(retriever, reranker, writer, extractor=mini, multimodal=images)


def _check_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise SettingsError(f"{name}={shown(value)} was given; a {expected.__name__} is needed.")


def _checked_message(message: Any) -> str:
    """Return the message as it came, if it asks something."""
    if not isinstance(message, str):
        raise SettingsError(f"the question is {shown(message)}; a string is needed.")
    if not clean_text(message):
        raise SettingsError("the question is empty; ask something.")
    return message


def _checked_question(question: str) -> str:
    """Return the question without white space around it, if it asks something and is short."""
    question = clean_text(_checked_message(question))
    if len(question) > MAX_QUESTION:
        raise SettingsError(
            f"the question has {len(question):,} characters; {MAX_QUESTION:,} are allowed."
        )
    return question


def _history_words(llm: LLM) -> int:
    return max(1, min(HISTORY_WORDS, llm.metadata.context_window // 4))


def _fault_of(llm: LLM, error: Exception) -> str:
    """Return one line that says why there is no answer."""
    if isinstance(error, RNXError):
        return str(error)
    reason = one_line(error, ERROR_LENGTH).rstrip(".") or type(error).__name__
    return (
        f"the language model ({_name_of(llm)}) does not answer: {reason}. "
        "The sources were found without it."
    )


def _name_of(llm: LLM) -> str:
    name = llm.metadata.model_name
    # "unknown" is LlamaIndex's default.
    return llm.class_name() if name == "unknown" else name
