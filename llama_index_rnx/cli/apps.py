"""Commands that people or programs talk to: `rnx serve`, `chat`, `ui`, `demo`. They know neither
HTTP nor a model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from llama_index_rnx.cli.options import (
    CollectionName,
    Device,
    Dtype,
    From,
    MaxPixels,
    MaxTextTokens,
    MemoryPath,
    Model,
    TopK,
    open_index,
    parse_llm_options,
)
from llama_index_rnx.console import print_note
from llama_index_rnx.defaults import COLLECTION_NAME, RANKER_NAME, TOP_K, TOP_N
from llama_index_rnx.errors import RNXError, SettingsError
from llama_index_rnx.server import Limits
from llama_index_rnx.ui import MAX_UPLOAD_BYTES

SERVER_KEY = "RNX_SERVER_KEY"
SERVER_PORT = 8787
PAGE_PORT = 8788
MAX_SOURCES = 20  # of an answer on the page
MIB = 2**20
CHARACTERS_PER_TOKEN = 8  # at most, nearly always

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
    typer.Option(help="Show the language model the images, too; it must be able to see."),
]


def serve(
    model: Model = RANKER_NAME,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="The port to listen on.")
    ] = SERVER_PORT,
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
    max_body: Annotated[int, typer.Option(min=1, help="MiB of one request.")] = Limits.body // MIB,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Requests at work or waiting; one more is sent away.")
    ] = Limits.at_once,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="For one request, waiting included.")
    ] = Limits.seconds,
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
        from llama_index_rnx.server import create_app, run_server
    except ImportError as error:
        raise _missing_extra(error, "serve") from error

    if api_key is None and not is_loopback(host):
        print_note(
            f"warning: without a key anybody who reaches {host} may ask; "
            f"set {SERVER_KEY} or --api-key."
        )

    text = max(Limits.text, CHARACTERS_PER_TOKEN * (max_text_tokens or 0))
    limits = Limits(body=max_body * MIB, at_once=max_waiting, seconds=max_seconds, text=text)

    # Load the ranker and open the store before anything is served: a fault in either is one line.
    ranker = load_ranker(
        model, device=device, dtype=dtype, max_pixels=max_pixels, max_text_tokens=max_text_tokens
    )
    store = MemoryStore(memory_path)
    application = create_app(
        lambda: ranker,
        limits=limits,
        api_key=api_key,
        allow_urls=allow_urls,
        store=store,
        cors_origins=cors_origin or (),
        loopback_only=api_key is None and is_loopback(host),
    )
    run_server(application, host, port)


def _refuse_empty_key(api_key: str | None) -> None:
    """Refuse a key that is set and empty: a secret that a compose file does not define must not
    start an open server. typer takes an empty variable for none at all.
    """
    is_set = api_key is not None or SERVER_KEY in os.environ
    if is_set and not (api_key or "").strip():
        raise SettingsError(
            "the API key is empty, so anybody could come in; "
            f"give {SERVER_KEY} or --api-key a value, or unset {SERVER_KEY} to ask for no key."
        )


def _missing_extra(error: ImportError, command: str) -> RNXError:
    """Return the line about an optional package that a command needs."""
    return SettingsError(
        f"rnx {command} needs {error.name}; "
        f"install it with: pip install 'llama-index-rnx[{command}]'"
    )


def chat(
    from_: From = "",
    llm: Llm = "extract",
    llm_options: LlmOptions = "{}",
    images: Images = None,
    k: TopK = TOP_K,
    n: Annotated[int, typer.Option("-n", min=1, help="How many sources an answer has.")] = TOP_N,
    model: Model = RANKER_NAME,
    collection: CollectionName = COLLECTION_NAME,
) -> None:
    """Ask an index in the terminal, with follow-up questions. The sources stand under each
    answer.
    """
    options = parse_llm_options(llm_options)
    with open_index(from_, collection) as index:
        from llama_index_rnx.chat import conversations
        from llama_index_rnx.cli.terminal import run_terminal

        new_engine = conversations(
            index, model=model, llm=llm, options=options, images=images, k=k, n=n
        )
        run_terminal(new_engine())


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
    k: TopK = TOP_K,
    n: Annotated[
        int, typer.Option("-n", min=1, max=MAX_SOURCES, help="How many sources an answer has.")
    ] = TOP_N,
    model: Model = RANKER_NAME,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="The port of the page; 0 for any that is free.")
    ] = PAGE_PORT,
    max_upload: Annotated[int, typer.Option(min=1, help="MiB of one file.")] = (
        MAX_UPLOAD_BYTES // MIB
    ),
    collection: CollectionName = COLLECTION_NAME,
) -> None:
    """Open a page in the browser, for this machine only. Ask an index, see pages beside the answer,
    add PDFs and images.
    """
    options = parse_llm_options(llm_options)
    try:
        from llama_index_rnx.ui import open_library, run_page
    except ImportError as error:
        raise _missing_extra(error, "ui") from error
    from llama_index_rnx.chat import conversations

    label = from_ or "temporary: gone when this ends, --from FOLDER keeps it"
    with open_library(from_, collection, max_upload * MIB) as (index, library):
        new_engine = conversations(
            index, model=model, llm=llm, options=options, images=images, k=k, n=n
        )
        run_page(
            index,
            library,
            new_engine,
            port,
            on_ready=lambda url: print_note(f"{url}  (index: {label}; Ctrl-C ends)"),
        )


def demo(
    folder: Annotated[Path, typer.Option(help="Where corpus, index and page go.")] = Path("demo"),
) -> None:
    """Run the main job on a small corpus, from nothing. It indexes, retrieves, reranks and
    shows.
    """
    from llama_index_rnx.demo import run_demo

    run_demo(folder)
