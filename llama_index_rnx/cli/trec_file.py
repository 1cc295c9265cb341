"""Writes the TREC run of `--run`, whole or not at all. It knows no ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from llama_index_rnx.batch import run_row
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.system import atomic_write

TAG = "rnx"  # the name of the system, in the last column of a run

WriteQuery = Callable[[str, Sequence[tuple[str, float]]], None]


@contextmanager
def open_trec_file(path: Path) -> Iterator[WriteQuery]:
    """Yield `write(qid, [(docid, score)])`, which takes the candidates best first. The file appears
    whole at the end of the block, or not at all.

    Raises:
        SettingsError: the path is a folder, or cannot be written.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; give --run the name of a file.")

    # /dev/stdout or a pipe is written as it is, and never replaced by a file.
    is_device = path.exists() and not path.is_file()

    with nullcontext(path) if is_device else atomic_write(path) as target:
        try:
            stream = target.open("w", encoding="utf-8", errors="replace")
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written ({error.strerror}); choose another --run."
            ) from error

        def write(qid: str, candidates: Sequence[tuple[str, float]]) -> None:
            for rank, (docid, score) in enumerate(candidates, start=1):
                stream.write(run_row(qid, docid, rank, score, TAG))

        with stream:
            yield write
