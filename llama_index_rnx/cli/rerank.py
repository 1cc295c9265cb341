"""Commands on files of candidate lists: `rnx rerank`, `doctor`, `calibrate`. They know no index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_index_rnx.cli.options import (
    Device,
    Dtype,
    MaxPixels,
    MaxTextTokens,
    MemoryPath,
    Model,
)
from llama_index_rnx.cli.trec_file import open_trec_file
from llama_index_rnx.console import print_note, print_text
from llama_index_rnx.defaults import RANKER_NAME, Windows


def rerank(
    lists: Annotated[
        Path,
        typer.Argument(
            help='Rows {"qid","query","image"?,"candidates":[{"docid","text"?,"image"?,"score"?}]}'
        ),
    ],
    run: Annotated[Path, typer.Option("--run", help="Write a TREC run to this file.")],
    model: Model = RANKER_NAME,
    windows: Annotated[
        Windows, typer.Option(help="How a list longer than the ranker's window is read.")
    ] = "sliding",
    device: Device = None,
    dtype: Dtype = None,
    max_pixels: MaxPixels = None,
    max_text_tokens: MaxTextTokens = None,
    memory_path: MemoryPath = None,
) -> None:
    """Rerank given lists and write a TREC run. Every candidate of every list comes out."""
    from llama_index_rnx import load_ranker
    from llama_index_rnx.batch import rank_lists, read_lists

    rows = read_lists(lists)
    faults: list[str] = []
    with open_trec_file(run) as write:
        ranker = load_ranker(
            model,
            device=device,
            dtype=dtype,
            max_pixels=max_pixels,
            max_text_tokens=max_text_tokens,
        )
        for qid, ranked in rank_lists(rows, ranker, memory_path, faults, windows):
            write(qid, ranked)

    for fault in dict.fromkeys(faults):
        print_note(f"not seen: {fault}")
    print_note(f"{len(rows)} lists -> {run}")


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
    if reason:
        print_text(reason)
        raise typer.Exit(0)

    diagnosis = diagnose_checkpoint(model, lists)
    print_text(diagnosis)
    raise typer.Exit(0 if diagnosis.usable else 1)


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
    """Fit the position bias and, with grades, probabilities. They go into the model's rnx.json."""
    from llama_index_rnx.batch import calibrate as calibrate_model

    calibration, diagnosis = calibrate_model(lists, model, to)
    print_text(f"{calibration}\nWith this calibration, on the same lists:\n{diagnosis}")
