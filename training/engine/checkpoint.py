"""Checkpoints and the record of a run. It knows no model.

A checkpoint is one safetensors file: tensors by name, and everything else as JSON in its header.
Nothing is pickled.
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

from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.system import atomic_write

HEADER = "record"

# Only these parts of a record must be equal for a run to go on.
_IDENTITY = ("seed", "settings", "data")


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that is needed to repeat a run. data: the sha256 of every file that was read, by name."""

    seed: int
    settings: Mapping[str, Any]
    data: Mapping[str, str]
    commit: str
    environment: Mapping[str, str]


def record_of(settings: Mapping[str, Any], seed: int, data: Mapping[str, str]) -> Record:
    """Return the record of a run that starts here and now."""
    return Record(
        seed=seed, settings=settings, data=data, commit=commit(), environment=environment()
    )


def commit() -> str:
    """Return the git commit of this code, with "+" behind it where files differ from it; "unknown"
    outside a checkout.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head[:12] + ("+" if changes else "")


def environment() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute, and the processors."""
    libraries = {name: version(name) for name in ("torch", "transformers", "safetensors")}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"python": platform.python_version(), **libraries, "cpu": _processor(), "gpu": gpu}


def hashes(paths: Iterable[Path], base: Path | None = None) -> dict[str, str]:
    """Return the sha256 of every file, by its path below `base`, else by its name."""
    digests = {}
    for path in sorted(set(paths)):
        is_below = base is not None and path.is_relative_to(base)
        name = path.relative_to(base).as_posix() if base and is_below else path.name
        with path.open("rb") as stream:
            digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all: a kill while writing leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        save_file(copies, partial, metadata={HEADER: json.dumps(header)})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a file that `write` made.

    Raises:
        StorageError: the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            # The file is no mapping, although it has keys.
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, header
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise StorageError(
            f"{path} is no checkpoint of this version ({error}); delete it to begin anew."
        ) from error


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix/`, without it."""
    start = f"{prefix}/"
    return {
        name.removeprefix(start): tensor
        for name, tensor in tensors.items()
        if name.startswith(start)
    }


def add_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the same tensors with `prefix/` before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def check_same_run(path: Path, header: Mapping[str, Any], ours: Record) -> None:
    """Refuse a checkpoint with another seed, other settings or other data: going on from it would
    be another run.

    Raises:
        SettingsError: it names the first field that differs.
    """
    theirs = flatten(header["record"])
    for name, value in flatten(json.loads(json.dumps(asdict(ours)))).items():
        if name.split(".")[0] in _IDENTITY and theirs.get(name) != value:
            raise SettingsError(
                f"{path} was begun with {name} = {theirs.get(name)!r}, now it is {value!r}; "
                "choose another folder or delete it."
            )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings.

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _processor() -> str:
    cores = os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        name = line.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} x {cores}"
