"""What a start must not pay for: modules that are imported only when something needs them."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import RED, write_image

import llama_index_rnx

# Each of these takes a tenth of a second at least, most of them seconds.
HEAVY = {
    "torch", "transformers", "llama_index", "qdrant_client", "numpy", "PIL", "pypdfium2",
    "tokenizers", "safetensors", "httpx", "grpc", "fsspec", "fastapi", "uvicorn", "matplotlib",
    "scipy", "sympy", "pandas", "sqlalchemy", "nltk", "requests",
}  # fmt: skip

# What a help page does not need either: together they take longer than typer itself.
HELP_HEAVY = HEAVY | {"rich", "pydantic"}

# What indexing, searching and reranking with rnx-mini does not need: onnxruntime runs it.
MINI_HEAVY = {
    "torch", "transformers", "sympy", "scipy", "matplotlib", "pandas", "nltk", "accelerate",
    "fastapi", "uvicorn",
}  # fmt: skip

COMMANDS = ["index", "search", "rerank", "serve", "chat", "ui", "doctor", "calibrate", "demo"]
CALLS = [[], ["--help"], *([command, "--help"] for command in COMMANDS)]
MISTAKES = [["dance"], ["search", "--nonsense"], ["--nonsense"]]

RUN_MAIN = """
import contextlib, io, json, sys
from llama_index_rnx.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["rnx", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with contextlib.suppress(SystemExit):
            main()
"""


def modules_after(program: str, *arguments: str) -> set[str]:
    """The modules that a new Python has imported after a program."""
    program += "\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = modules_after("import llama_index_rnx")
    assert "llama_index_rnx" in modules
    assert modules & HEAVY == set()


def test_no_help_page_and_no_mistyped_command_imports_anything_heavy() -> None:
    modules = modules_after(RUN_MAIN, json.dumps(CALLS + MISTAKES))
    assert "llama_index_rnx.cli" in modules
    assert modules & HELP_HEAVY == set()


def test_all_commands_are_tried_above() -> None:
    from llama_index_rnx.cli import app

    names = [
        info.name or info.callback.__name__ for info in app.registered_commands if info.callback
    ]
    assert set(names) == set(COMMANDS)


@pytest.mark.parametrize("missing", ["", "nowhere"])
def test_a_search_in_no_index_imports_nothing_heavy(missing: str) -> None:
    modules = modules_after(RUN_MAIN, json.dumps([["search", "honey", "--from", missing]]))
    assert modules & HEAVY == set()


def test_a_search_with_rnx_mini_imports_no_more_than_it_uses() -> None:
    modules = modules_after(
        "from llama_index.core.schema import TextNode\n"
        "from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever\n"
        "from llama_index_rnx.cli import app\n"
        "from llama_index_rnx.results import compare\n"
        "collection = NodeCollection(':memory:')\n"
        "collection.add([TextNode(text='Bees make honey.')], show_progress=False)\n"
        "compare(RNXRetriever(collection), RNXRerank(), 'honey')"
    )
    assert "llama_index_rnx.rankers.mini.ranker" in modules
    assert modules & MINI_HEAVY == set()


def test_the_command_line_with_rnx_mini_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    index = str(tmp_path / "index")
    text, image = tmp_path / "text.txt", write_image(tmp_path / "image.png", RED)
    text.write_text("Bees make honey.", encoding="utf-8")
    lists = tmp_path / "lists.jsonl"
    row = {"qid": "1", "query": "honey", "candidates": [{"docid": "a", "text": "Bees make honey."}]}
    lists.write_text(json.dumps(row), encoding="utf-8")

    calls = [
        ["index", str(text), str(image), "--to", index],
        ["search", "honey", "--from", index],
        ["search", "--image", str(image), "--from", index, "--format", "html"],
        ["rerank", str(lists), "--run", str(tmp_path / "run.trec")],
    ]
    modules = modules_after(RUN_MAIN, json.dumps(calls))
    assert (tmp_path / "run.trec").read_text(encoding="utf-8").startswith("1 Q0 a 1 ")
    assert "onnxruntime" in modules
    assert modules & MINI_HEAVY == set()


# A `None` among the imported modules is Python's own way of saying that there is no such module.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index_rnx import NodeCollection, RNXError, RNXRerank, RNXRetriever, load_ranker
from llama_index_rnx.chat import chat_engine
from llama_index_rnx.chat.llms import load_llm
from llama_index_rnx.server import serving
"""

WITH_RNX_MINI = """
texts = "Bees make honey.", "Rust is iron oxide."
collection = NodeCollection(":memory:")
collection.add([TextNode(text=text) for text in texts], show_progress=False)
retriever, reranker = RNXRetriever(collection), RNXRerank()
assert "honey" in str(chat_engine(retriever, reranker).chat("What do bees make?"))
with serving(load_ranker()) as url:
    remote = RNXRerank(model=url)
    for each in (reranker, remote):
        best = each.postprocess_nodes(retriever.retrieve("honey"), query_str="What is rust?")[0]
        assert best.text == texts[1]
reranker.unload()
"""

NODES = "[NodeWithScore(node=TextNode(text='a'))]"
INSTALL_TORCH = (
    "a vision-language model needs torch, which is not installed; install it with: "
    "pip install 'llama-index-rnx[vlm]'"
)


def test_all_but_vision_language_models_works_where_torch_is_not_installed() -> None:
    assert "llama_index_rnx.server.app" in modules_after(WITHOUT_TORCH + WITH_RNX_MINI)


@pytest.mark.parametrize(
    "call",
    [
        "load_ranker('somebody/a-model')",
        f"RNXRerank(model='somebody/a-model').postprocess_nodes({NODES}, query_str='q')",
        "from llama_index_rnx.batch import diagnose_checkpoint",
        "load_llm('ranker', ranker=load_ranker)",
    ],
)
def test_a_vision_language_model_without_torch_is_one_line(call: str) -> None:
    program = f"""
try:
    {call}
except RNXError as error:
    assert str(error) == {INSTALL_TORCH!r}, error
else:
    raise AssertionError("no error")
"""
    modules_after(WITHOUT_TORCH + program)


# The floors below the models, which serve rankers of any framework.
BELOW_MODELS = ["memory", "candidates", "ranking", "validation", "network", "pdf"]

RANK_WITHOUT_TORCH = """
import numpy as np
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.memory import RAM, MemoryStore
from llama_index_rnx.ranking import rank, release_memory, with_dynamic_batching

class Lengths:
    name, fingerprint, window, framework, max_concurrency = "lengths", "lengths/1", 20, "np", 2
    def remember(self, candidates):
        return [{"length": np.array([len(each.text)])} for each in candidates]
    def score(self, query, memories):
        return [float(memory["length"][0]) for memory in memories]

ranker = with_dynamic_batching(Lengths())
candidates = [Candidate(id=str(length), text="a" * length) for length in (3, 9, 1)]
for _ in range(2):
    RAM.clear()
    with_store = rank(ranker, MemoryStore(sys.argv[1]), Query(text="q"), candidates)
    assert with_store.order == [1, 0, 2]
release_memory()
"""


def test_the_floors_below_the_models_import_no_torch() -> None:
    names = ", ".join(f"llama_index_rnx.{room}" for room in BELOW_MODELS)
    modules = modules_after(f"import {names}")
    assert {f"llama_index_rnx.{room}" for room in BELOW_MODELS} <= modules
    assert modules & {"torch", "transformers"} == set()


def test_a_ranker_of_numpy_ranks_and_is_remembered_without_torch(tmp_path: Path) -> None:
    modules = modules_after(f"import sys\n{RANK_WITHOUT_TORCH}", str(tmp_path))
    assert "llama_index_rnx.memory.sqlite_backend" in modules
    assert modules & {"torch", "transformers"} == set()


def test_every_public_name_is_there_on_first_use() -> None:
    names: dict[str, object] = {}
    exec("from llama_index_rnx import *", names)
    assert set(llama_index_rnx.__all__) <= set(names)
    assert set(llama_index_rnx.__all__) <= set(dir(llama_index_rnx))
    for name in llama_index_rnx.__all__:
        value = getattr(llama_index_rnx, name)
        assert value is names[name]
        assert value.__module__.startswith("llama_index_rnx.")
        assert pickle.loads(pickle.dumps(value)) is value
        assert copy.deepcopy(value) is value


def test_modules_of_the_package_are_there_without_an_import_of_their_own() -> None:
    program = (
        "import llama_index_rnx\n"
        "assert llama_index_rnx.candidates.candidate.Query(text='q').text == 'q'"
    )
    assert "llama_index_rnx.candidates.candidate" in modules_after(program)


@pytest.mark.parametrize(
    "name", ["Nothing", "nothing", "__wrapped__", "not a name", "rankers.mini"]
)
def test_a_name_that_is_not_there_is_an_attribute_error(name: str) -> None:
    assert not hasattr(llama_index_rnx, name)
    with pytest.raises(AttributeError, match="has no attribute"):
        getattr(llama_index_rnx, name)
