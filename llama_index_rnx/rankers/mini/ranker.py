"""rnx-mini: the embedded ranker. Two frozen towers remember, a small listwise reader scores; no
GPU, no download.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.candidates import Candidate, ImageSource, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.mini.image_encoder import preprocess
from llama_index_rnx.rankers.mini.image_heads import CaptionVectors
from llama_index_rnx.rankers.mini.listwise_scorer import (
    QueryStates,
    ScorerOutput,
    TextMemory,
    collate,
)
from llama_index_rnx.rankers.mini.model import NAME, MiniModel, model_folder, read_mini
from llama_index_rnx.rankers.mini.quantization import dequantize_rows, quantize_rows
from llama_index_rnx.rankers.mini.text_encoder import CHUNK_PIECES, MAX_CHUNKS, EncodedText
from llama_index_rnx.ranking import ScorePlan

WINDOW = 128  # candidates that attend to one another; the reader was trained on lists of up to 100
IMAGE_PIXELS = 512 * 512  # decoded at about this size, then squashed to the tower's 256 x 256
IMAGES_AT_ONCE = 16
READ_AT_ONCE = 50  # candidates of one part of a list; smaller parts cost more than they share out
# Of a picture beside a text of several chunks: 2.5 off the logit by which words find it; pictures
# still do.
PAGE_HUB = 0.2
LAYOUT = "m2"  # of a memory; with another one, memories that were kept are made anew
CAPTION_SHARE = (
    0.3  # of a text's dense vector: enough to find texts by a picture, too little to reorder texts
)


@dataclass(frozen=True, kw_only=True)
class _TextQuery:
    """A text query after the tower: for texts its states, for images its caption side."""

    states: QueryStates
    caption: CaptionVectors


class MiniRanker:
    """The `Ranker` of the embedded model.

    A memory holds, of a text: `chunks` [C, 384] and `tokens` [S, 128] in int8, each with scales a
    row, `pieces` and `counts` [L], `caption` [D] fp16 (how a picture query sees it); of an image:
    `vector` [D] fp16, `regions` [16, W] int8 with `region_scales` [16], `hub` [1]. At most 23 kB;
    about 10 kB for a passage of MS MARCO, 3 kB for a picture.
    """

    def __init__(
        self,
        model: MiniModel,
        config: Mapping[str, Any],
        device: str,
        dtype: torch.dtype,
        max_text_tokens: int,
        folder: Path | None = None,
    ) -> None:
        self._loaded_from = (folder, device, dtype, max_text_tokens)
        self._model = model.eval().to(device)
        self._model.text.to(dtype)
        self._model.eyes.to(
            dtype
        )  # of one core a picture takes 47 ms in bf16, 121 in fp32; what is found is the same
        self._device, self._dtype = device, dtype
        self._max_chunks = max(1, min(MAX_CHUNKS, -(-max_text_tokens // CHUNK_PIECES)))
        self._fingerprint = f"{NAME}/{config['digest']}/{self._max_chunks}/{LAYOUT}"
        self.image_calibration: tuple[float, float] = tuple(config["retrieval"])
        image = model.image.config
        self.dimensions = image.text_width + image.dim + 2  # of a dense vector: 384 + 384
        self._text_query = lru_cache(maxsize=256)(self._encode_query)
        self._image_query = lru_cache(maxsize=64)(self._encode_image_query)

    @property
    def name(self) -> str:
        return NAME

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def window(self) -> int:
        return WINDOW

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles carry no weights: they are loaded where it arrives, once for the
        process.
        """
        if self._loaded_from[0] is None:
            raise RNXError(
                f"this {NAME} was made in memory; save it into a folder and load it from there to copy or pickle it."
            )
        return _load, self._loaded_from

    @property
    def readers(self) -> int:
        """How many may score at once: reading keeps no state, and torch lets other threads in while
        it computes.
        """
        return (
            len(os.sched_getaffinity(0))
            if self._device == "cpu" and hasattr(os, "sched_getaffinity")
            else 1
        )

    @torch.inference_mode()
    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """One memory a candidate; texts go through the tower in batches of like length, images are
        decoded side by side.
        """
        texts = {i: c.text for i, c in enumerate(candidates) if c.text}
        images = {i: c.image for i, c in enumerate(candidates) if c.image is not None}
        found: list[dict[str, Tensor]] = [{} for _ in candidates]
        for i, memory in zip(images, self._remember_images(list(images.values())), strict=True):
            found[i].update(memory)
        for i, memory in zip(texts, self._remember_texts(list(texts.values())), strict=True):
            found[i].update(memory)
        return list(found)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Scores in (0, 1): the logistic of the listwise logit; of a query with text and image, of
        the mean of both.
        """
        return self.plan(query, memories).run() if memories else []

    def plan(self, query: Query, memories: Sequence[Memory]) -> ScorePlan:
        """The same in parts of about `READ_AT_ONCE` candidates, which several threads may read side
        by side.

        The parts depend on the list alone and not on who reads them. (OpenMP's threads move a score
        by 1e-6 at most.)
        """
        by_text = self._text_query(query.text) if query.text else None
        by_image = self._image_query(_Keyed(query.image)) if query.image is not None else None
        if by_text is None:
            return ScorePlan(parts=[], finish=lambda _: self._finish([], by_image, memories))

        number = -(-len(memories) // READ_AT_ONCE)
        size = -(-len(memories) // number)
        starts = range(0, len(memories), size)
        parts = [partial(self._read, by_text, memories[start : start + size]) for start in starts]
        return ScorePlan(
            parts=parts, finish=lambda readings: self._finish(readings, by_image, memories)
        )

    @torch.inference_mode()
    def _finish(
        self, readings: Sequence[ScorerOutput], image: Memory | None, memories: Sequence[Memory]
    ) -> list[float]:
        """Compare the candidates with one another."""
        logits = []
        if readings:
            logits.append(self._model.reader.rank(ScorerOutput.join(readings)).cpu())
        if image is not None:
            logits.append(self._score_by_image(image, memories))
        scores: list[float] = torch.stack(logits).mean(0).double().sigmoid().tolist()  # [N]
        return scores

    @torch.inference_mode()
    def query_vector(self, query: Query) -> list[float]:
        """The query in the dense space of `text_vector` and `image_vector`, unit length."""
        parts = []
        if query.text:
            found = self._text_query(query.text)
            parts.append(self._text_side(found.states.vector, found.caption.vector[0]))
        if query.image is not None:
            parts.append(self._image_side(self._image_query(_Keyed(query.image))))
        vector: list[float] = normalize(torch.stack(parts).sum(0), dim=0).tolist()
        return vector

    @torch.inference_mode()
    def text_vector(self, memory: Memory) -> list[float] | None:
        """The dense vector of a remembered text: 384 of gte-small, then 384 of the image space;
        None without text.
        """
        if "chunks" not in memory:
            return None
        whole = normalize(_chunks(memory).mean(0), dim=0)  # [384]
        vector: list[float] = self._text_side(
            whole.to(self._device), memory["caption"].float().to(self._device)
        ).tolist()
        return vector

    @torch.inference_mode()
    def image_vector(self, memory: Memory) -> list[float] | None:
        """The dense vector of a remembered image: 384 zeros, then 384 of the image space; None
        without image.
        """
        if "vector" not in memory:
            return None
        vector: list[float] = self._image_side(memory).tolist()
        return vector

    def dense_vectors(
        self, memories: Sequence[Memory]
    ) -> list[tuple[list[float] | None, list[float] | None]]:
        """The `text_vector` and the `image_vector` of each memory."""
        return [(self.text_vector(memory), self.image_vector(memory)) for memory in memories]

    def _text_side(self, text: Tensor, caption: Tensor) -> Tensor:
        share = CAPTION_SHARE
        seen = self._model.image.query_vector(caption.unsqueeze(0))[0]  # [384]
        return torch.cat([text * (1 - share**2) ** 0.5, seen * share])

    def _image_side(self, memory: Memory) -> Tensor:
        part = self._model.image
        vector, hub = (
            memory["vector"].float().to(self._device),
            memory["hub"].float().to(self._device),
        )
        if len(memory.get("chunks", ())) > 1:
            hub = hub + PAGE_HUB
        indexed = part.index_vector(vector.unsqueeze(0), hub)[0]  # [384]
        return torch.cat([torch.zeros(part.config.text_width, device=self._device), indexed])

    def _remember_texts(self, texts: list[str]) -> list[dict[str, Tensor]]:
        encoded = self._model.text.encode(texts, max_chunks=self._max_chunks)
        captions = self._captions(encoded)
        return [
            self._text_memory(one, caption) for one, caption in zip(encoded, captions, strict=True)
        ]

    def _captions(self, encoded: Sequence[EncodedText]) -> list[Tensor]:
        """How pictures see these texts, [D] each: by the first chunk, where a title or a caption
        stands.
        """
        captions = []
        for one in encoded:
            states = one.states[: CHUNK_PIECES + 2].unsqueeze(0).to(self._device)
            mask = torch.ones(states.shape[:2], device=self._device)
            captions.append(self._model.image.captions(states, mask, one.chunks[:1]).vector[0])
        return captions

    def _text_memory(self, one: EncodedText, caption: Tensor) -> dict[str, Tensor]:
        kept: TextMemory = self._model.reader.remember(
            one.states, one.ids.to(self._device), one.chunks
        )
        tokens, scales = quantize_rows(kept.tokens)
        chunks, chunk_scales = quantize_rows(kept.chunks)
        memory = {
            "chunks": chunks,
            "chunk_scales": chunk_scales,
            "tokens": tokens,
            "token_scales": scales,
            "pieces": kept.pieces.to(torch.int16),
            "counts": kept.counts.to(torch.uint8),
            "caption": caption.half(),
        }
        return {name: tensor.cpu().contiguous() for name, tensor in memory.items()}

    def _remember_images(self, images: list[ImageSource]) -> list[dict[str, Tensor]]:
        if not images:
            return []
        made: list[dict[str, Tensor]] = []
        with ThreadPoolExecutor(max_workers=min(len(images), os.cpu_count() or 1)) as pool:
            pixels = list(
                pool.map(_pixels, images)
            )  # every picture opened before the first forward: a broken one costs nothing
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            made.extend(self._image_memories(torch.stack(pixels[start : start + IMAGES_AT_ONCE])))
        return made

    def _image_memories(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        part = self._model.image
        seen = part.images(self._model.eyes(pixels.to(self._device, self._dtype)).float())
        hubs = part.hubness(seen.vector)  # [B]
        regions, scales = quantize_rows(seen.regions)
        return [
            {
                "vector": seen.vector[i].half().cpu(),
                "regions": regions[i].cpu(),
                "region_scales": scales[i].cpu(),
                "hub": hubs[i : i + 1].cpu(),
            }
            for i in range(len(pixels))
        ]

    @torch.inference_mode()
    def _encode_query(self, text: str) -> _TextQuery:
        (one,) = self._model.text.encode([text], max_chunks=1)
        states = one.states.unsqueeze(0)
        mask = torch.ones(states.shape[:2], device=self._device)
        return _TextQuery(
            states=self._model.reader.query(one.states, one.ids.to(self._device), one.vector),
            caption=self._model.image.captions(states, mask, one.vector.unsqueeze(0)),
        )

    @torch.inference_mode()
    def _encode_image_query(self, image: _Keyed) -> Memory:
        return self._remember_images([image.source])[0]

    @torch.inference_mode()
    def _read(self, query: _TextQuery, memories: Sequence[Memory]) -> ScorerOutput:
        config = self._model.reader.config
        has_image = torch.tensor(["vector" in memory for memory in memories])
        logits = torch.zeros(len(memories))
        seen = [memory for memory in memories if "vector" in memory]
        if seen:
            logits[has_image] = self._image_logits(query.caption, seen).cpu()
        batch = collate(_text_parts(memories), config, has_image, logits).to(self._device)
        reading: ScorerOutput = self._model.reader.read(query.states, batch)
        return reading

    def _image_logits(self, caption: CaptionVectors, seen: Sequence[Memory]) -> Tensor:
        vectors = torch.stack([memory["vector"] for memory in seen]).float()  # [N, D]
        regions = dequantize_rows(
            torch.stack([memory["regions"] for memory in seen]),
            torch.stack([m["region_scales"] for m in seen]),
        )  # [N, 16, W]
        hubs = torch.cat([memory["hub"] for memory in seen])  # [N]
        kept = [part.to(self._device) for part in (vectors, regions, hubs)]
        return self._model.image.score(
            caption.vector[0], caption.words[0], caption.weights[0], *kept
        )

    def _score_by_image(self, query: Memory, memories: Sequence[Memory]) -> Tensor:
        """Pictures by their cosine with the picture asked for; texts as captions of it; both: the
        better of the two.
        """
        part, asked = self._model.image, query["vector"].float()
        scale, low = (
            part.log_scale.exp().cpu(),
            (part.hub.cpu() * (query["hub"] - part.hub_mean.cpu())),
        )
        logits = []
        for memory in memories:
            found = []
            if "vector" in memory:
                found.append(scale * (memory["vector"].float() @ asked - SAME_PICTURE))
            if "caption" in memory:
                found.append(
                    (scale * (memory["caption"].float() @ asked - low) + part.bias.cpu()).squeeze()
                )
            logits.append(torch.stack(found).max())
        return torch.stack(logits)  # [N]


SAME_PICTURE = 0.7  # two photographs of one thing have about this cosine; unrelated ones about .3


class _Keyed:
    """An image source that is equal to another with the same content, as a cache needs it."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and other.source.digest == self.source.digest

    def __hash__(self) -> int:
        return hash(self.source.digest)


