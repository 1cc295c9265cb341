"""From a name to a ranker: checkpoints, adapters, configurations, devices, precision, attention and
compiled kernels. No download.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import BLUE, RED
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2Config, Qwen2ForCausalLM
from transformers.masking_utils import flash_attention_mask

from llama_index_rnx import RNXRerank
from llama_index_rnx.candidates import Candidate, Query, pil_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.rankers.vlm import (
    ListPrompt,
    PairPrompt,
    RankerConfig,
    VLMRanker,
    checkpoints,
    load_vlm,
    presets,
    resolve_placement,
    save_tiny,
)
from llama_index_rnx.rankers.vlm.config import read_config
from llama_index_rnx.rankers.vlm.tiny import FAMILIES
from llama_index_rnx.ranking import Calibration

EXACT = 2e-5  # fp32 on a CPU: kernels change the order of sums, no more
QUERY = Query(text="what is red")
LANGUAGE = r".*language_model.*\.(q_proj|up_proj)"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*of the probability lies on the answers:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*was not trained to answer with labels:RuntimeWarning"),
    # `peft` asks for it.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def loaded(folder: Path, readout: str = "labels", **options: Any) -> VLMRanker:
    return load_vlm(
        str(folder), readout=readout, device="cpu", **{"memory_dtype": "float32", **options}
    )


def candidates() -> list[Candidate]:
    images = [
        pil_source(Image.new("RGB", size, colour))
        for size, colour in (((60, 100), BLUE), ((120, 64), RED))
    ]
    return [
        Candidate(id="a", text="a red apple"),
        Candidate(id="b", image=images[0]),
        Candidate(id="c", text="the sea", image=images[1]),
        Candidate(id="d", text="nothing here"),
    ]


# ---- adapters


def save_adapter(
    base: Path, folder: Path, modules: str = LANGUAGE, config: RankerConfig | None = None
) -> Path:
    """A LoRA adapter with random weights, as peft saves it."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_pretrained(base)
    lora = peft.LoraConfig(r=2, target_modules=modules, init_lora_weights=False)
    peft.get_peft_model(model, lora).save_pretrained(folder)
    if config is not None:
        config.save(folder)
    return folder


