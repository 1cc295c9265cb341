"""Executes the notebooks in fresh kernels, as a reader would, and says what is wrong. It knows
nothing of what they show.

    python notebooks/execute.py                    # all: each runs, and is what its source says
    python notebooks/execute.py --write 03 04      # these, and their outputs are kept in the .ipynb
    python notebooks/execute.py --words 03         # only words changed: the outputs stay

A notebook is written as NAME.py (jupytext, percent format); NAME.ipynb is made of it and is never
edited.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SECONDS = 900  # a cell that hangs ends; a whole notebook takes some twenty seconds
LARGEST = 600_000  # bytes of an .ipynb
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}
QUIET = {  # offline, without bars, and without the hint that tqdm would be prettier with ipywidgets
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore:IProgress",
    "PYTHONPATH": os.pathsep.join(
        [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]
    ),  # training/ lies beside the package
}
ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|Users|opt|var)/[\w.-]+")


def sources(named: Sequence[str]) -> list[Path]:
    """The sources whose names begin so; without names all of them."""
    found = sorted(
        path for path in FOLDER.glob("[0-9]*.py") if not named or path.name.startswith(tuple(named))
    )
    if not found:
        raise SystemExit(f"no notebook in {FOLDER.name}/ begins with {' or '.join(named)}")
    return found


def notebook_of(source: Path) -> NotebookNode:
    """The notebook of a source, without outputs; the same at every call."""
    book = jupytext.read(source)
    book.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"{source.stem[:2]}-{number}", nbformat.from_dict({})
    return book


def unpaired(source: Path) -> list[str]:
    """Why a committed notebook is not that of its source."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return [
            f"{path.name} is not there; make it with: "
            f"python notebooks/execute.py --write {source.stem}"
        ]
    kept, wanted = nbformat.read(path, as_version=4), notebook_of(source)
    same = [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in wanted.cells
    ]
    advice = f"run: python notebooks/execute.py --write {source.stem}"
    wrong = [] if same else [f"{path.name} is not what {source.name} says; {advice}"]
    return wrong + untidy(kept, path.name, path.stat().st_size)


def untidy(book: NotebookNode, name: str, size: int) -> list[str]:
    """What no reader should see: errors, warnings, paths of somebody's machine, megabytes."""
    wrong = (
        [f"{name} has {size:,} bytes; {LARGEST:,} are allowed: show smaller pictures"]
        if size > LARGEST
        else []
    )
    for number, cell in enumerate(book.cells):
        for output in cell.get("outputs", []):
            written = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            if output.output_type == "error" or output.get("name") == "stderr":
                wrong.append(
                    f"{name}, cell {number}: wrote on stderr: "
                    f"{(written or output.get('evalue', ''))[:300]}"
                )
            elif found := ABSOLUTE.search(written):
                wrong.append(f"{name}, cell {number}: shows a path of this machine: {found[0]}")
    return wrong


def executed(source: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh kernel.

    Raises:
        CellExecutionError: a cell raised.
    """
    book = notebook_of(source)
    place = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(
        book,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources=place,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=os.environ | QUIET)
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({})
    return book


def reworded(source: Path) -> list[str]:
    """Writes the .ipynb with the new words and the outputs that it has; what is wrong where its
    code changed, too.
    """
    path = source.with_suffix(".ipynb")
    kept = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    book = notebook_of(source)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    if [cell.source for cell in code] != [cell.source for cell in kept]:
        return [
            f"{source.name}: its code changed, too; "
            f"run: python notebooks/execute.py --write {source.stem}"
        ]
    for cell, old in zip(code, kept, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    path.write_text(nbformat.writes(book, version=4) + "\n", encoding="utf-8")
    return []


def run(source: Path, write: bool) -> list[str]:
    """Executes one notebook; what is wrong with it."""
    wrong = [] if write else unpaired(source)
    start = time.perf_counter()
    try:
        book = executed(source)
    except CellExecutionError as error:
        return [*wrong, f"{source.name}: a cell failed\n{error}"]
    text = nbformat.writes(book, version=4)
    wrong += untidy(book, f"{source.stem} as executed", len(text.encode()))
    if write and not wrong:
        source.with_suffix(".ipynb").write_text(text + "\n", encoding="utf-8")
    print(
        f"{source.stem}: {time.perf_counter() - start:.1f} s, {len(text) / 1e3:.0f} kB", flush=True
    )
    return wrong


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of names: 01, 03_coop ...")
    parser.add_argument("--write", action="store_true", help="keep the outputs in the .ipynb")
    parser.add_argument("--words", action="store_true", help="execute nothing: only words changed")
    asked = parser.parse_args()
    found = sources(asked.names)
    wrong = [
        line
        for source in found
        for line in (reworded(source) if asked.words else run(source, asked.write))
    ]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
