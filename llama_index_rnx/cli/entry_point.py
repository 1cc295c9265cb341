"""The command line: `rnx index`, `search`, `chat`, `ui`, `rerank`, `doctor`, `calibrate`, `serve`,
`demo`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_rnx.batch import run_row
from llama_index_rnx.cli import index as index_command
from llama_index_rnx.cli.help_pages import CONTEXT_SETTINGS, CommandWithPanels
from llama_index_rnx.console import (
    clean_what_python_prints,
    print_html,
    print_json,
    print_note,
    print_text,
)
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.system import INTERRUPT_SECONDS, INTERRUPTED, atomic_write, end_within

if (
    TYPE_CHECKING
):  # torch and LlamaIndex take seconds to load: only the command that needs them does
    from llama_index_rnx.collection import NodeCollection
    from llama_index_rnx.results import Hit

app = typer.Typer(
    help="Multimodal listwise reranking: index texts and images, search them, best first.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes three times as long to show a help page as typer itself
    context_settings=CONTEXT_SETTINGS,
)
command = app.command(cls=CommandWithPanels)


class Format(StrEnum):
    """How hits are printed."""

    table = "table"
    json = "json"
    html = "html"


class Windows(StrEnum):
    """How a list longer than a window is read."""

    sliding = "sliding"
    parallel = "parallel"


Name = Annotated[str, typer.Option("--collection", help="Name of the Qdrant collection.")]
From = Annotated[
    str, typer.Option("--from", help="The index: a folder, or the URL of a Qdrant server.")
]
Run = Annotated[Path | None, typer.Option("--run", help="Write a TREC run to this file.")]
COMPUTE = "How a ranker computes"
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=COMPUTE)]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=COMPUTE)
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="Of a picture, for a vision-language model.", rich_help_panel=COMPUTE),
]
MaxTextTokens = Annotated[
    int | None, typer.Option(min=1, help="Of a text.", rich_help_panel=COMPUTE)
]
MemoryPath = Annotated[
    str | None,
    typer.Option(
        help="A folder or an address (s3://...) that keeps the memories for the next time.",
        rich_help_panel=COMPUTE,
    ),
]
TAG = "rnx"
SERVER_KEY = "RNX_SERVER_KEY"
LISTS_HELP = 'Rows {"qid","query","image"?,"candidates":[{"docid","text"?,"image"?,"score"?}]}'
command(index_command.index)


@command
def search(
    query: Annotated[
        str, typer.Argument(help="What to look for; may be left out with --image or --queries.")
    ] = "",
    from_: From = "",
    image: Annotated[
        Path | None, typer.Option(help="A picture as the query, alone or with a text.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many the retriever fetches.")] = 100,
    n: Annotated[int, typer.Option("-n", min=1, help="How many come out.")] = 5,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Rerank what was fetched.")
    ] = True,
    model: Annotated[str, typer.Option(help="The ranker.")] = "rnx-mini",
    format_: Annotated[
        Format, typer.Option("--format", help="How hits are printed.")
    ] = Format.table,
    queries: Annotated[
        Path | None, typer.Option(help='A batch: rows {"qid","query","image"?}; needs --run.')
    ] = None,
    run: Run = None,
    collection: Name = "rnx",
) -> None:
    """Search an index: the retriever's list, reranked as a list."""
    batch = _batch_of(queries, run, query, image)
    if not batch and not query.strip() and image is None:
        raise RNXError(
            "nothing to search for; give a QUERY, --image FILE, or --queries FILE with --run FILE."
        )
    source = _open_index(from_, collection)
    try:
        if batch:
            assert run is not None
            _search_batch(source, batch, run, k, n, model if rerank else None)
        else:
            _search_one(source, query, image, k, n, model if rerank else None, format_)
    finally:
        source.close()


@command
def rerank(
    lists: Annotated[
        Path,
        typer.Argument(
            help='Rows {"qid","query","image"?,"candidates":[{"docid","text"?,"image"?,"score"?}]}'
        ),
    ],
    run: Annotated[Path, typer.Option("--run", help="Write a TREC run to this file.")],
    model: Annotated[str, typer.Option(help="The ranker.")] = "rnx-mini",
    windows: Annotated[
        Windows, typer.Option(help="How a list longer than the ranker's window is read.")
    ] = Windows.sliding,
    device: Device = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    max_text_tokens: MaxTextTokens = None,
    memory_path: MemoryPath = None,
) -> None:
    """Rerank given lists and write a TREC run. Every candidate of every list comes out."""
    from llama_index_rnx import load_ranker
    from llama_index_rnx.batch import rank_lists, read_lists

    rows, faults = read_lists(lists), list[str]()
    with _trec_file(run) as write:
        ranker = load_ranker(
            model,
            device=device,
            dtype=dtype,
            max_pixels=max_pixels,
            max_text_tokens=max_text_tokens,
        )
        for qid, ranked in rank_lists(rows, ranker, memory_path, faults, windows.value):
            write(qid, ranked)
    for fault in dict.fromkeys(faults):
        print_note(f"not seen: {fault}")
    print_note(f"{len(rows)} lists -> {run}")