def test_an_adapter_changes_scores_and_keeps_the_memories(folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(folder, tmp_path / "a", config=RankerConfig(readout="labels"))
    plain, tuned = (
        loaded(folder),
        load_ranker(str(folder), adapter=str(adapter), device="cpu", memory_dtype="float32"),
    )
    assert isinstance(tuned, VLMRanker)
    assert (tuned.readout, tuned.fingerprint) == ("labels", plain.fingerprint)
    memories = plain.remember(candidates())
    assert tuned.score(QUERY, memories) != pytest.approx(plain.score(QUERY, memories), abs=1e-3)
    for memory, same in zip(memories, tuned.remember(candidates()), strict=True):
        assert all(torch.equal(memory[name], same[name]) for name in memory)


def test_a_merged_adapter_scores_as_peft_computes_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    adapter = save_adapter(folders["qwen2_vl"], tmp_path / "a")
    peft = pytest.importorskip("peft")
    beside, merged = loaded(folders["qwen2_vl"]), loaded(folders["qwen2_vl"], adapter=str(adapter))
    # peft puts its layers into the ranker's own model.
    peft.PeftModel.from_pretrained(beside.backbone.model, str(adapter))
    memories = merged.remember(candidates())
    assert merged.score(QUERY, memories) == pytest.approx(beside.score(QUERY, memories), abs=EXACT)
    assert not any("lora" in name for name, _ in merged.backbone.model.named_parameters())


def test_the_name_of_an_adapter_stands_for_its_base_with_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    base, adapter = (
        folders["qwen3_vl"],
        save_adapter(folders["qwen3_vl"], tmp_path / "a", config=RankerConfig(readout="labels")),
    )
    alone, both = (
        load_vlm(name, device="cpu", adapter=on)
        for name, on in ((str(adapter), None), (str(base), str(adapter)))
    )
    memories = both.remember(candidates())
    assert alone.score(QUERY, memories) == both.score(QUERY, memories)
    assert (alone.name, both.name) == (str(adapter), f"{base}+{adapter}")
    with pytest.raises(RNXError, match=r"is an adapter itself; give model= its base"):
        load_vlm(str(adapter), adapter=str(adapter), device="cpu")


def test_an_adapter_of_the_vision_tower_has_memories_of_its_own(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    adapter = save_adapter(folders["qwen2_vl"], tmp_path / "a", modules=r".*visual.*\.fc1")
    assert (
        loaded(folders["qwen2_vl"], adapter=str(adapter)).fingerprint
        != loaded(folders["qwen2_vl"]).fingerprint
    )


def test_the_config_of_an_adapter_rules_and_the_user_overrules(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    prompt = ListPrompt(candidate="{label}\n{content}\n")
    config = RankerConfig(
        readout="labels",
        list_prompt=prompt,
        calibration=Calibration(temperature=2.0, slot_bias=[[0.5, -0.5]]),
        window=7,
        max_text_tokens=9,
        max_pixels=64 * 64,
    )
    adapter = str(save_adapter(folders["qwen2_vl"], tmp_path / "a", config=config))
    base = str(folders["qwen2_vl"])
    tuned = load_vlm(base, adapter=adapter, device="cpu")
    assert (tuned.window, tuned.list_prompt, tuned.calibration) == (7, prompt, config.calibration)
    assert (tuned.settings.max_text_tokens, tuned.backbone.max_pixels) == (9, 64 * 64)
    other = load_vlm(
        base, adapter=adapter, device="cpu", window=3, max_text_tokens=5, list_prompt=ListPrompt()
    )
    assert (other.window, other.settings.max_text_tokens, other.list_prompt) == (3, 5, ListPrompt())
    # 7 is for labels.
    assert load_vlm(base, adapter=adapter, device="cpu", readout="pointwise").window > 20


def test_the_reranker_takes_an_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = str(
        save_adapter(folders["qwen2_vl"], tmp_path / "a", config=RankerConfig(readout="labels"))
    )
    reranker = RNXRerank(model=str(folders["qwen2_vl"]), adapter=adapter, device="cpu")
    assert reranker._load().name == f"{folders['qwen2_vl']}+{adapter}"
    with pytest.raises(RNXError, match="'rnx-mini' has no option adapter"):
        RNXRerank(adapter=adapter)._load()


def test_adapters_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    base, other = str(folders["qwen2_vl"]), str(folders["qwen3_vl"])
    adapter = save_adapter(folders["qwen2_vl"], tmp_path / "a")
    with pytest.raises(RNXError, match="was trained on a Qwen2VLForConditionalGeneration"):
        load_vlm(other, adapter=str(adapter), device="cpu")
    with pytest.raises(RNXError, match=r"holds no adapter_config\.json"):
        load_vlm(base, adapter=other, device="cpu")
    with pytest.raises(RNXError, match="cannot be loaded"):
        load_vlm(base, adapter=str(tmp_path / "nowhere"), device="cpu")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: w.repeat(2, 1) for name, w in weights.items()}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(RNXError, match="does not fit"):
        load_vlm(base, adapter=str(adapter), device="cpu")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**settings, "peft_type": "PROMPT_TUNING"})
    )
    with pytest.raises(RNXError, match="LORA is allowed"):
        load_vlm(base, adapter=str(adapter), device="cpu")


