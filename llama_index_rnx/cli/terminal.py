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
QUOTED = (
    "Answers are quoted from the files; no language model is at work (--llm names one). "
    "/help tells the commands."
)
WRITTEN = "Answers are written by {name} from the sources below them. /help tells the commands."

ERROR_STYLE = "red"
NOTE_STYLE = "dim"


class Terminal:
    """One conversation.

    Args:
        engine: answers the questions.
        console: prints.
        read: returns the next line, or raises EOFError at the end.
    """

    def __init__(
        self, engine: RNXChatEngine, console: SafeConsole, read: Callable[[], str]
    ) -> None:
        self._engine = engine
        self._console = console
        self._read = read
        self._last: Comparison | None = None
        self._commands: dict[str, Callable[[], None]] = {
            "/help": lambda: self._print_line(HELP),
            "/sources": lambda: self._print_hits("sources", lambda section: section.after),
            "/before": lambda: self._print_hits("retrieved", lambda section: section.before),
            "/new": self._forget,
        }

    def run(self) -> None:
        """Read and answer lines until /quit, or until the end of the input."""
        introduction = QUOTED if self._engine.quotes else WRITTEN.format(name=self._engine.writer)
        self._print_line(introduction, NOTE_STYLE)
        for line in self._read_lines():
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._run_command(line)
            else:
                self._ask(line)

    def _read_lines(self) -> Iterator[str]:
        while True:
            try:
                line = self._read().strip()
            except (EOFError, KeyboardInterrupt):
                self._console.print()
                return
            if line:
                yield line

    def _run_command(self, name: str) -> None:
        command = self._commands.get(name)
        if command is None:
            self._print_line("There is no such command; /help tells them.")
        else:
            command()

    def _ask(self, question: str) -> None:
        try:
            for event in self._engine.turn(question):
                self._print_event(event)
        except KeyboardInterrupt:
            self._console.print()
            self._print_line("stopped.", NOTE_STYLE)
        except RNXError as error:
            self._print_line(str(error), ERROR_STYLE)
            return

        self._console.print()
        if self._last is not None:
            self._print_sources(self._last)

    def _print_event(self, event: Event) -> None:
        match event:
            case RetrievedEvent(section=section):
                self._last = section
            case TextEvent(text=text):
                self._console.print(Text(lines(text)), end="")
            case FailedEvent(line=line):
                self._print_line(line, ERROR_STYLE)

    def _print_sources(self, section: Comparison) -> None:
        for hit in section.after:
            self._console.print(
                Text(f"[{hit.rank}] ", "bold"),
                Text(source_of(hit)),
                self._score_and_movement(hit),
                sep="",
                soft_wrap=True,
            )
        self._console.print()

    def _score_and_movement(self, hit: Hit) -> Text:
        arrows = {"up": "\u2191", "down": "\u2193", "same": ""}
        arrow = arrows[movement(hit)]
        if not is_unicode(self._console.encoding):
            change = f"  was {hit.retrieval_rank}"
        else:
            change = f"  {arrow} {hit.retrieval_rank}" if arrow else ""
        return Text(f"  {hit.score:.2f}{change}", NOTE_STYLE)

    def _print_hits(self, title: str, select: Callable[[Comparison], Sequence[Hit]]) -> None:
        if self._last is None:
            self._print_line("Nothing was asked yet.")
        else:
            print_table(select(self._last), self._console, title=title, query=self._last.query)

    def _forget(self) -> None:
        self._engine.reset()
        self._last = None
        self._print_line("A new conversation.", NOTE_STYLE)

    def _print_line(self, line: str, style: str = "") -> None:
        self._console.print(Text(lines(line), style))


def run_terminal(engine: RNXChatEngine) -> None:
    """Run a conversation on this process's input and output. Typed lines can be edited, and the
    arrow keys bring them back.
    """
    is_typed = sys.stdin.isatty()
    if is_typed:
        with suppress(ImportError):
            import readline  # noqa: F401
    prompt = PROMPT if is_typed else ""
    Terminal(engine, SafeConsole(highlight=False), lambda: input(prompt)).run()
