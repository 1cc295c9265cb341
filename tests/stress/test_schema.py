"""The server keeps what its OpenAPI schema promises: schemathesis, from an environment of its own,
tries to catch it.

`make stress` installs it below .cache; RNX_SCHEMATHESIS names another one. What is allowed beside
the schema stands in schemathesis.toml.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from fakes import FakeRanker

from llama_index_rnx.server import serving

SETTINGS = Path(__file__).with_name("schemathesis.toml")


def schemathesis() -> Path | None:
    named = os.environ.get("RNX_SCHEMATHESIS")
    found = Path(named) if named else ROOT / ".cache" / "schemathesis" / "bin" / "schemathesis"
    return found if found.is_file() else None


@pytest.mark.stress
@pytest.mark.parametrize("key", [None, "secret"])
def test_it_keeps_its_schema(key: str | None, tmp_path: Path) -> None:
    binary = schemathesis()
    if binary is None:
        pytest.skip("no schemathesis: set RNX_SCHEMATHESIS to its program, or run `make stress`")
    with serving(FakeRanker(), api_key=key) as url:
        command = [
            str(binary),
            "--config-file",
            str(SETTINGS),
            "run",
            f"{url}/openapi.json",
            "--checks",
            "all",
            "--no-color",
        ]
        command += [
            "--max-examples",
            "200",
            "--seed",
            "1",
            *(["-H", f"Authorization: Bearer {key}"] if key else []),
        ]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False
        )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    print(
        re.findall(r"Test cases:\n.*", done.stdout)[-1].replace("\n", ""), "-", f"key: {bool(key)}"
    )