@pytest.mark.parametrize(
    ("options", "package"),
    [
        ({"adapter": "peft"}, "peft"),
        ({"device": "auto"}, "accelerate"),
        ({"attention": "flash_attention_2"}, "flash-attn"),
        ({"quantization": "4bit"}, "bitsandbytes"),
        ({"quantization": "8bit"}, "bitsandbytes"),
    ],
)
def test_a_missing_package_is_named(
    folders: dict[str, Path],
    tmp_path: Path,
    options: dict[str, str],
    package: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "adapter" in options:
        options = {"adapter": str(save_adapter(folders["qwen2_vl"], tmp_path / "a"))}
    hidden = {"peft", "accelerate", "flash_attn", "bitsandbytes", "torchao"}
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in hidden else there(name, *rest),
    )
    with pytest.raises(
        RNXError, match=f"needs {package}, which is not installed: pip install {package}"
    ):
        load_vlm(str(folders["qwen2_vl"]), **{"device": "cpu", **options})


# ---- read-outs and configurations


def test_auto_reads_a_checkpoint_without_a_config_pointwise(folder: Path) -> None:
    assert load_vlm(str(folder), device="cpu").readout == "pointwise"


def test_labels_of_an_untrained_checkpoint_come_with_a_warning(folders: dict[str, Path]) -> None:
    with pytest.warns(RuntimeWarning, match="was not trained to answer with labels"):
        load_vlm(str(folders["qwen2_vl"]), readout="labels", device="cpu")


def test_a_calibration_comes_from_the_checkpoint(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    config = {
        "readout": "labels",
        "calibration": {"temperature": 3.0},
        "list_prompt": {"candidate": "{label}\n{content}\n"},
    }
    (folder / "rnx.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker = load_vlm(str(folder), device="cpu")
    assert (ranker.readout, ranker.calibration.temperature) == ("labels", 3.0)
    assert ranker.list_prompt.candidate == "{label}\n{content}\n"


def test_a_preset_serves_where_no_config_lies_beside_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "m")
    preset = RankerConfig(readout="labels", window=5, pair_prompt=PairPrompt(instruction="Judge."))
    monkeypatch.setattr(presets, "PRESETS", {str(folder): preset})
    ranker = load_vlm(str(folder), device="cpu")
    assert (ranker.readout, ranker.window) == ("labels", 5)
    assert ranker.pair_prompt.instruction == "Judge."

    (folder / "rnx.json").write_text('{"readout": "pointwise"}')
    assert load_vlm(str(folder), device="cpu").readout == "pointwise"


# ---- bad inputs at load


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"readout": "loud"},
            "readout='loud' is not known; allowed: auto, labels, pointwise, permutation",
        ),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"dtype": "int3"}, "dtype='int3' is not known; allowed: float32"),
        ({"memory_dtype": "int4"}, "memory_dtype='int4' is not known; allowed: bfloat16"),
        ({"attention": "wishful"}, "cannot be loaded"),
        ({"quantization": "1bit"}, "quantization='1bit' is not known; allowed: 8bit, 4bit"),
    ],
)
def test_options_that_are_unknown_are_refused(
    folders: dict[str, Path], options: dict[str, str], said: str
) -> None:
    with pytest.raises(RNXError, match=said):
        load_vlm(str(folders["qwen2_vl"]), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is there")
def test_a_device_that_is_not_there(folders: dict[str, Path]) -> None:
    with pytest.raises(RNXError, match=r"device='cuda' is not there; this machine has cpu"):
        load_vlm(str(folders["qwen2_vl"]), device="cuda")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(RNXError, match=r"holds no checkpoint of transformers \(no config.json\)"):
        load_vlm(str(tmp_path))


def test_a_text_model_has_no_vision_tower(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        RNXError,
        match=r"\(qwen2\) has no vision tower; allowed families: qwen2_vl, qwen2_5_vl, qwen3_vl",
    ):
        load_vlm(str(tmp_path))


def test_missing_files_and_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RNXError, match="lacks 1 weights"):
        load_vlm(str(folder))
    (folder / "model.safetensors").unlink()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        RNXError, match=r"the folder lacks weights, preprocessor_config\.json; copy all files"
    ):
        load_vlm(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(RNXError, match="cannot be loaded"):
        load_vlm(str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "is no JSON"),
        ("[1]", "a JSON object is allowed"),
        ('{"readout": "song"}', "names the read-out 'song'"),
        ('{"readout": "labels", "calibration": {"heat": 1}}', "mistake in Calibration"),
        ('{"readout": "labels", "list_prompt": {"template": "{query}"}}', "mistake in ListPrompt"),
        ('{"window": 0}', "window is 0; a whole number above 0"),
        ('{"tempo": 3}', "tempo is not known; allowed: readout, list_prompt"),
    ],
)
def test_a_config_with_a_mistake(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "rnx.json").write_text(config)
    with pytest.raises(RNXError, match=said):
        read_config(tmp_path / "rnx.json")


