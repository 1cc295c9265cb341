"""What the README and the docstrings show runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.llms.mock import MockLLMWithChatMemoryOfLastCall
from PIL import Image

README = Path(__file__).parents[2] / "README.md"
PACKAGE = README.parent / "llama_index_rnx"


@pytest.mark.usefixtures("own_loop")
def test_the_ten_lines_of_the_readme_answer_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "steelblue").save("pump.png")
    (block,) = [
        found
        for found in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "engine" in found
    ]
    llm = MockLLMWithChatMemoryOfLastCall(is_chat_model=True)
    scope: dict[str, object] = {"llm": llm}
    exec(compile(block, "README.md", "exec"), scope)
    assert len(scope["collection"]) == 2  # type: ignore[arg-type]
    answer = scope["engine"].query("At which pressure does the pump start?")  # type: ignore[attr-defined]
    assert {type(hit.node).__name__ for hit in answer.source_nodes} == {"TextNode", "ImageNode"}
    blocks = [block for message in llm.last_chat_messages or [] for block in message.blocks]
    assert any("3 bar" in getattr(block, "text", "") for block in blocks)
    assert any(isinstance(block, ImageBlock) for block in blocks)
    scope["collection"].close()  # type: ignore[attr-defined]


def test_every_file_that_the_readme_names_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def modules_with_examples() -> list[str]:
    files = (
        path for path in sorted(PACKAGE.rglob("*.py")) if ">>>" in path.read_text(encoding="utf-8")
    )
    return [
        path.relative_to(PACKAGE.parent)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__init__")
        for path in files
    ]


@pytest.mark.parametrize("module", modules_with_examples())
@pytest.mark.usefixtures("own_loop")
def test_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
