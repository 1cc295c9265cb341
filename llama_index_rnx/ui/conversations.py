"""Conversations for many visitors: one engine each, answers made in threads, told as they come. It
knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

from llama_index_rnx.chat import Event, FailedEvent, RetrievedEvent, RNXChatEngine, TextEvent
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import Hit, excerpt_of, movement, source_of, with_bars
from llama_index_rnx.text import lines

CONVERSATIONS = 200  # of which the one that was silent longest is forgotten first
TURNS = 50  # of a conversation, shown again when its page is loaded anew
AT_ONCE = 4  # answers at work; more questions wait
TIMEOUT_SECONDS = (
    10.0  # seconds that a question waits for the one before it, which may just have been stopped
)
MAX_TEXT = 8_000  # characters of a source that are shown

EventDict = dict[str, Any]  # an event as the page reads it
log = logging.getLogger(__name__)


class Conversation:
    """One visitor's: questions are answered one after the other."""

    def __init__(self, engine: RNXChatEngine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._turns: deque[EventDict] = deque(maxlen=TURNS)

    def turns(self) -> list[EventDict]:
        """What was said so far: `question` and the events of its answer."""
        return list(self._turns)

    def ask(self, question: str) -> Iterator[EventDict]:
        """The events of an answer; whatever fails is one of them, and the last is `done`."""
        if not self._lock.acquire(timeout=TIMEOUT_SECONDS):
            yield {
                "failed": "the question before is still at work; wait for it, or begin a new conversation."
            }
            return
        try:
            events: list[EventDict] = []
            for event in self._told(question):
                events.append(event)
                yield event
            self._turns.append({"question": lines(question), "events": _joined(events)})
            yield {"done": True}
        finally:
            self._lock.release()

    def _told(self, question: str) -> Iterator[EventDict]:
        try:
            yield from map(event_to_dict, self._engine.turn(question))
        except RNXError as error:
            yield {"failed": lines(str(error))}
        except Exception as error:  # nobody's page breaks over a question
            log.exception("a question could not be answered")
            yield {
                "failed": f"the question could not be answered ({type(error).__name__}); the terminal says more."
            }


class Conversations:
    """By key, those that are going on; `begin` makes an engine."""

    def __init__(self, begin: Callable[[], RNXChatEngine]) -> None:
        self._begin, self._lock = begin, threading.Lock()
        self._known: OrderedDict[str, Conversation] = OrderedDict()

    def of(self, key: str) -> Conversation:
        """The conversation with this key, a new one if need be."""
        with self._lock:
            if key not in self._known:
                self._known[key] = Conversation(self._begin())
            self._known.move_to_end(key)
            while len(self._known) > CONVERSATIONS:
                self._known.popitem(last=False)
            return self._known[key]

    def forget(self, key: str) -> None:
        """The key begins anew; an answer that is at work belongs to nobody."""
        with self._lock:
            self._known.pop(key, None)


class Threads:
    """Runs what is slow beside the event loop; `waiting` says how many callers there are."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="rnx answer")
        self.waiting = 0

    async def stream(
        self, events: Callable[[], Iterator[EventDict]], seconds: float
    ) -> AsyncIterator[EventDict]:
        """The events of a thread, as they come. When nobody listens any more, the thread ends with
        the next of them.
        """
        loop, left = asyncio.get_running_loop(), threading.Event()
        found: asyncio.Queue[EventDict | None] = asyncio.Queue()
        self.waiting += 1
        self._pool.submit(
            _work, events, left, lambda event: loop.call_soon_threadsafe(found.put_nowait, event)
        )
        try:
            while (event := await asyncio.wait_for(found.get(), seconds)) is not None:
                yield event
        except TimeoutError:
            yield {
                "failed": f"nothing was heard for {seconds:g} seconds; ask again, or begin a new conversation."
            }
        finally:
            self.waiting -= 1
            left.set()

    def close(self) -> None:
        """Takes no more; what is at work ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _work(
    events: Callable[[], Iterator[EventDict]],
    left: threading.Event,
    tell: Callable[[EventDict | None], object],
) -> None:
    with suppress(RuntimeError):  # the event loop is closed: the program ends
        with closing(events()) as made:  # type: ignore[type-var]
            for event in made:
                if left.is_set():
                    break
                tell(event)
        tell(None)


def event_to_dict(event: Event) -> EventDict:
    """An event as the page reads it."""
    match event:
        case RetrievedEvent(section=section):
            query = section.query
            before, after = _shown(section.before, query), _shown(section.after, query)
            return {
                "found": {
                    "query": lines(query),
                    "seconds": section.seconds,
                    "before": before,
                    "after": after,
                }
            }
        case TextEvent(text=text):
            return {"said": lines(text)}
        case FailedEvent(line=line):
            return {"failed": lines(line)}


def _shown(hits: Sequence[Hit], query: str) -> list[EventDict]:
    return [
        {
            "id": hit.id,
            "rank": hit.rank,
            "was": hit.retrieval_rank,
            "moved": movement(hit),
            "score": hit.score,
            "share": share,
            "kind": hit.kind,
            "name": source_of(hit),
            "excerpt": excerpt_of(hit, query),
            "text": lines(hit.text)[:MAX_TEXT],
        }
        for hit, share in with_bars(hits)
    ]


def _joined(events: Sequence[EventDict]) -> list[EventDict]:
    """The same, with the answer in one piece."""
    said = "".join(event.get("said", "") for event in events)
    return [
        *(event for event in events if "said" not in event),
        *([{"said": said}] if said else []),
    ]
