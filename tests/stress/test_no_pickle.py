"""Nothing that is read can run code: no pickle in any form, no remote code of a checkpoint unless
the user asked for it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "llama_index_rnx").rglob("*.py"))
AROUND = sorted(
    path for folder in ("training", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
CARRIERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
CALLS = {"eval", "exec", "compile", "__import__"}


def faults(source: str) -> Iterator[str]:
    """What in a source could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in CARRIERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in CARRIERS:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if (
        name in CALLS
        or name in ("torch.load", "pd.read_pickle", "numpy.load", "np.load")
        or name.endswith(".load_pickle")
    ):
        checked = name == "torch.load" and _is(given.get("weights_only"), True)
        arrays = name in ("np.load", "numpy.load") and not _truthy(given.get("allow_pickle"))
        if not checked and not arrays:
            yield name
    if _truthy(given.get("trust_remote_code")):
        yield "trust_remote_code"
    if (name.startswith("subprocess.") and _truthy(given.get("shell"))) or name == "os.system":
        yield name


def _is(value: ast.expr | None, constant: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is constant


def _truthy(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def found_in(files: list[Path]) -> dict[str, list[str]]:
    """By file, what was found in it; files without a fault are left out."""
    found = {
        path.relative_to(ROOT).as_posix(): list(faults(path.read_text(encoding="utf-8")))
        for path in files
    }
    return {path: names for path, names in found.items() if names}


def test_nothing_that_the_package_reads_can_run_code() -> None:
    assert len(PACKAGE) > 30
    assert found_in(PACKAGE) == {"llama_index_rnx/collection/local_mode.py": ["pickle"]}, (
        "that one is there to hold embedded Qdrant's pickles to data"
    )
    assert not [path for path in PACKAGE if "torch.load" in path.read_text(encoding="utf-8")], (
        "safetensors only"
    )


def test_training_reads_checkpoints_of_others_by_the_unpickler_that_runs_nothing() -> None:
    assert found_in(AROUND) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "torch.load(path)",
        "eval(text)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "load(x, trust_remote_code=yes)",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
    ],
)
def test_the_scan_sees_what_it_looks_for(source: str) -> None:
    assert list(faults(source))


def test_the_scan_lets_pass_what_is_safe() -> None:
    lines = [
        "np.load(path)",
        "torch.load(path, weights_only=True)",
        "load(x, trust_remote_code=False)",
        "model.eval()",
        "re.compile(a)",
    ]
    safe = "\n".join(lines)
    assert list(faults(safe)) == []