def _pixels(image: ImageSource) -> Tensor:
    return preprocess(image.load(IMAGE_PIXELS))


def _text_parts(memories: Sequence[Memory]) -> list[TextMemory | None]:
    """Of each memory what is kept of its text; unpacked together, as a hundred small calls cost
    more than their arithmetic.
    """
    texts = [memory for memory in memories if "chunks" in memory]
    if not texts:
        return [None] * len(memories)
    tokens, chunks = (
        _unpacked(texts, "tokens", "token_scales"),
        _unpacked(texts, "chunks", "chunk_scales"),
    )
    parts = (
        TextMemory(tokens=one, chunks=other, pieces=memory["pieces"], counts=memory["counts"])
        for one, other, memory in zip(tokens, chunks, texts, strict=True)
    )
    return [next(parts) if "chunks" in memory else None for memory in memories]


def _unpacked(memories: Sequence[Memory], rows: str, scales: str) -> Sequence[Tensor]:
    """Of each memory the named rows, [*, D]."""
    whole = dequantize_rows(
        torch.cat([memory[rows] for memory in memories]),
        torch.cat([memory[scales] for memory in memories]),
    )
    return torch.split(whole, [len(memory[rows]) for memory in memories])


def _chunks(memory: Memory) -> Tensor:
    """The vectors of a remembered text, [C, 384]."""
    return dequantize_rows(memory["chunks"], memory["chunk_scales"])


