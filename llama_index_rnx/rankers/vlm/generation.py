"""A vision-language ranker that writes: the weights that ranked a list also answer from it. It
knows no LlamaIndex.

Images go through the vision tower as when they are ranked, texts can forge no special token, and
each token is the most probable one. An adapter that was trained to rank writes, too, if it is
loaded, but not as well as the plain checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, ImageSource
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.backbone import Backbone, ImageFeatures, PromptTokens
from llama_index_rnx.rankers.vlm.decoding import stream_decode
from llama_index_rnx.rankers.vlm.packing import unpack
from llama_index_rnx.rankers.vlm.prompts import VISION_END, VISION_START
from llama_index_rnx.rankers.vlm.ranker import VLMRanker

TURN_END = "<|im_end|>"
STOP_TOKENS = (TURN_END, "<|endoftext|>")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation, of one side: texts and images, in order."""

    role: Literal["system", "user", "assistant"]
    contents: Sequence[str | ImageSource]


class Writer:
    """Continues a conversation.

    Args:
        ranker: a vision-language model, as `load_ranker` returns it.
        max_new_tokens: of an answer.
    """

    def __init__(self, ranker: VLMRanker, max_new_tokens: int = 256) -> None:
        self.ranker = ranker
        self.max_new_tokens = max_new_tokens
        self._backbone: Backbone = ranker.backbone
        self._tokenizer = self._backbone.tokenizer
        ids = {self._tokenizer.convert_tokens_to_ids(token) for token in STOP_TOKENS}
        self._stop_tokens = ids - {None}

    @property
    def context(self) -> int:
        """How many tokens a conversation and its answer may have together."""
        return self._backbone.context

    def generate(self, turns: Sequence[Turn]) -> Iterator[str]:
        """Yield the next turn in pieces, as they come.

        Raises:
            RNXError: the conversation is longer than the model's context.
            ImageError: an image cannot be read.
        """
        prompt = self.build_prompt(turns)
        if len(prompt) + self.max_new_tokens > self.context:
            raise RNXError(
                f"{self.ranker.name}: the conversation has {len(prompt)} tokens and the answer up "
                f"to {self.max_new_tokens}; {self.context} are allowed. Give fewer or smaller "
                "sources (top_n, max_pixels)."
            )
        tokens = self._backbone.greedy_decode(prompt, self.max_new_tokens, self._stop_tokens)
        yield from stream_decode(self._tokenizer, tokens)

    def build_prompt(self, turns: Sequence[Turn]) -> PromptTokens:
        """Lay out a conversation as tokens and images, up to the start of the next turn.

        Raises:
            ImageError: an image cannot be read.
        """
        features = self._encode_images(turns)
        images = iter(features)
        ids: list[Tensor] = []
        for turn in turns:
            ids.append(self._literal_ids(f"<|im_start|>{turn.role}\n"))
            for content in turn.contents:
                if isinstance(content, str):
                    ids.append(self._text_ids(content))
                else:
                    ids.append(self._image_ids(next(images)))
            ids.append(self._literal_ids(f"{TURN_END}\n"))
        ids.append(self._literal_ids("<|im_start|>assistant\n"))
        return PromptTokens(ids=torch.cat(ids), images=features)

    def _encode_images(self, turns: Sequence[Turn]) -> list[ImageFeatures]:
        """Return all images of a conversation in order, on the device."""
        contents = [content for turn in turns for content in turn.contents]
        candidates = [
            Candidate(id=str(i), image=content)
            for i, content in enumerate(contents)
            if isinstance(content, ImageSource)
        ]
        device = self._backbone.device
        features = []
        for memory in self.ranker.remember(candidates):
            moved = {name: tensor.to(device) for name, tensor in memory.items()}
            features.append(unpack(moved))
        return features

    def _image_ids(self, image: ImageFeatures) -> Tensor:
        start = self._literal_ids(VISION_START)
        tokens = torch.full((len(image.tokens),), self._backbone.image_token)
        return torch.cat([start, tokens, self._literal_ids(VISION_END)])

    def _text_ids(self, text: str) -> Tensor:
        """Return the ids of a text in which special tokens are plain text."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return torch.tensor(encoded["input_ids"], dtype=torch.long)

    def _literal_ids(self, text: str) -> Tensor:
        return torch.tensor(
            self._tokenizer.encode(text, add_special_tokens=False), dtype=torch.long
        )
