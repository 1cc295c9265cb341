"""Conversations for many visitors: one engine each, answers computed in threads and streamed as
they come. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from cachetools import LRUCache

from llama_index_rnx.chat import Event, FailedEvent, RetrievedEvent, RNXChatEngine, TextEvent
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import Hit, excerpt_of, movement, source_of, with_bars
from llama_index_rnx.text import lines

MAX_CONVERSATIONS = 200  # The one that was silent longest is forgotten first.
MAX_TURNS = 50  # of a conversation, shown again when its page is loaded anew
ANSWERS_AT_ONCE = 4  # More questions wait.
# A question waits so long for the one before it, which may just have been stopped.
TIMEOUT_SECONDS = 10.0
MAX_TEXT = 8_000  # characters of a source that are shown

EventDict = dict[str, Any]  # an event as the page reads it
log = logging.getLogger(__name__)


class Conversation:
    """The conversation of one visitor, whose questions are answered one after the other."""

    def __init__(self, engine: RNXChatEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._turns: deque[EventDict] = deque(maxlen=MAX_TURNS)

    def turns(self) -> list[EventDict]:
        """Return the last turns: each has a `question` and the `events` of its answer."""
        return list(self._turns)

    def ask(self, question: str) -> Iterator[EventDict]:
        """Yield the events of an answer. Whatever fails is one of them, and the last is `done`."""
        if not self._lock.acquire(timeout=TIMEOUT_SECONDS):
            yield {
                "failed": "the question before is still at work; "
                "wait for it, or begin a new conversation."
            }
            return

        try:
            events: list[EventDict] = []
            for event in self._answer(question):
                events.append(event)
                yield event
            self._turns.append({"question": lines(question), "events": _with_whole_text(events)})
            yield {"done": True}
        finally:
            self._lock.release()

    def _answer(self, question: str) -> Iterator[EventDict]:
        try:
            yield from map(event_to_dict, self._engine.turn(question))
        except RNXError as error:
            yield {"failed": lines(str(error))}
        except Exception as error:
            # A fault of this program must not break the page.
            log.exception("a question could not be answered")
            yield {
                "failed": f"the question could not be answered ({type(error).__name__}); "
                "the terminal says more."
            }


class Conversations:
    """The open conversations by their keys, at most `MAX_CONVERSATIONS`.

    Args:
        new_engine: makes the engine of a conversation.
    """

    def __init__(self, new_engine: Callable[[], RNXChatEngine]) -> None:
        self._new_engine = new_engine
        self._lock = threading.Lock()
        self._open: LRUCache[str, Conversation] = LRUCache(maxsize=MAX_CONVERSATIONS)

    def open(self, key: str) -> Conversation:
        """Return the conversation with this key, a new one if there is none."""
        with self._lock:
            if key not in self._open:
                self._open[key] = Conversation(self._new_engine())
            return self._open[key]

    def forget(self, key: str) -> None:
        """Let the key begin a new conversation; nobody hears the rest of an answer at work."""
        with self._lock:
            self._open.pop(key, None)


class AnswerThreads:
    """Computes answers in threads beside the event loop; `waiting` counts the callers."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(ANSWERS_AT_ONCE, thread_name_prefix="rnx answer")
        self.waiting = 0

    async def stream(
        self, events: Callable[[], Iterator[EventDict]], seconds: float
    ) -> AsyncIterator[EventDict]:
        """Yield the events of a thread as they come, and fail after `seconds` without one. When
        nobody listens any more, the thread ends at its next event.
        """
        loop = asyncio.get_running_loop()
        is_abandoned = threading.Event()
        arrived: asyncio.Queue[EventDict | None] = asyncio.Queue()

        def send(event: EventDict | None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, event)

        self.waiting += 1
        self._pool.submit(_send_events, events, is_abandoned, send)
        try:
            while (event := await asyncio.wait_for(arrived.get(), seconds)) is not None:
                yield event
        except TimeoutError:
            yield {
                "failed": f"nothing was heard for {seconds:g} seconds; "
                "ask again, or begin a new conversation."
            }
        finally:
            self.waiting -= 1
            is_abandoned.set()

    def close(self) -> None:
        """Accept no more questions; those at work end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _send_events(
    events: Callable[[], Iterator[EventDict]],
    is_abandoned: threading.Event,
    send: Callable[[EventDict | None], None],
) -> None:
    """Send every event, then None for the end."""
    # `send` raises RuntimeError once the event loop is closed because the program ends.
    with suppress(RuntimeError):
        with closing(events()) as stream:  # type: ignore[type-var]
            for event in stream:
                if is_abandoned.is_set():
                    break
                send(event)
        send(None)


def event_to_dict(event: Event) -> EventDict:
    """Return an event as the page reads it."""
    match event:
        case RetrievedEvent(section=section):
            return {
                "found": {
                    "query": lines(section.query),
                    "seconds": section.seconds,
                    "before": _hits_to_dicts(section.before, section.query),
                    "after": _hits_to_dicts(section.after, section.query),
                }
            }
        case TextEvent(text=text):
            return {"said": lines(text)}
        case FailedEvent(line=line):
            return {"failed": lines(line)}


def _hits_to_dicts(hits: Sequence[Hit], query: str) -> list[EventDict]:
    return [
        {
            "id": hit.id,
            "rank": hit.rank,
            "was": hit.retrieval_rank,
            "moved": movement(hit),
            "score": hit.score,
            "share": bar_length,
            "kind": hit.kind,
            "name": source_of(hit),
            "excerpt": excerpt_of(hit, query),
            "text": lines(hit.text)[:MAX_TEXT],
        }
        for hit, bar_length in with_bars(hits)
    ]


def _with_whole_text(events: Sequence[EventDict]) -> list[EventDict]:
    """Return the events with the text of the answer as a single last event."""
    text = "".join(event.get("said", "") for event in events)
    without_text = [event for event in events if "said" not in event]
    return [*without_text, {"said": text}] if text else without_text
