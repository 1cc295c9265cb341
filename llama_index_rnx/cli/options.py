"""The options that several commands of `rnx` share, and what their values stand for. It imports no
model before a command needs one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.system import lasting_imports

if TYPE_CHECKING:
    from llama_index_rnx.collection import NodeCollection

# The heading of these options on a help page.
COMPUTE = "How a ranker computes"

CollectionName = Annotated[str, typer.Option("--collection", help="Name of the Qdrant collection.")]
From = Annotated[
    str, typer.Option("--from", help="The index: a folder, or the URL of a Qdrant server.")
]
Model = Annotated[str, typer.Option(help="The ranker.")]
TopK = Annotated[int, typer.Option("-k", min=1, help="How many the retriever fetches.")]
Run = Annotated[Path | None, typer.Option("--run", help="Write a TREC run to this file.")]

Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=COMPUTE)]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=COMPUTE)
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="Of an image, for a vision-language model.", rich_help_panel=COMPUTE),
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


@contextmanager
def open_index(location: str, name: str) -> Iterator[NodeCollection]:
    """Open the index that `--from` and `--collection` name; close it behind the block.

    Raises:
        SettingsError: no index was given.
        StorageError: there is no index, or it is empty.
        ConnectionFailedError: the server does not answer.
    """
    if not location:
        raise SettingsError("no index was given; add --from DIR_OR_URL.")

    # A folder that is missing shows before seconds are spent on imports.
    is_folder = not location.startswith(("http://", "https://"))
    missing = StorageError(
        f"there is no index in {location}; make one with: rnx index PATH --to {location}"
    )
    if is_folder and not Path(location).expanduser().exists():
        raise missing

    with lasting_imports():
        from llama_index_rnx.collection import NodeCollection, holds_index

    if is_folder and not holds_index(Path(location)):
        raise missing

    collection = NodeCollection(location, name=name)
    try:
        if len(collection) == 0:
            raise StorageError(
                f"the index at {location} is empty (collection {name!r}); "
                f"fill it with: rnx index PATH --to {location}"
            )
        yield collection
    finally:
        collection.close()


def parse_llm_options(text: str) -> dict[str, Any]:
    """Return the JSON object of `--llm-options`.

    Raises:
        SettingsError: the text is no JSON, or no object.
    """
    try:
        options = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"--llm-options got {text!r}, which is no JSON ({error}).") from error
    if not isinstance(options, dict):
        raise SettingsError(
            f'--llm-options got {text!r}; an object is needed, as in \'{{"model": "..."}}\'.'
        )
    return options


def resolve_query_image(path: Path | None) -> str | None:
    """Return the path of `--image` as LlamaIndex takes it.

    Raises:
        SettingsError: there is no such file.
    """
    if path is None:
        return None
    if not path.is_file():
        raise SettingsError(f"{path}: the query image is not there.")
    return str(path)