def load_mini(
    device: str | None = None,
    dtype: str | None = None,
    max_text_tokens: int | None = None,
    folder: Path | None = None,
) -> MiniRanker:
    """The embedded model, loaded once for the process and these settings.

    So a retriever and a reranker share one model, and a query that was retrieved is encoded
    already.

    Raises:
        RNXError: an unknown dtype or device, or weights that are missing or damaged.
    """
    limit = max_text_tokens or MAX_CHUNKS * CHUNK_PIECES
    return _load(folder or model_folder(), _device(device), _dtype(dtype), limit)


@lru_cache(maxsize=4)
def _load(folder: Path, device: str, dtype: torch.dtype, max_text_tokens: int) -> MiniRanker:
    model, config = read_mini(folder)
    model.requires_grad_(False)
    return MiniRanker(model, config, device, dtype, max_text_tokens, folder)


def _device(name: str | None) -> str:
    """The CPU unless asked otherwise: the whole model takes less time there than a transfer of its
    memories.
    """
    try:
        torch.empty(0, device=name or "cpu")
    except (RuntimeError, AssertionError) as error:
        raise RNXError(
            f"device={name!r} was given and is not there ({error}); 'cpu' always is."
        ) from error
    return name or "cpu"


def _dtype(name: str | None) -> torch.dtype:
    """bf16 for the text tower where the processor multiplies it: equal scores, a third of the time;
    else fp32.
    """
    if name is None:
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if native else torch.float32
    found = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(
        name
    )
    if found is None:
        raise RNXError(
            f"dtype={name!r} was given; 'float32', 'bfloat16' and 'float16' are allowed."
        )
    return found