def test_a_config_is_read_as_it_was_saved(tmp_path: Path) -> None:
    config = RankerConfig(
        readout="labels",
        pair_prompt=PairPrompt(yes="y"),
        calibration=Calibration(slot_bias=[[0.5, -0.5]]),
        window=8,
    )
    config.save(tmp_path)
    assert read_config(tmp_path / "rnx.json") == config


# ---- precision


@pytest.mark.parametrize("dtype", ["bf16", "float16"])
def test_half_precision_runs(folder: Path, dtype: str) -> None:
    ranker = load_vlm(str(folder), dtype=dtype, device="cpu")
    scores = ranker.score(QUERY, ranker.remember(candidates()))
    assert all(0 <= score <= 1 for score in scores)
    assert f"/{ranker.backbone.model.dtype}/" in ranker.fingerprint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("package", "bits"), [("bitsandbytes", "8bit"), ("torchao", "8bit")])
def test_quantised_language_weights_read_the_same_memories(
    folders: dict[str, Path],
    tmp_path: Path,
    package: str,
    bits: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(package)
    monkeypatch.setattr(checkpoints, "_is_installed", lambda module: module in (package, "peft"))
    plain, small = loaded(folders["qwen2_vl"]), loaded(folders["qwen2_vl"], quantization=bits)
    assert small.fingerprint == plain.fingerprint
    memories = plain.remember(candidates())
    scores = small.score(QUERY, memories)
    assert scores != plain.score(QUERY, memories)
    assert all(0 <= score <= 1 for score in scores)
    adapter = str(save_adapter(folders["qwen2_vl"], tmp_path / "a"))
    tuned = loaded(folders["qwen2_vl"], quantization=bits, adapter=adapter)
    assert tuned.fingerprint == plain.fingerprint
    assert tuned.score(QUERY, memories) != scores


def test_auto_places_the_model_through_accelerate(folders: dict[str, Path]) -> None:
    pytest.importorskip("accelerate")
    ranker = load_vlm(
        str(folders["qwen2_vl"]), device="auto", dtype="float32", memory_dtype="float32"
    )
    assert len(ranker.score(QUERY, ranker.remember(candidates()[:3]))) == 3


# ---- kernels


def flash_rules(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **rest: Any
) -> Any:
    """Attention by the rules of flash kernels: no mask, no positions; causal, aligned at the end;
    or pieces of one row.
    """
    assert attention_mask is None
    assert rest.get("position_ids") is None, (
        "positions that count anew would be taken for packed rows"
    )
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # [B, L, heads, width]
    if "cu_seq_lens_q" in rest:
        ends = rest["cu_seq_lens_q"].tolist()
        pieces = [
            _softmax(*(x[:, a:b] for x in (query, key, value)), scaling) for a, b in pairwise(ends)
        ]
        return torch.cat(pieces, dim=1), None
    hidden = torch.ones(query.shape[1], key.shape[1]).tril(key.shape[1] - query.shape[1]) == 0
    return _softmax(query, key, value, scaling, hidden), None


def _softmax(query: Any, key: Any, value: Any, scaling: float, hidden: Any = False) -> torch.Tensor:
    groups = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(groups, dim=2) for x in (key, value))
    weights = torch.einsum("blhw,bmhw->bhlm", query, key) * scaling
    weights = weights.masked_fill(torch.as_tensor(hidden), -torch.inf).softmax(-1)
    return torch.einsum("bhlm,bmhw->blhw", weights, value)


