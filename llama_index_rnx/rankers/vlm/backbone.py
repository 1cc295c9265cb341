"""The vision-language families behind one interface: images -> visual tokens, prompts -> logits. It
knows no ranking.

One core serves all families; an adaptor states only where its family differs. The core never hands
pixels and token ids to a model together: the vision tower runs when an image is remembered, the
language model when a query is scored.

Axes: B prompts, L positions of a prompt, V visual tokens of an image, P patches of an image, D
deepstack layers, H hidden width, W words of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llama_index_rnx.errors import ImageError, SettingsError
from llama_index_rnx.ranking import pad_to_multiple

# The visual tokens of an image, unless `max_pixels` says otherwise.
VISUAL_TOKENS = 512

# How many numbers of each weight go into the fingerprint of a vision tower.
SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """An image after the vision tower: tokens [V, H], grid [3] (time, height, width in patches),
    deep [D, V, H] or None.
    """

    tokens: Tensor
    grid: Tensor
    deep: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of tokens and deep features."""
        return self.tokens.nbytes + (0 if self.deep is None else self.deep.nbytes)


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """A prompt: ids [L] on the CPU, with `image_token_id` at the positions of visual tokens, and
    its images in the order of the text.
    """

    ids: Tensor
    images: Sequence[ImageFeatures] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The common start of several prompts, computed once: keys and values of each layer, [1, heads,
    L, width], the position that follows it, and its length.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    next_position: int
    length: int