@command
def serve(
    model: Annotated[str, typer.Option(help="The ranker.")] = "rnx-mini",
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The port to listen on.")] = 8787,
    api_key: Annotated[
        str | None, typer.Option(envvar=SERVER_KEY, help="Asked of every caller.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin may ask from a browser, as https://example.com; repeatable."
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option(help="Fetch images that are named by a URL of a public host.")
    ] = False,
    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = 64,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests at work or waiting; one more is sent away.")
    ] = 32,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="For one request, waiting included.")
    ] = 60.0,
    device: Device = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    max_text_tokens: MaxTextTokens = None,
    memory_path: MemoryPath = None,
) -> None:
    """Answer POST /rerank in the shape of Cohere and Jina. It takes texts and images."""
    _refuse_empty_key(api_key)
    from llama_index_rnx import load_ranker
    from llama_index_rnx.memory import MemoryStore

    try:
        from llama_index_rnx.network import is_loopback
        from llama_index_rnx.server import Limits, create_app, run_server
    except ImportError as error:
        raise RNXError(
            f"rnx serve needs {error.name}; install it with: pip install 'llama-index-rnx[serve]'"
        ) from error

    if api_key is None and not is_loopback(host):
        print_note(
            f"warning: without a key anybody who reaches {host} may ask; set {SERVER_KEY} or --api-key."
        )
    text = max(Limits.text, 8 * (max_text_tokens or 0))  # characters; tokens are rarely longer
    limits = Limits(body=max_body * 2**20, at_once=max_waiting, seconds=max_seconds, text=text)
    ranker = load_ranker(
        model, device=device, dtype=dtype, max_pixels=max_pixels, max_text_tokens=max_text_tokens
    )
    store = MemoryStore(
        memory_path
    )  # before anything is served: what is wrong with either is one line
    made = create_app(
        lambda: ranker,
        limits=limits,
        api_key=api_key,
        allow_urls=allow_urls,
        store=store,
        cors_origins=cors_origin or (),
        loopback_only=api_key is None and is_loopback(host),
    )
    run_server(made, host, port)


def _refuse_empty_key(api_key: str | None) -> None:
    """A secret that is not set in a compose file must not start an open server; typer takes "" for
    no variable at all.
    """
    is_set = api_key is not None or SERVER_KEY in os.environ
    if is_set and not (api_key or "").strip():
        raise RNXError(
            f"the API key is empty, so anybody could come in; give {SERVER_KEY} or --api-key a value, "
            f"or unset {SERVER_KEY} to ask for no key."
        )


Llm = Annotated[
    str,
    typer.Option(
        help="Who answers: extract (quotes), smollm2, ranker, a .gguf file, or module:Class."
    ),
]
LlmOptions = Annotated[
    str, typer.Option(help='Options of the language model, as JSON: {"model": "..."}')
]
Images = Annotated[
    bool | None,
    typer.Option(help="Show the language model the pictures, too; it must be able to see."),
]


@command
def chat(
    from_: From = "",
    llm: Llm = "extract",
    llm_options: LlmOptions = "{}",
    images: Images = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many the retriever fetches.")] = 100,
    n: Annotated[int, typer.Option("-n", min=1, help="How many sources an answer has.")] = 5,
    model: Annotated[str, typer.Option(help="The ranker.")] = "rnx-mini",
    collection: Name = "rnx",
) -> None:
    """Ask an index in the terminal, with follow-up questions. The sources stand under each answer."""
    options = _json_object(llm_options)
    source = _open_index(from_, collection)
    try:
        from llama_index_rnx.chat import conversations
        from llama_index_rnx.cli.terminal import run_terminal

        run_terminal(
            conversations(source, model=model, llm=llm, options=options, images=images, k=k, n=n)()
        )
    finally:
        source.close()


