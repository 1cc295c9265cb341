"""The vision-language families behind one face: pictures -> visual tokens, prompts -> logits. It
knows no ranking.

One core serves all of them; an adaptor says only where a family differs. The core never hands
pixels and token ids to a model together: the vision tower runs when something is remembered, the
language model when something is asked.

Axes: B rows (prompts), L places of a row, V visual tokens of a picture, D deepstack layers, H
hidden width, W words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.ranking import pad_to_multiple

VISUAL_TOKENS = 512  # of a picture, unless max_pixels says otherwise
SAMPLES = 64  # numbers of each weight that go into the fingerprint of a vision tower


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """A picture after the vision tower: tokens [V, H], grid [3] (time, height, width in patches),
    deep [D, V, H] or None.
    """

    tokens: Tensor
    grid: Tensor
    deep: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + (0 if self.deep is None else self.deep.nbytes)


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """A prompt: ids [L] on the CPU, with `image_token_id` at the places of visual tokens, and its
    pictures in order.
    """

    ids: Tensor
    seen: Sequence[ImageFeatures] = ()

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What several rows begin with, read once: keys and values of each layer, [1, heads, L, width],
    and its length.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    next_position: int
    length: int


class Backbone:
    """The shared core. Its language model is called without pixels, its logits are computed for the
    last place only.

    Rows of a batch are padded on the right: under causal attention no real place can see a padded
    one, so no attention mask is needed and the fast kernels apply.
    """

    family: ClassVar[str]
    max_aspect: ClassVar[int] = (
        200  # of a picture: the processors of all families refuse a longer one
    )

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, max_pixels: int | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.processor = tokenizer, processor
        self.image_token = int(model.config.image_token_id)
        side = processor.patch_size * processor.merge_size  # pixels of a visual token's side
        self.max_pixels = max_pixels or VISUAL_TOKENS * side * side
        low = processor.size["shortest_edge"]
        self._size = {"shortest_edge": min(low, self.max_pixels), "longest_edge": self.max_pixels}
        self._compiled: Any = None

    @property
    def device(self) -> torch.device:
        """Where the prompts' embeddings live; with a device map the rest may live elsewhere."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def context(self) -> int:
        """How many places a row may have."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def pixels(self, picture: Any) -> tuple[Tensor, Tensor]:
        """A PIL picture -> patches [P, values] and grid [3]; the slow part on a CPU, made for
        several threads.

        Raises:
            ImageError: the processor refuses it, as one that is more than `max_aspect` times as
                long as it is wide.
        """
        try:
            made = self.processor(images=[picture], size=self._size, return_tensors="pt")
        except ValueError as error:
            raise ImageError(
                f"a picture of {picture.size[0]} x {picture.size[1]} pixels does not suit: {error}"
            ) from error
        return made["pixel_values"], made["image_grid_thw"][0]

    @torch.inference_mode()
    def see(self, pictures: Sequence[tuple[Tensor, Tensor]]) -> list[ImageFeatures]:
        """The vision tower, once over a batch of what `pixels` made."""
        visual = self.model.model.visual
        patches = torch.cat([patches for patches, _ in pictures]).to(
            visual.device
        )  # [sum P, values]
        grids = torch.stack([grid for _, grid in pictures])  # [pictures, 3]
        found = self.model.model.get_image_features(patches, grids.to(visual.device))
        deep: Sequence[Tensor | None] = self._deep(found) or [None] * len(grids)
        return [
            ImageFeatures(tokens=tokens, grid=grid, deep=layers)
            for tokens, grid, layers in zip(found.pooler_output, grids, deep, strict=True)
        ]

    @torch.inference_mode()
    def read(
        self, rows: Sequence[PromptTokens], prefix: Prefix | None = None, words: Sequence[int] = ()
    ) -> Tensor:
        """The logits [B, W] in fp32 that follow each row (or `prefix` and each row), in one
        forward.

        In a model of 16 bits only those of `words` are more than rounded numbers: bfloat16 keeps a
        logit of 20 to 1/8.
        """
        return self.logits(rows, prefix, words)

    def logits(
        self, rows: Sequence[PromptTokens], prefix: Prefix | None = None, words: Sequence[int] = ()
    ) -> Tensor:
        """What `read` returns, with gradients for weights that want them: training calls this
        forward too.
        """
        states = self._forward(rows, prefix)  # [B, L, H]
        last = torch.tensor([len(row) - 1 for row in rows], device=states.device)
        ends = states[torch.arange(len(rows), device=states.device), last]  # [B, H]
        logits: Tensor = self.model.lm_head(ends).float()
        if (
            words and ends.dtype != torch.float32
        ):  # of 20 yes/no scores in bfloat16 only 10 were different
            weight = self.model.lm_head.weight[list(words)].to(ends.device)  # [A, H]
            logits[:, list(words)] = ends.float() @ weight.float().T
        return logits

    @torch.inference_mode()
    def prefix(self, row: PromptTokens) -> Prefix:
        """Reads what several rows begin with; it must end in text."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        self._forward([row], None, cache)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        return Prefix(
            layers=layers, next_position=int(self._positions(row, 0).max()) + 1, length=len(row)
        )

    @torch.inference_mode()
    def written(self, row: PromptTokens, most: int, ends: Collection[int]) -> Iterator[int]:
        """The most probable token after the row, again and again, until one of `ends` comes or
        there are `most`.
        """
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        states = self._forward([row], None, cache)  # [1, L, H]
        start = int(self._positions(row, 0).max()) + 1
        for place in range(start, start + most):
            token = int(self.model.lm_head(states[0, -1]).argmax())
            if token in ends:
                return
            yield token
            states = self.model.model.language_model(
                inputs_embeds=self.model.get_input_embeddings()(
                    torch.tensor([[token]], device=self.device)
                ),  # [1, 1, H]
                position_ids=torch.full((3, 1, 1), place, device=self.device),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state

    def compile(self) -> None:
        """From now on whole prompts are read by kernels that torch.compile makes, on cuda replayed
        as CUDA graphs.

        The first prompt pays a minute for it. Prompts are padded to one of few lengths
        (`pad_to_multiple`), since each length is a graph of its own. Prefixes and what follows them
        are read as before: their caches grow, and graphs want fixed addresses. So the read-out by
        labels gains.

        Raises:
            RNXError: this machine has no compiler (a C++ one for cpu, triton for cuda), or the
                weights are spread.
        """
        language = self.model.model.language_model
        if len({weight.device for weight in language.parameters()}) > 1:
            raise RNXError(
                "compile=True needs all weights on one device; leave it out, or name one device."
            )
        _check_compiler(self.device)
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._compiled = torch.compile(language, dynamic=True, mode=mode)

    def fingerprint(self) -> str:
        """Names what a memory depends on: tokenizer, vision tower (by samples of every weight), its
        precision, `max_pixels`.

        The language model is no part of it: after training that alone, memories stay good.
        """
        visual = self.model.model.visual
        samples = [
            p.flatten()[:: max(1, p.numel() // SAMPLES)][:SAMPLES].float()
            for p in visual.parameters()
        ]
        digest = hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        digest.update(json.dumps(self.processor.to_dict(), sort_keys=True, default=str).encode())
        return f"{self.family}/{digest.hexdigest()[:24]}/{visual.dtype}/{self.max_pixels}"

    def _forward(
        self, rows: Sequence[PromptTokens], prefix: Prefix | None, cache: Any = None
    ) -> Tensor:
        """The language model's last states [B, L, H]. `cache` is filled when one is given; a prefix
        is copied, not touched.
        """
        language, length = self.model.model.language_model, max(map(len, rows))
        if self._compiled is not None and prefix is None and cache is None:
            language, length = self._compiled, pad_to_multiple(length)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call] # what the last call returned may be overwritten
        ids = _padded([row.ids for row in rows], length)  # [B, L]
        start = prefix.next_position if prefix else 0
        positions = _padded([self._positions(row, start).T for row in rows], length)  # [B, L, 3]
        seen = [seen for row in rows for seen in row.seen]
        places = (ids == self.image_token).to(self.device)  # [B, L]
        embeds = self.model.get_input_embeddings()(ids.to(self.device))  # [B, L, H]
        if seen:
            embeds[places] = torch.cat([one.tokens.to(embeds.device, embeds.dtype) for one in seen])
        found = language(
            inputs_embeds=embeds,
            position_ids=positions.permute(2, 0, 1).to(self.device),
            past_key_values=_copied(prefix, len(rows)) if prefix else cache,
            use_cache=prefix is not None or cache is not None,
            **self._extra(seen, places, embeds.dtype),
        )
        states: Tensor = found.last_hidden_state
        return states

    def _positions(self, row: PromptTokens, start: int) -> Tensor:
        """[3, L]: time, height and width of each place, counted by the family's own rule; of a text
        all three are its place.
        """
        if not row.seen:
            return torch.arange(start, start + len(row)).expand(3, -1)
        types = (row.ids == self.image_token).int()
        grids = [seen.grid.cpu() for seen in row.seen]
        found: Tensor = self.model.model.get_rope_index(
            row.ids[None], types[None], image_grid_thw=grids
        )[0][:, 0]
        return found + start

    def _deep(self, found: Any) -> list[Tensor] | None:
        """The deepstack features [D, V, H] of each picture, in families that have them."""
        return None

    def _extra(
        self, seen: Sequence[ImageFeatures], places: Tensor, dtype: torch.dtype
    ) -> dict[str, Any]:
        """What this family's language model wants besides embeddings and positions."""
        return {}


class Qwen2VL(Backbone):
    family = "qwen2_vl"


class Qwen25VL(Backbone):
    family = "qwen2_5_vl"


class Qwen3VL(Backbone):
    """Adds features of inner vision layers to the states of the first language layers (DeepStack,
    arXiv 2406.04334).
    """

    family = "qwen3_vl"

    def _deep(self, found: Any) -> list[Tensor] | None:
        return [torch.stack(layers) for layers in zip(*found.deepstack_features, strict=True)]

    def _extra(
        self, seen: Sequence[ImageFeatures], places: Tensor, dtype: torch.dtype
    ) -> dict[str, Any]:
        deep = [one.deep for one in seen if one.deep is not None]
        if not deep:
            return {}
        joined = torch.cat([one.to(places.device, dtype) for one in deep], dim=1)  # [D, sum V, H]
        return {"visual_pos_masks": places, "deepstack_visual_embeds": list(joined)}


FAMILIES: Mapping[str, type[Backbone]] = {
    kind.family: kind for kind in (Qwen2VL, Qwen25VL, Qwen3VL)
}


def _copied(prefix: Prefix, rows: int) -> Any:
    """The prefix as a cache of `rows` rows; what is appended to it does not reach the prefix."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows [l, ...] of several lengths -> [B, L, ...], filled with zeros on the right."""
    found = rows[0].new_zeros(len(rows), length, *rows[0].shape[1:])
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def _check_compiler(device: torch.device) -> None:
    """A small function tells in seconds; a whole model would fail after a minute, in the middle of
    a query.
    """
    try:
        torch.compile(lambda x: (x * 2 + 1).relu())(torch.ones(8, device=device))
    except Exception as error:  # dynamo and inductor have no common exception of their own
        raise RNXError(
            f"compile=True: torch.compile does not work here ({type(error).__name__}); it needs a C++ compiler (g++) for cpu, "
            "triton for cuda. Leave it out, or install that."
        ) from error
