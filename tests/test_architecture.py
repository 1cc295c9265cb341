"""Who may import what. The rules of the design, read off the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llama_index_rnx"
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file names, wherever in it, dotted."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def importers(*packages: str) -> set[str]:
    """The files of the package that import one of these, as paths inside it."""
    return {
        path.relative_to(PACKAGE).as_posix() for path in FILES if any(name.split(".")[0] in packages for name in imports(path))
    }


def test_the_package_is_there() -> None:
    assert {"rerank.py", "retrieve.py", "embed.py", "ordering.py"} <= {path.name for path in FILES}
    assert (PACKAGE / "py.typed").is_file()


def test_only_candidates_opens_images_and_pdfs() -> None:
    allowed = {
        "candidates.py",
        "pdf/__init__.py",
        "report.py",
        "demo.py",
        "demo_corpus.py",
        "explain.py",
        "rankers/mini/image.py",
    }
    assert importers("pypdfium2", "pypdfium2_raw") <= {"pdf/child.py"}
    readers = {path for path in importers("PIL") if "Image.open" in (PACKAGE / path).read_text(encoding="utf-8")}
    assert readers == {"candidates.py"}
    assert importers("PIL") <= allowed, "a type or a drawing at most; nothing else may touch pictures"


def test_values_paths_and_filters_know_no_collection() -> None:
    allowed = {"metadata.py": {"errors"}, "paths.py": {"metadata"}, "filters.py": {"errors", "metadata", "paths"}}
    for name, rooms in allowed.items():
        ours = {found.split(".")[1] for found in imports(PACKAGE / name) if found.startswith("llama_index_rnx.")}
        assert ours == rooms, name


def test_who_reaches_into_the_network() -> None:
    assert importers("httpx") == {"fetch.py", "rankers/remote.py", "qdrant.py", "proxies.py"}
    servers = {"serve.py", "server/connections.py", "shutdown.py", "ui/__init__.py", "ui/app.py"}
    assert importers("fastapi", "uvicorn", "prometheus_client") == servers


def test_only_the_collection_and_its_line_know_qdrant() -> None:
    assert importers("qdrant_client") == {"collection.py", "filters.py", "qdrant.py", "pickles.py", "readonly.py"}
    assert importers("grpc") == {"qdrant.py"}


PURE = {"ordering", "bm25", "errors", "progress", "sanitize", "streams", "console", "trec", "help_pages"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_files_know_no_model_no_framework_and_only_one_another(name: str) -> None:
    heavy = {"torch", "transformers", "llama_index", "PIL", "qdrant_client", "tokenizers", "safetensors", "httpx"}
    names = imports(PACKAGE / f"{name}.py")
    assert not {found.split(".")[0] for found in names} & heavy
    assert {found.split(".")[1] for found in names if found.startswith("llama_index_rnx.")} <= PURE


def calls(path: Path) -> set[str]:
    """The plain names that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in functions if isinstance(function, ast.Name)}


def test_all_that_goes_to_a_terminal_leaves_by_an_exit_that_cleans_it() -> None:
    printing = {path.name for path in FILES if calls(path) & {"print", "Console", "echo", "secho"}}
    assert printing == {"streams.py"}
    assert importers("click") == set()


def test_the_package_never_imports_training_tests_or_benchmarks() -> None:
    assert importers("training", "tests", "benchmarks", "notebooks", "fakes") == set()


def test_nobody_imports_requests() -> None:
    assert importers("requests", "urllib3", "aiohttp") == set()


def test_memory_knows_no_ranker_and_no_node() -> None:
    names = imports(PACKAGE / "memory.py")
    assert {name for name in names if name.startswith("llama_index")} <= {
        "llama_index_rnx.blobs",
        *(f"llama_index_rnx.blobs.{name}" for name in ("FILE_NAME", "Blobs", "blobs_at")),
    }
    assert importers("fsspec") == {"blobs.py"}


def test_rankers_know_no_nodes_and_no_collection() -> None:
    for path in (PACKAGE / "rankers").rglob("*.py"):
        names = imports(path)
        assert not {name for name in names if name.split(".")[0] == "llama_index"}, path
        assert not {n for n in names if n.startswith(("llama_index_rnx.collection", "llama_index_rnx.rerank"))}, path


def test_files_and_the_command_line_know_no_model() -> None:
    for name in ("files.py", "cli.py", "hits.py"):
        assert not {found.split(".")[0] for found in imports(PACKAGE / name)} & {"torch", "transformers", "tokenizers"}, name


def test_every_file_says_in_its_first_line_what_it_does() -> None:
    for path in FILES:
        line = path.read_text(encoding="utf-8").splitlines()[0]
        assert line.startswith('"""'), path
        assert len(line) > 20, path


def test_no_exception_is_swallowed_bare() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"
                assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), f"{path}:{node.lineno}: except: pass"