@command
def ui(
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            help="The index; a folder that is not there yet becomes one. Default: a temporary one.",
        ),
    ] = "",
    llm: Llm = "extract",
    llm_options: LlmOptions = "{}",
    images: Images = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many the retriever fetches.")] = 100,
    n: Annotated[
        int, typer.Option("-n", min=1, max=20, help="How many sources an answer has.")
    ] = 5,
    model: Annotated[str, typer.Option(help="The ranker.")] = "rnx-mini",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port of the page; 0 for any that is free.")
    ] = 8788,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of one file.")] = 64,
    collection: Name = "rnx",
) -> None:
    """Open a page in the browser, for this machine only. Ask an index, see pages beside the answer,
    add PDFs and pictures.
    """
    options = _json_object(llm_options)
    try:
        from llama_index_rnx.ui import open_library, run_page
    except ImportError as error:
        raise RNXError(
            f"rnx ui needs {error.name}; install it with: pip install 'llama-index-rnx[ui]'"
        ) from error
    from llama_index_rnx.chat import conversations

    with open_library(from_, collection, max_upload * 2**20) as (source, library):
        begin = conversations(
            source, model=model, llm=llm, options=options, images=images, k=k, n=n
        )
        kept = from_ or "temporary: gone when this ends, --from FOLDER keeps it"
        run_page(
            source,
            library,
            begin,
            port,
            lambda url: print_note(f"{url}  (index: {kept}; Ctrl-C ends)"),
        )


@command
def doctor(
    model: Annotated[str, typer.Option(help="A vision-language model: a folder or a hub id.")],
    lists: Annotated[
        Path | None,
        typer.Option(help="Your own lists, as for `rnx rerank`; default: a few built-in texts."),
    ] = None,
) -> None:
    """Say whether a checkpoint should be read by labels. These read a whole list at once. Exit
    code: 0 if so, 1 if not.
    """
    from llama_index_rnx.batch import diagnose_checkpoint, skip_reason

    reason = skip_reason(model)
    found = None if reason else diagnose_checkpoint(model, lists)
    print_text(reason or found)
    raise typer.Exit(0 if found is None or found.usable else 1)


@command
def calibrate(
    lists: Annotated[
        Path,
        typer.Argument(
            help='Lists as for `rnx rerank`; a candidate may have a "grade", 0: not relevant.'
        ),
    ],
    model: Annotated[
        str, typer.Option(help="A vision-language model that is read by labels: a folder.")
    ],
    to: Annotated[
        Path | None, typer.Option(help="Write this file instead of the folder's rnx.json.")
    ] = None,
) -> None:
    """Fit a model's slot bias and, with grades, its probabilities. They go into its rnx.json."""
    from llama_index_rnx.batch import calibrate as fit_to

    calibration, found = fit_to(lists, model, to)
    print_text(f"{calibration}\nWith this calibration, on the same lists:\n{found}")


@command
def demo(
    folder: Annotated[Path, typer.Option(help="Where corpus, index and page go.")] = Path("demo"),
) -> None:
    """Run the main job on a small corpus, from nothing. It indexes, retrieves, reranks and shows."""
    from llama_index_rnx.demo import run_demo

    run_demo(folder)


def program() -> None:
    """The process `rnx`: as `main`; after Ctrl-C it does not wait long for threads that compute."""
    try:
        main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            end_within(INTERRUPT_SECONDS, INTERRUPTED)
        raise


def main() -> None:
    """A command line in this process: a user's mistake is one line on stderr and exit code 2."""
    warnings.filterwarnings("ignore", category=UserWarning, module="qdrant_client")
    clean_what_python_prints()
    arguments = sys.argv[1:]
    try:
        code = app(
            arguments or ["--help"], standalone_mode=False
        )  # typer turns Ctrl-C into an exit code, 130
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if not arguments:
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)
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
        if not hasattr(error, "format_message"):  # what click says of wrong arguments
            raise
        _fail(error.format_message())


def _fail(message: object) -> None:
    print_note(f"error: {message}")
    sys.exit(2)


def _open_index(location: str, name: str) -> NodeCollection:
    if not location:
        raise RNXError("no index was given; add --from DIR_OR_URL.")

    is_folder = not location.startswith(("http://", "https://"))
    missing = RNXError(
        f"there is no index in {location}; make one with: rnx index PATH --to {location}"
    )
    if is_folder and not Path(location).expanduser().exists():
        raise missing  # before seconds are spent on imports

    from llama_index_rnx.collection import NodeCollection, holds_index

    if is_folder and not holds_index(Path(location)):
        raise missing
    source = NodeCollection(location, name=name)
    if len(source) == 0:
        source.close()
        raise RNXError(
            f"the index at {location} is empty (collection {name!r}); fill it with: rnx index PATH --to {location}"
        )
    return source


