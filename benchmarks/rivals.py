"""What else one would run in place of our ranker, with the same weights: their packages' own calls,
nothing made faster.

All of them read texts and open images anew at every query. It knows nothing of ours but the weights
and the prompts.
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

WINDOW = 20
STRIDE = 10

# Tokens that a generated list spends on a candidate: "[", "1", "2", "]", " >", " ".
TOKENS_PER_CANDIDATE = 6

# Tokens of a chat model's answer on one candidate.
ANSWER_TOKENS = 4

PAD = "<|image_pad|>"
PICTURE = f"<|vision_start|>{PAD}<|vision_end|>"
INTRODUCTION = (
    "Judge whether the document meets the requirements of the query. "
    "Answer yes or no only.\nQuery: "
)

# A message's content in a chat template: an image's marks, or the text.
CONTENT = "{% for part in message.content %}{% if part.type == 'image' %}" + PICTURE
CONTENT += "{% else %}{{ part.text }}{% endif %}{% endfor %}"

# ---- (a) a permutation generated over sliding windows: LightOn-rerank-LW, RankZephyr


def generated_list(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """Rank by sliding windows; each generates its permutation token by token."""

    def score(positions: tuple[int, ...]) -> list[float]:
        window = [candidates[position] for position in positions]
        documents = "".join(f"[{n}] {content(item)}\n" for n, item in enumerate(window))
        images = [item.image.load() for item in window if item.image]
        inputs = plain_inputs(backbone, f"{documents}Rank them by: {query.text}\n", images)
        generate(backbone, inputs, TOKENS_PER_CANDIDATE * len(window))
        return [-float(n) for n in range(len(window))]

    run_plan(sliding_windows(len(candidates), WINDOW, STRIDE), score)


# ---- (b) pointwise, through sentence-transformers


def cross_encoder(backbone: Backbone, prompt: PairPrompt = PairPrompt()) -> CrossEncoder:
    """Return sentence-transformers' `CrossEncoder` on the backbone's own weights, with our
    pointwise prompt.

    Its scores are those of our pointwise read-out, so both do the same work. The usual processor of
    these models needs torchvision, for videos; this one is the same without them.
    """
    processor = ImageProcessor(
        backbone.processor, backbone.tokenizer, chat_template=_chat_template(prompt)
    )
    with tempfile.TemporaryDirectory() as folder:
        backbone.model.config.save_pretrained(folder)
        with mock.patch.object(st.AutoProcessor, "from_pretrained", return_value=processor):
            reader = _Reader(folder, backbone)
    ids = backbone.tokenizer.convert_tokens_to_ids([prompt.yes, prompt.no])
    return CrossEncoder(modules=[reader, LogitScore(*ids)], device=str(backbone.device))


def predicted(encoder: CrossEncoder, query: Query, candidates: Sequence[Candidate]) -> list[float]:
    """Return its scores in [0, 1], in batches of its own size (32), sorted by length as it does."""
    pairs = [(query.text, _document(candidate)) for candidate in candidates]
    scores: list[float] = encoder.predict(pairs, show_progress_bar=False).tolist()
    return scores


class ImageProcessor(Qwen2VLProcessor):
    """Texts and images, no videos."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        self.image_token = PAD
        self.video_token = "<|video_pad|>"
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
    """Return our pointwise prompt as a template of messages with roles `query` and `document`."""
    text = prompt.template.replace("{instruction}", prompt.instruction)
    for name, role in (("{query}", "query"), ("{content}", "document")):
        condition = "{% for message in messages if message.role == '" + role + "' %}"
        text = text.replace(name, condition + CONTENT + "{% endfor %}")
    # A template drops line breaks after blocks and at its end.
    return text.replace("\n", "{{ '\\n' }}")


def _document(candidate: Candidate) -> Any:
    if candidate.image is None:
        return candidate.text
    image = candidate.image.load()
    # The image comes first, as in our prompt.
    return {"image": image, "text": candidate.text} if candidate.text else image


# ---- (c) one candidate at a time, by a chat model: what LlamaIndex offers for pictures


def one_at_a_time(backbone: Backbone, query: Query, candidates: Sequence[Candidate]) -> None:
    """Score by one prompt a candidate, with a short answer by `generate`."""
    for candidate in candidates:
        images = [candidate.image.load()] if candidate.image else []
        prompt = f"{INTRODUCTION}{query.text}\n{content(candidate)}\nyes or no?"
        generate(backbone, plain_inputs(backbone, prompt, images), ANSWER_TOKENS)


# ---- transformers' own way


def content(candidate: Candidate) -> str:
    """Return a candidate's text, with the marks of its image in front."""
    return (PICTURE if candidate.image else "") + candidate.text


def plain_inputs(
    backbone: Backbone, text: str, images: Sequence[Image.Image]
) -> dict[str, torch.Tensor]:
    """Return what transformers' own processor makes of a prompt and its images."""
    inputs: dict[str, Any] = {}
    if images:
        inputs = dict(backbone.processor(images=list(images), return_tensors="pt"))
    for grid in inputs.get("image_grid_thw", []):
        text = text.replace(PAD, "\0" * (int(grid.prod()) // 4), 1)
    tokens = backbone.tokenizer([text.replace("\0", PAD)], return_tensors="pt")
    inputs |= {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == backbone.image_token).int()
    return {name: tensor.to(backbone.device) for name, tensor in inputs.items()}


@torch.inference_mode()
def generate(backbone: Backbone, inputs: dict[str, torch.Tensor], tokens: int) -> None:
    """Generate exactly so many tokens."""
    backbone.model.generate(
        **inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
    )