@pytest.mark.parametrize("readout", ["labels", "pointwise", "permutation"])
def test_nothing_asks_flash_kernels_for_a_mask(folder: Path, readout: str) -> None:
    """Padded rows, shared prefixes and images, under the rules of a kernel that this machine does
    not have.
    """
    AttentionInterface.register("flash_rules", flash_rules)
    AttentionMaskInterface.register("flash_rules", flash_attention_mask)
    plain, flash = loaded(folder, readout), loaded(folder, readout)
    for config in (
        flash.backbone.model.config.text_config,
        flash.backbone.model.config.vision_config,
    ):
        config._attn_implementation = (
            "flash_rules"  # what `attention=` does, which would look for the package
        )
    memories = plain.remember(candidates())
    asks = [(QUERY, memories), (QUERY, memories[::-1][:3])]
    for scores, expected in zip(flash.score_many(asks), plain.score_many(asks), strict=True):
        assert scores == pytest.approx(expected, abs=EXACT)
    for memory, same in zip(memories, flash.remember(candidates()), strict=True):
        assert all(
            torch.allclose(memory[name].float(), same[name].float(), atol=1e-4) for name in memory
        )


def test_flash_attention_is_taken_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_placement("cpu", None, "auto", None).attention == "sdpa"
    monkeypatch.setattr(checkpoints, "_is_installed", lambda module: True)
    with pytest.raises(
        RNXError, match=r"needs cuda in bfloat16 or float16; got cpu in torch\.bfloat16"
    ):
        resolve_placement("cpu", "bf16", "flash_attention_2", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_placement("cuda", None, "auto", None).attention == "flash_attention_2"
    assert resolve_placement("cuda", "fp32", "auto", None).attention == "sdpa"
    assert resolve_placement("cuda", None, "sdpa", None).attention == "sdpa"


@pytest.mark.filterwarnings("ignore")  # of torch's own parts
def test_compiled_kernels_give_the_same_scores(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model as torch.compile captures it, at padded lengths; the C++ that it would write takes
    minutes to compile.
    """
    compiled = torch.compile
    if "RNX_TEST_COMPILER" not in os.environ:
        monkeypatch.setattr(
            torch, "compile", lambda work, **_: compiled(work, dynamic=True, backend="eager")
        )
    plain, fast = loaded(folders["qwen2_vl"]), loaded(folders["qwen2_vl"], compile=True)
    memories = plain.remember(candidates())
    for some in (memories, memories[:3]):
        assert fast.score(QUERY, some) == pytest.approx(plain.score(QUERY, some), abs=EXACT)


def test_no_compiler_is_said_at_load(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Callable[..., Any]:
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        RNXError,
        match=r"torch\.compile does not work here \(RuntimeError\); it needs a C\+\+ compiler",
    ):
        loaded(folders["qwen2_vl"], compile=True)


# ---- room


def test_too_little_memory_at_load_is_said_with_figures(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")

    monkeypatch.setattr(checkpoints, "_load_pretrained", full)
    with pytest.raises(
        RNXError, match=r"does not fit on 'cpu' in torch\.float32; take dtype='bfloat16'"
    ):
        loaded(folders["qwen2_vl"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * 2**29, 24 * 2**30))
    with pytest.raises(
        RNXError, match=r"on 'cuda:0' in torch\.bfloat16 \(1\.5 of 24\.0 GiB are free\)"
    ):
        load_vlm(str(folders["qwen2_vl"]), device="cuda:0")


@pytest.mark.parametrize(
    "name", ["", "nope", "/nope", "./nope", "../nope", "a/b/c", "a//b", "-a/b", "a b/c", "a/b\n"]
)
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_refused_before_any_hub_is_asked(
    name: str,
) -> None:
    with pytest.raises(RNXError, match=r"unknown model .*: no such folder, and no hub id"):
        load_ranker(name)