class Backbone:
    """The shared core. Its language model is called without pixels, and it computes logits for the
    last position only.

    The prompts of a batch are padded on the right. Under causal attention no real position can see
    a padded one, so no attention mask is needed and the fast kernels apply.
    """

    family: ClassVar[str]

    # Longest to shortest side of an image: the processors of all families refuse a larger ratio.
    max_aspect: ClassVar[int] = 200

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, max_pixels: int | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.processor = processor
        self.image_token = int(model.config.image_token_id)

        # The side of the square of pixels that becomes one visual token.
        side = processor.patch_size * processor.merge_size
        self.max_pixels = max_pixels or VISUAL_TOKENS * side * side
        shortest = min(processor.size["shortest_edge"], self.max_pixels)
        self._size = {"shortest_edge": shortest, "longest_edge": self.max_pixels}
        self._compiled: Any = None

    @property
    def device(self) -> torch.device:
        """The device of the prompts' embeddings; with a device map the rest may be elsewhere."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def context(self) -> int:
        """How many positions a prompt may have."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def extract_patches(self, image: Any) -> tuple[Tensor, Tensor]:
        """Cut a PIL image into patches [P, values] with their grid [3]. This is the slow part on a
        CPU; several threads may call it.

        Raises:
            ImageError: the processor refuses the image, for instance one that is more than
                `max_aspect` times as long as it is wide.
        """
        try:
            inputs = self.processor(images=[image], size=self._size, return_tensors="pt")
        except ValueError as error:
            width, height = image.size
            raise ImageError(
                f"the model's processor refuses an image of {width} x {height} pixels: {error}"
            ) from error
        return inputs["pixel_values"], inputs["image_grid_thw"][0]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[tuple[Tensor, Tensor]]) -> list[ImageFeatures]:
        """Run the vision tower once over a batch of images that `extract_patches` prepared."""
        visual = self.model.model.visual
        patches = torch.cat([patches for patches, _ in images]).to(visual.device)  # [sum P, values]
        grids = torch.stack([grid for _, grid in images])  # [images, 3]

        output = self.model.model.get_image_features(patches, grids.to(visual.device))
        deep: Sequence[Tensor | None] = self._deep_features(output) or [None] * len(grids)
        return [
            ImageFeatures(tokens=tokens, grid=grid, deep=layers)
            for tokens, grid, layers in zip(output.pooler_output, grids, deep, strict=True)
        ]

    @torch.inference_mode()
    def next_token_logits(
        self,
        prompts: Sequence[PromptTokens],
        prefix: Prefix | None = None,
        words: Sequence[int] = (),
    ) -> Tensor:
        """Return the logits [B, W] in fp32 that follow each prompt (or `prefix` and each prompt),
        in one forward.

        In a model of 16 bits only the logits of `words` are more than rounded numbers: bfloat16
        keeps a logit of 20 to 1/8.
        """
        return self.forward(prompts, prefix, words)

    def forward(
        self,
        prompts: Sequence[PromptTokens],
        prefix: Prefix | None = None,
        words: Sequence[int] = (),
    ) -> Tensor:
        """Return what `next_token_logits` returns, with gradients for weights that require them:
        training calls this forward, too.
        """
        states = self._language_states(prompts, prefix)  # [B, L, H]
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=states.device)
        last = states[torch.arange(len(prompts), device=states.device), ends]  # [B, H]
        logits: Tensor = self.model.lm_head(last).float()

        # Computed in bfloat16, only 10 of 20 yes/no scores were different.
        if words and last.dtype != torch.float32:
            weight = self.model.lm_head.weight[list(words)].to(last.device)  # [words, H]
            logits[:, list(words)] = last.float() @ weight.float().T
        return logits

    @torch.inference_mode()
    def compute_prefix(self, prompt: PromptTokens) -> Prefix:
        """Compute the keys and values of a common start; it must end in text."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        self._language_states([prompt], None, cache)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        next_position = int(self._positions(prompt, 0).max()) + 1
        return Prefix(layers=layers, next_position=next_position, length=len(prompt))

    @torch.inference_mode()
    def greedy_decode(
        self, prompt: PromptTokens, max_new_tokens: int, stop_tokens: Collection[int]
    ) -> Iterator[int]:
        """Yield the most probable token after the prompt, again and again, until one of
        `stop_tokens` comes or there are `max_new_tokens`.
        """
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        states = self._language_states([prompt], None, cache)  # [1, L, H]
        start = int(self._positions(prompt, 0).max()) + 1

        for position in range(start, start + max_new_tokens):
            token = int(self.model.lm_head(states[0, -1]).argmax())
            if token in stop_tokens:
                return
            yield token

            ids = torch.tensor([[token]], device=self.device)
            states = self.model.model.language_model(
                inputs_embeds=self.model.get_input_embeddings()(ids),  # [1, 1, H]
                position_ids=torch.full((3, 1, 1), position, device=self.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state

    def compile(self) -> None:
        """Run whole prompts by kernels of torch.compile from now on, on cuda replayed as CUDA
        graphs.

        The first prompt pays a minute for it. Prompts are padded to one of few lengths
        (`pad_to_multiple`), since each length is a graph of its own. Prefixes and the prompts that
        follow them run as before: their caches grow, and graphs need fixed addresses. So the
        read-out by labels gains.

        Raises:
            SettingsError: this machine has no compiler (a C++ one for cpu, triton for cuda), or the
                weights are spread over several devices.
        """
        language = self.model.model.language_model
        if len({weight.device for weight in language.parameters()}) > 1:
            raise SettingsError(
                "compile=True needs all weights on one device; leave it out, or name one device."
            )
        _check_compiler(self.device)
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._compiled = torch.compile(language, dynamic=True, mode=mode)

    def fingerprint(self) -> str:
        """Name all that a memory depends on: tokenizer, vision tower (by samples of every weight),
        its precision, `max_pixels`.

        The language model is no part of it: after training that alone, memories stay valid.
        """
        visual = self.model.model.visual
        samples = [
            weight.flatten()[:: max(1, weight.numel() // SAMPLES)][:SAMPLES].float()
            for weight in visual.parameters()
        ]
        digest = hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        digest.update(json.dumps(self.processor.to_dict(), sort_keys=True, default=str).encode())
        return f"{self.family}/{digest.hexdigest()[:24]}/{visual.dtype}/{self.max_pixels}"

    def _language_states(
        self, prompts: Sequence[PromptTokens], prefix: Prefix | None, cache: Any = None
    ) -> Tensor:
        """Return the language model's last states [B, L, H]. A `cache` that is given is filled; a
        prefix is copied, not touched.
        """
        language = self.model.model.language_model
        length = max(map(len, prompts))
        if self._compiled is not None and prefix is None and cache is None:
            language = self._compiled
            length = pad_to_multiple(length)
            # The output of the last call may be overwritten now.
            torch.compiler.cudagraph_mark_step_begin()

        ids = _pad([prompt.ids for prompt in prompts], length)  # [B, L]
        start = prefix.next_position if prefix else 0
        positions = _pad([self._positions(p, start).T for p in prompts], length)  # [B, L, 3]

        images = [image for prompt in prompts for image in prompt.images]
        image_mask = (ids == self.image_token).to(self.device)  # [B, L]
        embeds = self.model.get_input_embeddings()(ids.to(self.device))  # [B, L, H]
        if images:
            tokens = [image.tokens.to(embeds.device, embeds.dtype) for image in images]
            embeds[image_mask] = torch.cat(tokens)

        output = language(
            inputs_embeds=embeds,
            position_ids=positions.permute(2, 0, 1).to(self.device),
            past_key_values=_expand(prefix, len(prompts)) if prefix else cache,
            use_cache=prefix is not None or cache is not None,
            **self._extra_inputs(images, image_mask, embeds.dtype),
        )
        states: Tensor = output.last_hidden_state
        return states

    def _positions(self, prompt: PromptTokens, start: int) -> Tensor:
        """Return [3, L]: time, height and width of each position, counted by the family's own rule;
        of text all three are the same.
        """
        if not prompt.images:
            return torch.arange(start, start + len(prompt)).expand(3, -1)
        types = (prompt.ids == self.image_token).int()
        grids = [image.grid.cpu() for image in prompt.images]
        positions, _ = self.model.model.get_rope_index(
            prompt.ids[None], types[None], image_grid_thw=grids
        )  # [3, 1, L]
        shifted: Tensor = positions[:, 0] + start
        return shifted

    def _deep_features(self, output: Any) -> list[Tensor] | None:
        """Return the deepstack features [D, V, H] of each image, in families that have them."""
        return None

    def _extra_inputs(
        self, images: Sequence[ImageFeatures], image_mask: Tensor, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return what this family's language model needs besides embeddings and positions."""
        return {}


