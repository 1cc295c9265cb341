"""A vision-language ranker that writes: the weights that ranked a list also answer from it. It
knows no LlamaIndex.

Pictures go through the vision tower as when they are ranked, texts can forge no special token, and
the words are the most probable ones, one after the other. An adapter that was trained to rank
writes, too, if it is loaded, and not as well as the plain checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, ImageSource
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.backbone import Backbone, ImageFeatures, PromptTokens
from llama_index_rnx.rankers.vlm.packing import unpack
from llama_index_rnx.rankers.vlm.prompts import VISION_END, VISION_START
from llama_index_rnx.rankers.vlm.ranker import VLMRanker

TURN_END = "<|im_end|>"
ENDS = (TURN_END, "<|endoftext|>")
UNFINISHED = "\ufffd"  # what a byte of a longer sign decodes to


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side says: texts and pictures, in order."""

    role: Literal["system", "user", "assistant"]
    parts: Sequence[str | ImageSource]


class Writer:
    """Continues a conversation.

    Args:
        ranker: a vision-language model, as `load_ranker` gives it.
        most: tokens of an answer.
    """

    def __init__(self, ranker: VLMRanker, most: int = 256) -> None:
        self.ranker, self.most = ranker, most
        self._backbone: Backbone = ranker.backbone
        self._tokenizer = self._backbone.tokenizer
        self._ends = {self._tokenizer.convert_tokens_to_ids(end) for end in ENDS} - {None}

    @property
    def context(self) -> int:
        """Tokens of a conversation and its answer together."""
        return self._backbone.context

    def write(self, turns: Sequence[Turn]) -> Iterator[str]:
        """The next turn, in pieces, as they come.

        Raises:
            RNXError: the conversation is longer than the model's context. ImageError: a picture
                cannot be read.
        """
        row = self._row(turns)
        if len(row) + self.most > self.context:
            raise RNXError(
                f"{self.ranker.name}: the conversation has {len(row)} tokens and the answer up to {self.most}; "
                f"{self.context} are allowed. Give fewer or smaller sources (top_n, max_pixels)."
            )
        yield from stream_decode(
            self._tokenizer, self._backbone.written(row, self.most, self._ends)
        )

    def _row(self, turns: Sequence[Turn]) -> PromptTokens:
        images = [part for turn in turns for part in turn.parts if isinstance(part, ImageSource)]
        memories = self.ranker.remember(
            [Candidate(id=str(i), image=image) for i, image in enumerate(images)]
        )
        seen = [
            unpack({name: tensor.to(self._backbone.device) for name, tensor in memory.items()})
            for memory in memories
        ]
        left = iter(seen)
        ids: list[Tensor] = []
        for turn in turns:
            ids.append(self._literal(f"<|im_start|>{turn.role}\n"))
            ids += [self._said(part, left) for part in turn.parts]
            ids.append(self._literal(f"{TURN_END}\n"))
        ids.append(self._literal("<|im_start|>assistant\n"))
        return PromptTokens(ids=torch.cat(ids), seen=seen)

    def _said(self, part: str | ImageSource, seen: Iterator[ImageFeatures]) -> Tensor:
        if isinstance(part, str):
            made = self._tokenizer(part, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
            return torch.tensor(made, dtype=torch.long)
        places = torch.full((len(next(seen).tokens),), self._backbone.image_token)
        return torch.cat([self._literal(VISION_START), places, self._literal(VISION_END)])

    def _literal(self, text: str) -> Tensor:
        return torch.tensor(
            self._tokenizer.encode(text, add_special_tokens=False), dtype=torch.long
        )


def stream_decode(tokenizer: Any, tokens: Iterator[int]) -> Iterator[str]:
    """Tokens as pieces of text; a sign that takes several tokens comes when it is whole."""
    written: list[int] = []
    done = ""
    for token in tokens:
        written.append(token)
        text = tokenizer.decode(written, skip_special_tokens=True)
        if not text.endswith(UNFINISHED) and len(text) > len(done):
            yield text[len(done) :]
            done = text
