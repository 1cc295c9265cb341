"""What stands around the code: workflows, forms, links of the root's pages, faces, the version."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import llama_index_rnx
from llama_index_rnx.moved import RENAMED

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/PULL_REQUEST_TEMPLATE.md"]
FACES = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for folder in ("llama_index_rnx", "training")
    for path in sorted((ROOT / folder).rglob("*/__init__.py"))
]


def loaded(path: Path) -> Any:
    """Return a YAML file as Python has it (`on:` becomes True)."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted((GITHUB / "workflows").glob("*.yml")), ids=lambda p: p.stem)
def test_a_workflow_calls_make_and_nothing_else(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    jobs = loaded(path)["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    assert commands
    assert [
        command for command in commands if command not in {f"make {name}" for name in targets}
    ] == []


def test_a_workflow_may_do_no_more_than_it_needs() -> None:
    for path in (GITHUB / "workflows").glob("*.yml"):
        assert loaded(path)["permissions"] == {"contents": "read"}, path


@pytest.mark.parametrize("name", ["bug", "feature", "model-request"])
def test_an_issue_form_asks_something(name: str) -> None:
    form = loaded(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert any(field.get("validations", {}).get("required") for field in form["body"])


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_at_the_root_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_version_is_the_same_wherever_it_is_said() -> None:
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["version"] == llama_index_rnx.__version__
    assert f"## {llama_index_rnx.__version__}" in (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("face", FACES)
def test_a_face_has_every_name_that_it_lists(face: str) -> None:
    room = importlib.import_module(face)
    assert [name for name in room.__all__ if not hasattr(room, name)] == []


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("files", "index_paths"),
        ("serve", "create_app"),
        ("extract", "ExtractiveSynthesizer"),
        ("bm25", "document_vector"),
        ("rankers.tiny", "save_tiny"),
        ("display", "compare"),
        ("storage", "Storage"),
    ],
)
def test_an_old_name_of_a_module_works_and_says_the_new_one(
    old: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"llama_index_rnx.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=rf"llama_index_rnx\.{old} has moved"):
        module = importlib.import_module(f"llama_index_rnx.{old}")
    assert callable(getattr(module, name))


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("chat", "Found", "chat.RetrievedEvent"),
        ("chat", "Said", "chat.TextEvent"),
        ("rankers", "Ranker", "ranking.Ranker"),
        ("rankers", "recall", "ranking.get_or_compute_memories"),
        ("rerank", "rank", "ranking.rank"),
        ("ordering", "drive", "ranking.run_plan"),
        ("ordering", "parallel", "ranking.parallel_windows"),
        ("ordering", "sliding", "ranking.sliding_windows"),
        ("checkup", "examine", "batch.diagnose_checkpoint"),
        ("demo_corpus", "PICTURE_QUERY", "demo.IMAGE_QUERY"),
    ],
)
def test_an_old_name_of_a_function_works_and_says_the_new_one(
    module: str, name: str, new: str
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = getattr(importlib.import_module(f"llama_index_rnx.{module}"), name)
    assert f"llama_index_rnx.{new} now" in str(caught[-1].message)
    room, new_name = new.split(".")
    assert value is getattr(importlib.import_module(f"llama_index_rnx.{room}"), new_name)


@pytest.mark.parametrize("module", ["chat", "rankers", "rerank", "ordering"])
@pytest.mark.filterwarnings("ignore:.* has moved:DeprecationWarning")
def test_a_name_that_never_was_is_none(module: str) -> None:
    room = importlib.import_module(f"llama_index_rnx.{module}")
    with pytest.raises(AttributeError):
        room.nothing  # noqa: B018


def test_every_old_name_leads_somewhere() -> None:
    for room, name in RENAMED.values():
        assert hasattr(importlib.import_module(f"llama_index_rnx.{room}"), name)


def test_what_never_was_a_module_is_none() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("llama_index_rnx.nothing")


def test_the_package_alone_brings_no_pytorch() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    names = {re.split(r"[^\w.-]", each)[0] for each in project["dependencies"]}
    assert {"onnxruntime", "tokenizers"} <= names
    assert not names & {"torch", "transformers", "accelerate", "sentence-transformers"}