class Qwen2VL(Backbone):
    """Qwen2-VL: nothing differs from the core."""

    family = "qwen2_vl"


class Qwen25VL(Backbone):
    """Qwen2.5-VL: nothing differs from the core."""

    family = "qwen2_5_vl"


class Qwen3VL(Backbone):
    """Qwen3-VL adds features of inner vision layers to the states of the first language layers
    (DeepStack, arXiv 2406.04334).
    """

    family = "qwen3_vl"

    def _deep_features(self, output: Any) -> list[Tensor] | None:
        return [torch.stack(layers) for layers in zip(*output.deepstack_features, strict=True)]

    def _extra_inputs(
        self, images: Sequence[ImageFeatures], image_mask: Tensor, dtype: torch.dtype
    ) -> dict[str, Any]:
        deep = [image.deep for image in images if image.deep is not None]
        if not deep:
            return {}
        joined = torch.cat([layers.to(image_mask.device, dtype) for layers in deep], dim=1)
        # joined: [D, sum V, H]
        return {"visual_pos_masks": image_mask, "deepstack_visual_embeds": list(joined)}


FAMILIES: Mapping[str, type[Backbone]] = {
    adaptor.family: adaptor for adaptor in (Qwen2VL, Qwen25VL, Qwen3VL)
}


def _expand(prefix: Prefix, count: int) -> Any:
    """Return the prefix as a cache of `count` prompts. Appending to it leaves the prefix as is."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.layers):
        cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), layer)
    return cache


def _pad(rows: Sequence[Tensor], length: int) -> Tensor:
    """Stack rows [l, ...] of several lengths -> [B, L, ...], filled with zeros on the right."""
    padded = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:])
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def _check_compiler(device: torch.device) -> None:
    """Compile a small function, which fails within seconds; a whole model would fail after a
    minute, in the middle of a query.
    """
    try:
        torch.compile(lambda x: (x * 2 + 1).relu())(torch.ones(8, device=device))
    except Exception as error:  # Dynamo and inductor have no common exception of their own.
        raise SettingsError(
            f"compile=True: torch.compile does not work here ({type(error).__name__}); it needs a "
            "C++ compiler (g++) for cpu, triton for cuda. Leave it out, or install that."
        ) from error
