"""From and to checkpoints: batch norms folded, ONNX names mended, means, and the shipped format."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import model_folder
from training.engine import checkpoint
from training.mini import ImageTower, MiniModel, TextEncoder, read_mini
from training.stages.tiny_mini import tiny_model
from training.weights import average_weights, convert_gte_small, export_mini, fold, unfold
from training.weights import export as export_module


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_a_tower_is_the_same_after_unfolding_and_folding(name: str) -> None:
    torch.manual_seed(0)
    tower = ImageTower(name)
    folded = fold(unfold(tower))
    assert folded.state_dict().keys() == tower.state_dict().keys()
    for key, tensor in tower.state_dict().items():
        assert torch.allclose(folded.state_dict()[key], tensor, atol=1e-6)


def test_folding_equals_convolution_then_batch_norm() -> None:
    torch.manual_seed(0)
    weights = unfold(ImageTower("lite1"))
    channels = len(weights["_bn0.bias"])
    norm = {
        "weight": torch.rand(channels) + 0.5,
        "bias": torch.randn(channels),
        "running_mean": torch.randn(channels),
        "running_var": torch.rand(channels) + 0.5,
    }
    weights |= {f"_bn0.{name}": tensor for name, tensor in norm.items()}

    pixels = torch.randn(1, 3, 64, 64)
    convolved = F.conv2d(F.pad(pixels, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2)
    expected = F.batch_norm(
        convolved,
        norm["running_mean"],
        norm["running_var"],
        norm["weight"],
        norm["bias"],
        eps=1e-3,
    )
    with torch.inference_mode():
        assert torch.allclose(fold(weights).stem(pixels), expected, atol=1e-4)


def test_the_mean_of_weights_and_of_a_checkpoints_average(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, 3.0])}, tmp_path / "weights.safetensors")
    tensors = {"weights/w": torch.zeros(2), "average/w": torch.tensor([3.0, 5.0])}
    checkpoint.write(tmp_path / "checkpoint.safetensors", tensors, {})
    paths = [tmp_path / "weights.safetensors", tmp_path / "checkpoint.safetensors"]
    average_weights(paths, tmp_path / "mean.safetensors")
    assert load_file(tmp_path / "mean.safetensors")["w"].tolist() == [2.0, 4.0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like that of gte-small, with the weights of a tiny text encoder."""
    encoder = tiny_model(0).text
    config = encoder.config

    class Tiny(TextEncoder):
        def __init__(self, tokenizer: object) -> None:
            super().__init__(tokenizer, config)  # type: ignore[arg-type]

    monkeypatch.setattr("training.weights.gte_small.TextEncoder", Tiny)
    folder = tmp_path / "package"
    (folder / "onnx").mkdir(parents=True)
    encoder.tokenizer.save(str(folder / "tokenizer.json"))
    write_onnx(encoder, folder / "onnx" / "model.onnx")
    return folder


def write_onnx(encoder: TextEncoder, path: Path) -> None:
    """Matrices of the layers lose their names and are transposed, as an exporter leaves them."""
    initializers, nodes = [], []
    for number, (name, tensor) in enumerate(encoder.bert.state_dict().items()):
        if tensor.ndim == 2 and name.startswith("encoder"):
            anonymous = f"onnx::MatMul_{number}"
            initializers.append(numpy_helper.from_array(tensor.T.numpy().copy(), anonymous))
            place = "/" + name.removesuffix(".weight").replace(".", "/") + "/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", anonymous], [f"y{number}"], name=place))
        else:
            initializers.append(numpy_helper.from_array(tensor.numpy(), name))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "tiny", [value], [value], initializers)
    onnx.save(helper.make_model(graph), path)


def digest_of(package: Path) -> str:
    return hashlib.sha256((package / "onnx" / "model.onnx").read_bytes()).hexdigest()


def test_onnx_weights_get_their_names_back(package: Path, tmp_path: Path) -> None:
    count = convert_gte_small(package, tmp_path / "text", digest_of(package))
    expected = tiny_model(0).text
    weights = load_file(tmp_path / "text" / "model.safetensors")
    assert count == sum(parameter.numel() for parameter in expected.parameters())
    assert all(torch.equal(weights[name], x) for name, x in expected.state_dict().items())
    assert (tmp_path / "text" / "tokenizer.json").is_file()


def test_another_onnx_file_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(RNXError, match=r"expected 398a.*; take version 1\.0\.2 of the package"):
        convert_gte_small(package, tmp_path / "text")
    assert not (tmp_path / "text").exists()


def write_parts(model: MiniModel, folder: Path, config: dict[str, object]) -> None:
    """The trained parts as training leaves them."""
    for name in ("text", "image", "reader"):
        (folder / name).mkdir()
    model.text.tokenizer.save(str(folder / "text" / "tokenizer.json"))
    save_file(model.text.state_dict(), folder / "text" / "model.safetensors")

    eyes = {f"eyes.{name}": x for name, x in model.eyes.state_dict().items()}
    heads = {f"part.{name}": x for name, x in model.image.state_dict().items()}
    tensors = {name: x.contiguous() for name, x in (eyes | heads).items()}
    save_file(tensors, folder / "image" / "image.safetensors")
    about = {"config": config["image"], "retrieval": config["retrieval"], "results": {}}
    (folder / "image" / "image.json").write_text(json.dumps(about))

    save_file(model.reader.state_dict(), folder / "reader" / "reader.safetensors")
    (folder / "reader" / "reader.json").write_text(json.dumps(config["reader"]))


def test_an_export_of_the_shipped_parts_is_what_ships(tmp_path: Path) -> None:
    model, config = read_mini(model_folder())
    write_parts(model, tmp_path, config)
    parts = [tmp_path / name for name in ("text", "image", "reader")]
    exported = export_mini(*parts, tmp_path / "mini")
    assert exported.size < export_module.LIMIT
    assert exported.digest in str(exported)
    assert not list((tmp_path / "mini").glob("*.part"))

    again, written = read_mini(tmp_path / "mini")
    for name in ("image", "reader", "retrieval"):
        assert written[name] == config[name]
    for name, tensor in model.state_dict().items():
        assert torch.allclose(again.state_dict()[name], tensor, atol=1e-2, rtol=1e-2), name


def test_a_checkpoint_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: MiniModel, folder: Path, about: dict[str, object]) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(3 * 2**20))

    monkeypatch.setattr(export_module, "LIMIT", 2**20)
    monkeypatch.setattr(export_module, "model_of", lambda *_: None)
    monkeypatch.setattr(export_module, "write_mini", write)
    (tmp_path / "image.json").write_text(json.dumps({"retrieval": [1.0, 0.0]}))
    with pytest.raises(RNXError, match=r"has 3\.0 MiB; at most 1 MiB may ship"):
        export_mini(tmp_path, tmp_path, tmp_path, tmp_path / "mini")
