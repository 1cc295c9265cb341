"""The folder of an rnx-mini: weights and graphs are read when they are needed, and every fault of a
file is one line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError, SettingsError, StorageError
from llama_index_rnx.rankers.mini import GRAPHS, load_mini, model_folder
from llama_index_rnx.rankers.mini import checkpoint as checkpoint_module
from llama_index_rnx.rankers.mini.checkpoint import Checkpoint
from training import add_graphs

WORDS = np.zeros((1, 4, 384), np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(model_folder(), tmp_path / "model"))


def without_graph(folder: Path) -> None:
    (folder / "text.onnx").unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def without_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def cut_graph(folder: Path) -> None:
    path = folder / "text.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def rubbish_graph(folder: Path) -> None:
    (folder / "text.onnx").write_bytes(b"rubbish")


def without_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["text.bert.encoder.layer.3.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors")


def with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "text.bert.encoder.layer.3.output.dense.bias"
    tensors[name] = tensors[name][:-1].copy()
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_graph, r"has no text\.onnx; add its graphs by `python -m training\.add_graphs"),
        (without_weights, "cannot be read"),
        (cut_weights, "cannot be read"),
        (without_config, "cannot be read"),
        (cut_graph, "do not fit this version"),
        (rubbish_graph, "do not fit this version"),
        (without_a_weight, "do not fit this version"),
        (with_another_shape, "do not fit this version"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_folder_is_one_line(
    folder: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(folder)
    with pytest.raises(StorageError, match=message) as refused:
        Checkpoint(folder).run("text", {"words": WORDS})
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


def test_a_folder_without_graphs_gets_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in GRAPHS:
        (folder / f"{name}.onnx").unlink()
    with pytest.raises(RNXError, match="has no text"):
        load_mini(folder=folder)

    monkeypatch.setattr(sys, "argv", ["add_graphs", str(folder)])
    add_graphs.main()
    assert "has its graphs now" in capsys.readouterr().out
    query = Query(text="how do bees make honey?")
    assert load_mini(folder=folder).query_vector(query) == load_mini().query_vector(query)


def test_a_name_that_is_no_weight(folder: Path) -> None:
    with pytest.raises(StorageError, match=r"image\.nothing is missing"):
        Checkpoint(folder).tensor("image.nothing")


def test_a_search_for_texts_reads_no_image_encoder(folder: Path) -> None:
    ranker = load_mini(folder=folder)
    memories = ranker.remember([Candidate(id="a", text="Bees make honey.")])
    ranker.score(Query(text="honey"), memories)
    ranker.query_vector(Query(text="honey"))
    graphs = {graph for _, graph in checkpoint_of(ranker)._sessions}
    assert graphs == {"text", "caption", "candidates", "list"}


def checkpoint_of(ranker: checkpoint_module.Any) -> Checkpoint:
    checkpoint = ranker._image_scorer._checkpoint
    assert isinstance(checkpoint, Checkpoint)
    return checkpoint


def test_threads_load_a_graph_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = Checkpoint._load

    def count(self: Checkpoint, graph: str) -> onnxruntime.InferenceSession:
        loaded.append(graph)
        return load(self, graph)

    monkeypatch.setattr(Checkpoint, "_load", count)
    checkpoint = Checkpoint(folder)
    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(lambda _: checkpoint.run("text", {"words": WORDS})[0], range(8)))
    assert loaded == ["text"]
    assert all(np.array_equal(states[0], each) for each in states)


FORKED = """
import multiprocessing
from llama_index_rnx.candidates import Query
from llama_index_rnx.rankers.mini import load_mini

def vector(text):
    return load_mini().query_vector(Query(text=text))

ours = vector("how do bees make honey?")
with multiprocessing.get_context("fork").Pool(2) as pool:
    rust, honey = pool.map(vector, ["what is rust?", "how do bees make honey?"])
assert honey == ours
assert rust == vector("what is rust?")
print("equal")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_computes_the_same() -> None:
    """The threads of onnxruntime are not there after a fork; a child that used them would hang."""
    command = [sys.executable, "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == "equal\n"


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "cpu:0", "cuda:x", ""])
def test_a_device_that_is_not_there_is_one_line(folder: Path, device: str) -> None:
    with pytest.raises(SettingsError, match="'cpu' always is allowed") as refused:
        Checkpoint(folder, device)
    assert "\n" not in str(refused.value)


def test_a_gpu_is_taken_where_onnxruntime_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    providers = checkpoint_module._providers("cuda:1")
    assert providers == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]
    assert checkpoint_module._providers("cpu") == ["CPUExecutionProvider"]
