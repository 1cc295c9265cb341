"""The program `rnx`: its commands, its exit codes, and errors as one line. It knows no command from
inside.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from llama_index_rnx.cli.apps import chat, demo, serve, ui
from llama_index_rnx.cli.help_pages import CONTEXT_SETTINGS, CommandWithPanels
from llama_index_rnx.cli.index import index
from llama_index_rnx.cli.rerank import calibrate, doctor, rerank
from llama_index_rnx.cli.search import search
from llama_index_rnx.console import clean_what_python_prints, print_note
from llama_index_rnx.errors import RNXError
from llama_index_rnx.system import INTERRUPT_SECONDS, INTERRUPTED, end_within

MISTAKE = 2  # the exit code of a user's mistake

app = typer.Typer(
    help="Multimodal listwise reranking: index texts and images, search them, best first.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # `rich` takes three times as long to show a help page as typer itself.
    rich_markup_mode=None,
    context_settings=CONTEXT_SETTINGS,
)
for command in (index, search, rerank, serve, chat, ui, doctor, calibrate, demo):
    app.command(cls=CommandWithPanels)(command)


def program() -> None:
    """Run the process `rnx`: as `main`, but after Ctrl-C it does not wait long for threads that
    compute.
    """
    try:
        main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            end_within(INTERRUPT_SECONDS, INTERRUPTED)
        raise


def main() -> None:
    """Run a command line in this process; a user's mistake is one line on stderr and exit code
    2.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module="qdrant_client")
    clean_what_python_prints()
    arguments = sys.argv[1:]
    try:
        sys.exit(_run(arguments))
    except RNXError as error:
        _fail(error)
    except (KeyboardInterrupt, typer.Abort):
        print_note("stopped; what was written is whole, the same command goes on from there.")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        _fail(f"{error.filename or 'the disk'}: {error.strerror or error}")
    except Exception as error:
        # Errors about arguments are click's, and have this method.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())


def _run(arguments: list[str]) -> int:
    """Return the exit code of a command line; without arguments show the help page.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, which typer turns into an exit code.
    """
    code = app(arguments or ["--help"], standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if not arguments:
        return MISTAKE
    return code if isinstance(code, int) else 0


def _fail(message: object) -> None:
    print_note(f"error: {message}")
    sys.exit(MISTAKE)


if __name__ == "__main__":
    program()
