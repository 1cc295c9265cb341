"""The folder of an rnx-mini: its weights, read one by one, and its graphs, run by onnxruntime. It
scores nothing.

The weights lie once on disk, in `model.safetensors`. A graph, as `text.onnx`, names those that it
needs and holds none: they are handed over as fp32 when it is first run.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import safe_open

from llama_index_rnx.errors import SettingsError, StorageError
from llama_index_rnx.rankers.mini.quantization import SCALE, dequantize_matrix

NAME = "rnx-mini"

# Every graph, and the names of the weights that are its initializers.
GRAPHS = {
    "text": re.compile(r"text\.bert\.(encoder|embeddings\.(position|token_type|LayerNorm))"),
    "caption": re.compile(r"image\.(caption\.|more\.\d+\.caption\.|basis$)"),
    "image": re.compile(r"eyes\.|image\.(projector\.|more\.\d+\.vector\.|basis$|bank$)"),
    "candidates": re.compile(r"reader\.(compress|base|joint)\."),
    "list": re.compile(r"reader\.list\."),
}

# Onnxruntime's levels of what it prints: errors, which it raises as well, are the last but one.
_FATAL = 4

Arrays = Mapping[str, NDArray[Any]]


class Checkpoint:
    """The weights and graphs in a folder; each is read when it is first asked for.

    A search for texts reads no weight of the image encoder. The file stays open, so that all
    weights are of one checkpoint, even if another is put in its place.

    Args:
        folder: of the checkpoint.
        device: where the graphs run, "cpu" or "cuda".

    Raises:
        StorageError: a file is missing or damaged, or of another version.
        SettingsError: there is no such device.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder = folder
        self._providers = _providers(device)
        self._sessions: dict[tuple[int, str], onnxruntime.InferenceSession] = {}
        self._locks: dict[int, threading.Lock] = {}
        try:
            self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            self._file = _open_weights(folder / "model.safetensors")
            self._names = frozenset(self._file.keys())
        except Exception as error:
            raise StorageError(
                f"the weights of {NAME} in {folder} cannot be read ({error}); install the package "
                "again."
            ) from error
        self._require_graphs()

    def tensor(self, name: str) -> NDArray[Any]:
        """Return a tensor as it is stored: int8 or fp16.

        Raises:
            StorageError: there is none of this name.
        """
        if name not in self._names:
            raise self._misfit(f"{name} is missing")
        tensor: NDArray[Any] = self._file.get_tensor(name)
        return tensor

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as fp32.

        Raises:
            StorageError: there is none of this name.
        """
        scale = self.tensor(name + SCALE) if name + SCALE in self._names else None
        return dequantize_matrix(self.tensor(name), scale)

    def run(self, graph: str, inputs: Arrays) -> list[NDArray[Any]]:
        """Run one of `GRAPHS` and return its outputs. Several threads may run it at once.

        Raises:
            StorageError: the graph cannot be read, or does not fit the weights.
        """
        outputs: list[NDArray[Any]] = self._session(graph).run(None, dict(inputs))
        return outputs

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        # A fork has none of its parent's threads, and may have inherited a lock that one of them
        # held: so each process has sessions of its own.
        key = (os.getpid(), graph)
        session = self._sessions.get(key)
        if session is None:
            with self._locks.setdefault(os.getpid(), threading.Lock()):
                session = self._sessions.get(key) or self._load(graph)
                self._sessions[key] = session
        return session

    def _load(self, graph: str) -> onnxruntime.InferenceSession:
        names = [
            name
            for name in sorted(self._names)
            if GRAPHS[graph].match(name) and not name.endswith(SCALE)
        ]
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(self.weight(name)) for name in names]
        options = _session_options()
        options.add_external_initializers(names, values)
        try:
            description = (self.folder / f"{graph}.onnx").read_bytes()
            return onnxruntime.InferenceSession(description, options, providers=self._providers)
        except Exception as error:
            raise self._misfit(str(error).splitlines()[0]) from error

    def _require_graphs(self) -> None:
        missing = [name for name in GRAPHS if not (self.folder / f"{name}.onnx").is_file()]
        if missing:
            raise StorageError(
                f"the {NAME} in {self.folder} has no {missing[0]}.onnx; add its graphs by "
                f"`python -m training.add_graphs {self.folder}`, or install the package again."
            )

    def _misfit(self, reason: str) -> StorageError:
        return StorageError(
            f"the weights of {NAME} in {self.folder} do not fit this version ({reason}); install "
            "the package again."
        )


def _open_weights(path: Path) -> Any:
    # A file that is mapped counts as memory of the process: 36 MiB after a search.
    return safe_open(path, "np", backend="pread")


def model_folder() -> Path:
    """Return the folder of the weights in the installed package."""
    return Path(str(files("llama_index_rnx") / "models" / NAME))


def holds_mini(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of rnx-mini: what ships with the package, or what
    training made of it.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return {"reader", "image", "retrieval"} <= set(config)


def cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    options.log_severity_level = _FATAL

    # Texts have hundreds of lengths, and a plan or an arena for each would be kept.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False

    # Threads that wait let others work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(device: str) -> list[Any]:
    """Return onnxruntime's providers for a device: "cpu", "cuda" or "cuda:1"."""
    kind, _, number = device.partition(":")
    if device == "cpu":
        return ["CPUExecutionProvider"]
    available = onnxruntime.get_available_providers()
    is_cuda = kind == "cuda" and (number.isdecimal() or device == kind)
    if is_cuda and "CUDAExecutionProvider" in available:
        cuda = ("CUDAExecutionProvider", {"device_id": number or "0"})
        return [cuda, "CPUExecutionProvider"]
    raise SettingsError(
        f"device={device!r} was given, and this onnxruntime cannot compute there; 'cpu' always is "
        "allowed, and 'cuda' with the package onnxruntime-gpu."
    )
