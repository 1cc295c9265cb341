"""The documentation says what the package does: its Python runs, its commands, names, links and
figures exist.

A Python block runs where it stands, after those above it on its page, in a folder with a few files
(`manuals/`). A block that needs what no test has (a checkpoint, a server) has `<!-- needs ... -->`
above it: it is compiled, and its names are looked up.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from llama_index.core.llms.mock import MockLLMWithChatMemoryOfLastCall
from PIL import Image
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(
    r"^(?P<mark><!-- needs .*? -->\n)?(?P<fence>`{3,})(?P<kind>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
FIGURE = re.compile(
    r"(?<![\w.])[+-]?\d*\.\d+(?![\w.])|\b\d[\d,.]* (?:%|ms|s|times|seconds|minutes|points)(?!\w)"
)
# Pages that say themselves how it was measured.
MEASURED = [DOCS / name for name in ("scale.md", "reliability.md")]
FIGURES_FROM = (
    "benchmarks/README.md",
    "training/LOG.md",
    "llama_index_rnx/models/rnx-mini/README.md",
    "README.md",
)


class Block(NamedTuple):
    """A fenced block: its kind (python, bash, {include}), its text, and whether it needs what no
    test has.
    """

    kind: str
    text: str
    needs: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["kind"].strip(), found["text"], bool(found["mark"]))
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its blocks, code and links' targets."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def with_python(needs: bool) -> list[Path]:
    return [
        page
        for page in PAGES
        if any(one.kind == "python" and one.needs == needs for one in blocks(page))
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_loop: None) -> Path:
    """A reader's folder, with the files that the pages speak of."""
    manuals = tmp_path / "manuals"
    manuals.mkdir()
    Image.new("RGB", (64, 64), "steelblue").save(manuals / "pump.png")
    (manuals / "pump.md").write_text(
        "# The pump\n\nThe pump starts at 3 bar and stops at 5 bar.\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", with_python(needs=False), ids=name_of)
def test_the_python_of_a_page_runs(
    page: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scope: dict[str, Any] = {
        "__name__": "__main__",
        "llm": MockLLMWithChatMemoryOfLastCall(is_chat_model=True),
    }
    for block in blocks(page):
        if block.kind == "python" and not block.needs:
            exec(compile(block.text, name_of(page), "exec"), scope)
    for opened in scope.values():
        if hasattr(opened, "close") and hasattr(opened, "memories"):
            opened.close()


@pytest.mark.parametrize("page", with_python(needs=True), ids=name_of)
def test_the_names_of_python_that_cannot_run_here_exist(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "python" and block.needs:
            assert list(unknown_names(ast.parse(block.text))) == []


def unknown_names(tree: ast.AST) -> Iterator[str]:
    """What is imported from the package and is not there, and keywords that what is called does not
    take.
    """
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llama_index_rnx"):
            module = importlib.import_module(str(node.module))
            yield from (alias.name for alias in node.names if not hasattr(module, alias.name))
            known |= {alias.name: getattr(module, alias.name, None) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            allowed = keywords(known[node.func.id])
            yield from (
                f"{node.func.id}({one.arg}=)" for one in node.keywords if one.arg not in allowed
            )


def keywords(called: Any) -> set[str]:
    """What may be given by name; `load_ranker` passes the options of a vision-language model on."""
    from llama_index_rnx.rankers.vlm import load_vlm

    if isinstance(called, type) and issubclass(called, BaseModel):
        return set(called.model_fields)
    further = (
        inspect.signature(load_vlm).parameters
        if getattr(called, "__name__", "") == "load_ranker"
        else {}
    )
    return {*inspect.signature(called).parameters, *further}


def test_a_wrong_name_would_be_found() -> None:
    tree = ast.parse(
        "from llama_index_rnx import RNXRerank, Nothing\nRNXRerank(modle='x', top_n=3)"
    )
    assert list(unknown_names(tree)) == ["Nothing", "RNXRerank(modle=)"]


@pytest.fixture(scope="module")
def commands() -> Any:
    """`docs/building/commands.py`, without Sphinx's own part."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("building.commands")
    finally:
        sys.path.remove(str(DOCS))


def spoken_commands(text: str) -> Iterator[list[str]]:
    """`rnx index ... --to X` as it stands in a block or in the prose: the words from `rnx` on."""
    text = text.replace("\\\n", " ")  # a line that goes on in the next
    spoken = re.findall(r"^\s*(?:\$ )?rnx ([^\n#]*)", text, re.MULTILINE) + re.findall(
        r"`rnx ([^`]*)`", text
    )
    yield from (words.replace("\\", " ").split() for words in spoken)


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "README.md", ROOT / "training" / "README.md"],
    ids=lambda page: page.name,
)
def test_every_command_and_option_exists(page: Path, commands: Any) -> None:
    known = commands.commands()
    for words in spoken_commands(page.read_text(encoding="utf-8")):
        if not words or words[0] in ("COMMAND", "--help"):
            continue
        assert words[0] in known, words
        options = {
            word.split("=")[0] for word in words[1:] if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)
        }
        assert options - commands.options_of(known[words[0]]) == set(), words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_inside_the_documentation_resolves(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:|source:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Of the headings of a page and of what it includes."""
    included = [
        page.parent / one.kind.split()[1]
        for one in blocks(page)
        if one.kind.startswith("{include}")
    ]
    texts = [path.read_text(encoding="utf-8") for path in (page, *included)]
    headings = (
        heading for text in texts for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    )
    return {
        re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", [page for page in PAGES if page not in MEASURED], ids=name_of)
def test_every_figure_stands_in_a_source_that_says_how_it_was_measured(page: Path) -> None:
    kept = [*(ROOT / name for name in FIGURES_FROM), *(path for path in MEASURED if path.exists())]
    sources = " ".join(path.read_text(encoding="utf-8") for path in kept)
    package = " ".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "llama_index_rnx").rglob("*.py")
    )
    quoted = {
        figure
        for figure in FIGURE.findall(prose(page))
        if not re.fullmatch(r"\d{4}\.\d{4,5}", figure)
    }
    assert {figure for figure in quoted if figure not in sources and figure not in package} == set()


def test_what_a_page_includes_exists_and_has_its_marks() -> None:
    for page in PAGES:
        for one in blocks(page):
            if one.kind.startswith(("{include}", "{literalinclude}")):
                source = (page.parent / one.kind.split(maxsplit=1)[1]).read_text(encoding="utf-8")
                marks = re.findall(
                    r":(?:start|end)-(?:after|before|at): \"?(.*?)\"?$", one.text, re.MULTILINE
                )
                assert [mark for mark in marks if mark not in source] == [], name_of(page)


def test_the_command_line_page_names_every_option(commands: Any) -> None:
    found = {
        name: commands.described(name, command) for name, command in commands.commands().items()
    }
    assert {"index", "search", "rerank", "serve", "demo"} <= set(found)
    assert "`-k`" in found["search"]
    assert "`--rerank` / `--no-rerank`" in found["search"]
    assert "One of `table`, `json`, `html`." in found["search"]
    assert "`RNX_SERVER_KEY`" in found["serve"]
