"""The committed notebooks are those of their sources and show nothing untidy; that they run is
`make notebooks`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

sys.path.append(str(Path(__file__).parents[2] / "notebooks"))
import execute

SOURCE = "# %% [markdown]\n# # A title\n\n# %%\n1 + 1\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source with its notebook."""
    path = tmp_path / "07_more.py"
    path.write_text(SOURCE)
    nbformat.write(execute.notebook_of(path), path.with_suffix(".ipynb"))
    return path


@pytest.mark.parametrize("path", execute.sources([]), ids=lambda path: path.stem)
def test_committed_notebooks(path: Path) -> None:
    assert execute.unpaired(path) == []


def test_all_of_them_are_small() -> None:
    assert sum(path.stat().st_size for path in execute.FOLDER.glob("*.ipynb")) < 2_500_000


def test_a_changed_source_is_noticed(source: Path) -> None:
    assert execute.unpaired(source) == []
    source.write_text(SOURCE.replace("1 + 1", "1 + 2"))
    (wrong,) = execute.unpaired(source)
    assert "--write 07_more" in wrong
    source.with_suffix(".ipynb").unlink()
    (wrong,) = execute.unpaired(source)
    assert "is not there" in wrong


def test_new_words_keep_the_outputs_and_new_code_does_not(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    book = nbformat.read(path, as_version=4)
    book.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="2")]
    nbformat.write(book, path)
    source.write_text(SOURCE.replace("A title", "Another title"))
    assert execute.reworded(source) == []
    assert execute.unpaired(source) == []
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "2"
    source.write_text(SOURCE.replace("1 + 1", "1 + 2"))
    (wrong,) = execute.reworded(source)
    assert "its code changed" in wrong


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (nbformat.v4.new_output("stream", name="stderr", text="UserWarning: no"), "UserWarning"),
        (
            nbformat.v4.new_output("error", ename="ValueError", evalue="so not", traceback=[]),
            "so not",
        ),
        (
            nbformat.v4.new_output("stream", name="stdout", text="written to /home/me/index"),
            "/home/me",
        ),
        (
            nbformat.v4.new_output("execute_result", data={"text/plain": "'/tmp/a.png'"}),
            "/tmp/a.png",
        ),
    ],
)
def test_untidy_outputs_are_named(source: Path, output: nbformat.NotebookNode, said: str) -> None:
    book = execute.notebook_of(source)
    book.cells[1].outputs = [output]
    (wrong,) = execute.untidy(book, "07", 100)
    assert "cell 1" in wrong
    assert said in wrong


def test_tidy_outputs_pass(source: Path) -> None:
    book = execute.notebook_of(source)
    book.cells[1].outputs = [
        nbformat.v4.new_output(
            "stream", name="stdout", text="POST http://localhost:80/rerank, 1/usr 3 and/or"
        )
    ]
    assert execute.untidy(book, "07", 100) == []
    assert len(execute.untidy(book, "07", 10**7)) == 1
