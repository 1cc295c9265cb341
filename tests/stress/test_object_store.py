"""Memories in a bucket: real s3fs against moto, a server that speaks S3, on loopback. Several
processes, damage, a dead server.

`make stress` installs both below .cache, beside our own packages, since they ask for other versions
of some; RNX_S3 names another folder with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, free_port

pytestmark = pytest.mark.stress

CLIENT = """
import json, sys, time, types, torch, warnings
# Load the memories alone, not the package: that takes a second.
package = sys.modules["llama_index_rnx"] = types.ModuleType("llama_index_rnx")
package.__path__ = [sys.argv[1]]
from llama_index_rnx.memory import RAM, MemoryStore
store = MemoryStore("s3://rnx/memories")
def keep(name, *numbers):
    store.keep("f", {f"{name}-{i}": {"x": torch.full((200,), float(i))} for i in numbers})
def found(*names):
    RAM.clear()
    return {name: float(memory["x"][0]) for name, memory in store.find("f", names).items()}
def say(what):
    print(json.dumps(what), flush=True)
"""


def packages() -> Path | None:
    found = Path(os.environ.get("RNX_S3") or ROOT / ".cache" / "s3")
    return found if (found / "s3fs").is_dir() else None


class Bucket:
    """The server with one bucket, and how our processes are told of it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "FSSPEC_S3_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "OMP_NUM_THREADS": "1",
        }
        port = self.url.rsplit(":", 1)[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        self.server = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        for _ in range(300):
            try:
                if httpx.put(f"{self.url}/rnx", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise RuntimeError("moto did not start")

    def start(self, script: str) -> subprocess.Popen[str]:
        """A process with a store of its own at the bucket."""
        command = [
            sys.executable,
            "-W",
            "error::RuntimeWarning",
            "-c",
            CLIENT + script,
            str(ROOT / "llama_index_rnx"),
        ]
        pipes: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen(command, env=self.environment, text=True, **pipes)

    def says(self, script: str) -> Any:
        return json.loads(self.end_of(self.start(script)) or "null")

    def end_of(self, process: subprocess.Popen[str], told: str = "") -> str:
        out, err = process.communicate(told, timeout=180)
        assert process.returncode == 0, err
        return out

    def objects(self) -> dict[str, str]:
        """Key -> the hash of its content."""
        listed = httpx.get(f"{self.url}/rnx", params={"list-type": "2"}, trust_env=False).text
        parts = [part.split("</Contents>")[0] for part in listed.split("<Contents>")[1:]]
        return {_between(part, "Key"): _between(part, "ETag") for part in parts}


def _between(text: str, tag: str) -> str:
    return text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    folder = packages()
    if folder is None:
        pytest.skip("no s3fs and moto: set RNX_S3 to a folder with both, or run `make stress`")
    found = Bucket(folder)
    try:
        found.wait()
        yield found
    finally:
        found.server.kill()
        found.server.wait(timeout=30)


def test_four_processes_share_it(bucket: Bucket) -> None:
    script = "for i in range(20): keep('{0}', i); keep('shared', 7)\n"
    for process in [bucket.start(script.format(name)) for name in "abcd"]:
        bucket.end_of(process)
    assert len(bucket.objects()) == 81
    assert bucket.says("say(found('c-13', 'shared-7', 'nobody-1'))") == {
        "c-13": 13.0,
        "shared-7": 7.0,
    }


def test_damage_is_seen_and_mended(bucket: Bucket) -> None:
    bucket.says("keep('a', 1, 2)")
    whole = bucket.objects()
    bucket.says(
        "files = store._backend._file_system; path = files.find('rnx')[0]; data = files.cat(path)\n"
        "files.pipe({path: data[:-1] + bytes([data[-1] ^ 0xFF])})"
    )
    assert bucket.objects() != whole
    assert len(bucket.says("say(found('a-1', 'a-2'))")) == 1
    bucket.says("keep('a', 1, 2)")
    assert bucket.objects() == whole


def test_a_server_that_dies_costs_warnings_and_time_and_no_result(bucket: Bucket) -> None:
    script = """
keep('a', 1)
say('kept')
sys.stdin.readline()
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    start = time.monotonic()
    gone = found('a-1')
    keep('b', 2)
    ours = {name: float(memory['x'][0]) for name, memory in store.find('f', ['b-2']).items()}
    seconds = time.monotonic() - start
say([gone, ours, len(said), seconds])
"""
    process = bucket.start(script)
    assert process.stdout is not None
    assert process.stdout.readline() == '"kept"\n'
    bucket.server.kill()
    gone, ours, warned, seconds = json.loads(bucket.end_of(process, "go on\n"))
    print(f"{warned} warnings, {seconds:.1f} s")
    assert (gone, ours) == ({}, {"b-2": 2.0})  # from RAM
    assert warned <= 2
    assert seconds < 60


def test_two_workers_index_with_it_and_another_machine_computes_nothing_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    for i in range(12):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"note {i} about subject{i}")

    def index(to: str, *more: str) -> str:
        command = [
            sys.executable,
            "-W",
            "error::RuntimeWarning",
            "-m",
            "llama_index_rnx.cli",
            "index",
            str(tmp_path / "docs"),
        ]
        command += ["--to", str(tmp_path / to), "--memory-path", "s3://rnx/memories", *more]
        done = subprocess.run(
            command,
            env=bucket.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    index("one", "--workers", "2")
    kept = bucket.objects()
    assert len(kept) == 12
    index("two")
    assert bucket.objects() == kept
