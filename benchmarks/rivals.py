"""What else one would run in place of our ranker, with the same weights: their packages' own calls,
nothing made faster.

All of them read texts and open pictures anew at every query. It knows nothing of ours but the
weights and the prompts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import transformer as st
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.rankers.vlm import Backbone, PairPrompt
from llama_index_rnx.ranking import run_plan, sliding_windows

WINDOW, STRIDE = 20, 10
WRITTEN = 6  # tokens that a generated list spends on a candidate: "[", "1", "2", "]", " >", " "
CHATTED = 4  # tokens of a chat model's answer on one candidate
PAD = "<|image_pad|>"
PICTURE = f"<|vision_start|>{PAD}<|vision_end|>"
INTRODUCTION = "Judge whether the document meets the requirements of the query. Answer yes or no only.\nQuery: "
PART = "{% for part in message.content %}{% if part.type == 'image' %}" + PICTURE
PART += "{% else %}{{ part.text }}{% endif %}{% endfor %}"


# ---- (a) a permutation written over sliding windows: LightOn-rerank-LW, RankZephyr
# ------------------------------------


def generated_list(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """Sliding windows; each writes its permutation token by token."""

    def read(places: tuple[int, ...]) -> list[float]:
        shown = "".join(f"[{n}] {content(candidates[i])}\n" for n, i in enumerate(places))
        images = [candidates[i].image for i in places if candidates[i].image]
        inputs = plain_inputs(
            backbone, f"{shown}Rank them by: {query.text}\n", [s.load() for s in images if s]
        )
        generated(backbone, inputs, WRITTEN * len(places))
        return [-float(n) for n in range(len(places))]

    run_plan(sliding_windows(len(candidates), WINDOW, STRIDE), read)


# ---- (b) pointwise, through sentence-transformers
# ---------------------------------------------------------------------


def cross_encoder(backbone: Backbone, prompt: PairPrompt = PairPrompt()) -> CrossEncoder:
    """sentence-transformers' `CrossEncoder` on the backbone's own weights, asked with our pointwise
    prompt.

    Its scores are those of our pointwise read-out, so both do the same work. The usual processor of
    these models wants torchvision, for videos; this one is the same without them.
    """
    processor = PictureProcessor(
        backbone.processor, backbone.tokenizer, chat_template=_chat_template(prompt)
    )
    with tempfile.TemporaryDirectory() as folder:
        backbone.model.config.save_pretrained(folder)
        with mock.patch.object(st.AutoProcessor, "from_pretrained", return_value=processor):
            reader = _Reader(folder, backbone)
    ids = backbone.tokenizer.convert_tokens_to_ids([prompt.yes, prompt.no])
    return CrossEncoder(modules=[reader, LogitScore(*ids)], device=str(backbone.device))


def predicted(encoder: CrossEncoder, query: Query, candidates: Sequence[Candidate]) -> list[float]:
    """Its scores in [0, 1]; batches of its own size (32), sorted by length as it does."""
    pairs = [(query.text, _document(candidate)) for candidate in candidates]
    found: list[float] = encoder.predict(pairs, show_progress_bar=False).tolist()
    return found


class PictureProcessor(Qwen2VLProcessor):
    """Texts and pictures, no videos."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        self.image_token, self.video_token = PAD, "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(
            [self.image_token, self.video_token]
        )
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


class _Reader(st.Transformer):  # type: ignore[misc, no-any-unimported]
    """sentence-transformers' own module around a model that is loaded already."""

    def __init__(self, folder: str | Path, backbone: Backbone) -> None:
        self._load_model = lambda *_, **__: backbone.model
        super().__init__(str(folder), transformer_task="any-to-any")


def _chat_template(prompt: PairPrompt) -> str:
    """Our pointwise prompt as a template of messages with the roles `query` and `document`."""
    text = prompt.template.replace("{instruction}", prompt.instruction)
    for name, role in (("{query}", "query"), ("{content}", "document")):
        shown = (
            "{% for message in messages if message.role == '"
            + role
            + "' %}"
            + PART
            + "{% endfor %}"
        )
        text = text.replace(name, shown)
    return text.replace(
        "\n", "{{ '\\n' }}"
    )  # a template drops line breaks after blocks and at its end


def _document(candidate: Candidate) -> Any:
    if candidate.image is None:
        return candidate.text
    picture = candidate.image.load()
    return (
        {"image": picture, "text": candidate.text} if candidate.text else picture
    )  # in the order of our prompt


# ---- (c) one candidate at a time, by a chat model: what LlamaIndex offers for pictures
# ---------------------------------


def one_at_a_time(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """One prompt a candidate, a short answer by `generate`."""
    for candidate in candidates:
        images = [candidate.image.load()] if candidate.image else []
        prompt = f"{INTRODUCTION}{query.text}\n{content(candidate)}\nyes or no?"
        generated(backbone, plain_inputs(backbone, prompt, images), CHATTED)


# ---- transformers' own way
# --------------------------------------------------------------------------------------------


def content(candidate: Candidate) -> str:
    return (PICTURE if candidate.image else "") + candidate.text


def plain_inputs(
    backbone: Backbone, text: str, pictures: Sequence[Image.Image]
) -> dict[str, torch.Tensor]:
    """What transformers' own processor makes of a prompt and its pictures."""
    inputs: dict[str, Any] = (
        dict(backbone.processor(images=list(pictures), return_tensors="pt")) if pictures else {}
    )
    for grid in inputs.get("image_grid_thw", []):
        text = text.replace(PAD, "\0" * (int(grid.prod()) // 4), 1)
    made = backbone.tokenizer([text.replace("\0", PAD)], return_tensors="pt")
    inputs |= {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == backbone.image_token).int()
    return {name: tensor.to(backbone.device) for name, tensor in inputs.items()}


@torch.inference_mode()
def generated(backbone: Backbone, inputs: dict[str, torch.Tensor], tokens: int) -> None:
    """Exactly so many tokens."""
    backbone.model.generate(
        **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
    )