def _search_one(
    source: NodeCollection,
    query: str,
    image: Path | None,
    k: int,
    n: int,
    model: str | None,
    format_: Format,
) -> None:
    from llama_index.core.schema import QueryBundle

    from llama_index_rnx import RNXRerank, RNXRetriever
    from llama_index_rnx.console import SafeConsole
    from llama_index_rnx.results import compare, html_page, print_table

    bundle = QueryBundle(query, image_path=_picture(image))
    reranker = RNXRerank(model=model, top_n=n) if model else None
    section = compare(RNXRetriever(source, top_k=k), reranker, bundle, n)
    if format_ is Format.json:
        print_json([hit.to_dict() for hit in section.after])
    elif format_ is Format.html:
        print_html(html_page([section], title=section.query or "Search by picture"))
    else:
        print_table(section.after, SafeConsole(), title=query or str(image))


def _search_batch(
    source: NodeCollection,
    rows: Sequence[dict[str, Any]],
    run: Path,
    k: int,
    n: int,
    model: str | None,
) -> None:
    from llama_index.core.schema import QueryBundle

    from llama_index_rnx import RNXRerank, RNXRetriever, load_ranker
    from llama_index_rnx.console import progress_bar
    from llama_index_rnx.results import search_many

    bundles = [QueryBundle(row["query"], image_path=row.get("image")) for row in rows]
    reranker = (
        RNXRerank(ranker=load_ranker(model), top_n=k, on_error="keep_order") if model else None
    )
    unseen: list[str] = []
    with _trec_file(run) as write, progress_bar("searching", len(rows), "queries") as advance:
        for row, hits in zip(
            rows, search_many(RNXRetriever(source, top_k=k), reranker, bundles, k), strict=True
        ):
            if isinstance(hits, ImageError):
                unseen.append(f"query {row['qid']}: {hits}")
            else:
                write(row["qid"], _one_a_document(hits)[:n])
            advance(1)
    for line in unseen:
        print_note(f"left out: {line}")
    if reranker is not None and reranker.failures:
        print_note(
            f"{reranker.failures} queries could not be reranked and keep the retriever's order"
        )
    print_note(f"{len(rows)} queries -> {run}")


def _one_a_document(hits: Sequence[Hit]) -> list[tuple[str, float]]:
    """A text file of many passages stands once in a run, where its best passage is."""
    best: dict[str, float] = {}
    for hit in hits:
        best.setdefault(hit.docid, hit.score)
    return list(best.items())


def _batch_of(
    queries: Path | None, run: Path | None, query: str, image: Path | None
) -> list[dict[str, Any]]:
    if queries is None:
        if run is not None:
            raise RNXError("--run needs --queries FILE; a single query prints to the screen.")
        return []
    if query or image is not None:
        raise RNXError("--queries takes the place of QUERY and --image; give one or the other.")
    if run is None:
        raise RNXError("--queries needs --run OUT.trec, the file that the TREC run is written to.")

    from llama_index_rnx.batch import read_queries

    return read_queries(queries)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RNXError(f"--llm-options got {text!r}, which is no JSON ({error}).") from error
    if not isinstance(found, dict):
        raise RNXError(
            f'--llm-options got {text!r}; an object is needed, as in \'{{"model": "..."}}\'.'
        )
    return found


def _picture(path: Path | None) -> str | None:
    if path is not None and not path.is_file():
        raise RNXError(f"{path}: the query picture is not there.")
    return str(path) if path is not None else None


@contextmanager
def _trec_file(path: Path) -> Iterator[Any]:
    """Yields `write(qid, [(docid, score)])`; the file appears whole at the end, or not at all."""
    if path.is_dir():
        raise RNXError(f"{path} is a folder; give --run the name of a file.")

    # /dev/stdout or a pipe is written as it is, and never replaced by a file.
    is_device = path.exists() and not path.is_file()

    with nullcontext(path) if is_device else atomic_write(path) as target:
        try:
            stream = target.open("w", encoding="utf-8", errors="replace")
        except OSError as error:
            raise RNXError(
                f"{path} cannot be written ({error.strerror}); choose another --run."
            ) from error

        with stream:
            yield lambda qid, ranked: stream.writelines(
                run_row(qid, docid, rank, score, TAG)
                for rank, (docid, score) in enumerate(ranked, start=1)
            )


if __name__ == "__main__":
    program()
