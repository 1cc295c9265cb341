"""What a run was and where it stands: records, and checkpoints that are one safetensors file. It
knows no model.

Nothing is pickled: tensors lie in the file by name, and everything else is JSON in its header.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llama_index_rnx.errors import RNXError

HEADER = "record"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is needed to do a run again. data: the sha256 of every file that was read, by its name."""

    seed: int
    settings: Mapping[str, Any]
    data: Mapping[str, str]
    commit: str
    environment: Mapping[str, str]


def record_of(settings: Mapping[str, Any], seed: int, data: Mapping[str, str]) -> Record:
    """The record of a run that starts here and now."""
    return Record(
        seed=seed, settings=settings, data=data, commit=commit(), environment=environment()
    )


def commit() -> str:
    """The git commit of this code, with "+" behind it where files differ from it; "unknown" outside
    a checkout.
    """
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()[:12] + ("+" if changed.stdout.strip() else "")


def environment() -> dict[str, str]:
    """Python, the libraries that compute, and the processor."""
    libraries = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"python": platform.python_version(), **libraries, "cpu": _processor(), "gpu": device}


def _processor() -> str:
    cores = os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} x {cores}"


def hashes(paths: Iterable[Path], base: Path | None = None) -> dict[str, str]:
    """The sha256 of every file, by its path below `base`, else by its name."""
    found = {}
    for path in sorted(set(paths)):
        name = (
            path.relative_to(base).as_posix() if base and path.is_relative_to(base) else path.name
        )
        with path.open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Whole or not at all: a kill while writing leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(kept, part, metadata={HEADER: json.dumps(header)})
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that `write` made.

    Raises:
        RNXError: the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise RNXError(
            f"{path} is no checkpoint of this version ({error}); delete it to begin anew."
        ) from error


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix/`, without it."""
    return {
        name[len(prefix) + 1 :]: tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix + "/")
    }


def add_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors with `prefix/` before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def check_same_run(path: Path, header: Mapping[str, Any], ours: Record) -> None:
    """A checkpoint goes on with its own settings, seed and data only: with others it would be
    another run.

    Raises:
        RNXError: it names the first thing that differs.
    """
    for name, mine in flat(json.loads(json.dumps(asdict(ours)))).items():
        theirs = flat(header["record"]).get(name)
        if name.split(".")[0] in ("seed", "settings", "data") and theirs != mine:
            raise RNXError(
                f"{path} was begun with {name} = {theirs!r}, now it is {mine!r}; choose another folder or delete it."
            )


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found.update(
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found
