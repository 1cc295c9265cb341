"""A conversation in a terminal, `rnx chat`: it reads lines and prints answers with their sources.
It knows no model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from rich.text import Text

from llama_index_rnx.chat import Event, FailedEvent, RetrievedEvent, RNXChatEngine, TextEvent
from llama_index_rnx.console import SafeConsole, is_unicode
from llama_index_rnx.errors import RNXError
from llama_index_rnx.results import Comparison, Hit, movement, print_table, source_of
from llama_index_rnx.text import lines

PROMPT = "> "
HELP = """Ask anything; a follow-up question may point back ("and in winter?").
/sources  the sources of the last answer, with their texts
/before   what the retriever had found before reranking
/new      forget the conversation
/quit     leave (also Ctrl-D); Ctrl-C stops an answer"""
QUOTED = "Answers are quoted from the files; no language model is at work (--llm names one). /help tells the commands."
WRITTEN = "Answers are written by {name} from the sources below them. /help tells the commands."


class Terminal:
    """One conversation. `read` gives the next line, or raises EOFError at the end."""

    def __init__(
        self, engine: RNXChatEngine, console: SafeConsole, read: Callable[[], str]
    ) -> None:
        self._engine, self._console, self._read = engine, console, read
        self._last: Comparison | None = None
        self._commands: dict[str, Callable[[], None]] = {
            "/help": lambda: self._say(HELP),
            "/sources": lambda: self._table("sources", lambda section: section.after),
            "/before": lambda: self._table("retrieved", lambda section: section.before),
            "/new": self._forget,
        }

    def run(self) -> None:
        """Until /quit, or the end of the input."""
        self._say(
            QUOTED if self._engine.quotes else WRITTEN.format(name=self._engine.writer), "dim"
        )
        for line in self._lines():
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._commands.get(
                    line, lambda: self._say("There is no such command; /help tells them.")
                )()
            else:
                self._ask(line)

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = self._read().strip()
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            if line:
                yield line

    def _ask(self, question: str) -> None:
        try:
            for event in self._engine.turn(question):
                self._tell(event)
        except KeyboardInterrupt:
            self._console.print()
            self._say("stopped.", "dim")
        except RNXError as error:
            self._say(str(error), "red")
            return
        self._console.print()
        if self._last is not None:
            self._list(self._last)

    def _tell(self, event: Event) -> None:
        match event:
            case RetrievedEvent(section=section):
                self._last = section
            case TextEvent(text=text):
                self._console.print(Text(lines(text)), end="")
            case FailedEvent(line=line):
                self._say(line, "red")

    def _list(self, section: Comparison) -> None:
        for hit in section.after:
            self._console.print(
                Text(f"[{hit.rank}] ", "bold"),
                Text(source_of(hit)),
                self._place(hit),
                sep="",
                soft_wrap=True,
            )
        self._console.print()

    def _place(self, hit: Hit) -> Text:
        arrows = {
            "up": f"  \u2191 {hit.retrieval_rank}",
            "down": f"  \u2193 {hit.retrieval_rank}",
            "same": "",
        }
        arrow = (
            arrows[movement(hit)]
            if is_unicode(self._console.encoding)
            else f"  was {hit.retrieval_rank}"
        )
        return Text(f"  {hit.score:.2f}{arrow}", "dim")

    def _table(self, title: str, of: Callable[[Comparison], Sequence[Hit]]) -> None:
        if self._last is None:
            self._say("Nothing was asked yet.")
        else:
            print_table(of(self._last), self._console, title=title, query=self._last.query)

    def _forget(self) -> None:
        self._engine.reset()
        self._last = None
        self._say("A new conversation.", "dim")

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(lines(line), style))


def run_terminal(engine: RNXChatEngine) -> None:
    """On this process's input and output; lines that are typed can be edited and come back with the
    arrow keys.
    """
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401
    Terminal(engine, SafeConsole(highlight=False), lambda: input(PROMPT if typed else "")).run()
