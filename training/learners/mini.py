"""rnx-mini in training: its reader and its image part, over frozen towers whose states and maps are
cached. Knows no loss.

The forward is the ranker's own: `Reader`, `ImagePart` and `collate` of the package, on what
`remember` would have kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llama_index_rnx.rankers.mini import (
    CHUNK_PIECES,
    CandidateBatch,
    CaptionVectors,
    ImageVectors,
    MiniModel,
    QueryStates,
    ScorerConfig,
    TextMemory,
    collate,
)
from training.data import GradedList
from training.engine import Stage
from training.features import CachedText, FeatureMapCache, TextStateCache
from training.weights import write_mini

SCALARS = (
    "reader.base",
    "reader.kinds",
    "image.log_scale",
    "image.late",
    "image.hub",
    "image.bias",
)  # a few numbers each
AT_ONCE = 128  # pictures a call of the projector, where all of a set are wanted


class MiniLearner:
    """The `Learner` of rnx-mini.

    about: the config that goes beside the weights, its `retrieval` and where they came from. dtype:
    in which the text tower reads; by default bf16 where the processor multiplies it (a third of the
    time, equal scores).
    """

    def __init__(
        self,
        model: MiniModel,
        texts: TextStateCache,
        pictures: FeatureMapCache,
        about: Mapping[str, Any],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype or fast_dtype()
        self.model, self.texts, self.pictures, self.about = model.eval(), texts, pictures, about
        self.reader, self.image = model.reader, model.image
        self._trained = nn.ModuleDict({"reader": model.reader, "image": model.image})
        model.requires_grad_(False)
        self._last: tuple[object, ImageVectors] | None = None

    def scores(self, of: GradedList) -> Tensor:
        """The logits of one list, [N]; its texts and pictures are `remember`ed before."""
        self._trained.train(torch.is_grad_enabled())
        batch = candidate_batch(
            of, self.texts, self.reader.config, self.reader.project, self._image_logits(of)
        )
        found: Tensor = self.reader(self._query(of.query), batch)
        return found

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """The few scalar weights move at their own rate; vectors do not decay."""
        trained = {
            name: weight
            for name, weight in self._trained.named_parameters()
            if _belongs(name, stage.trainable)
        }
        for name, weight in self._trained.named_parameters():
            weight.requires_grad_(name in trained)
        few = [weight for name, weight in trained.items() if _belongs(name, SCALARS)]
        rest = [weight for name, weight in trained.items() if not _belongs(name, SCALARS)]
        groups = [
            {"params": few, "lr": stage.scalar_learning_rate, "weight_decay": 0.0},
            {
                "params": [weight for weight in rest if weight.ndim > 1],
                "lr": stage.learning_rate,
                "weight_decay": stage.weight_decay,
            },
            {
                "params": [weight for weight in rest if weight.ndim <= 1],
                "lr": stage.learning_rate,
                "weight_decay": 0.0,
            },
        ]
        return [group for group in groups if group["params"]]

    def weights(self) -> dict[str, Tensor]:
        """Reader and image part whole, with what is computed for them (idf, the bank of the hub
        correction).
        """
        return dict(self._trained.state_dict())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self._trained.load_state_dict(dict(weights))

    def save(self, folder: Path) -> None:
        """A checkpoint of rnx-mini, as `load_ranker(folder)` reads it."""
        write_mini(self.model, folder, self.about)

    def remember(self, lists: Iterable[GradedList], label: str) -> None:
        """What the towers say of everything in these lists, once and for good: nothing of it is
        trained.
        """
        lists = list(lists)
        texts = [text for of in lists for text in (f"query:{of.query}", *of.texts) if text]
        self.read(texts, [path for of in lists for path in of.images if path], label)

    def read(self, texts: Sequence[str], pictures: Sequence[Path], label: str) -> None:
        """As `remember`, of texts (queries with `query:` in front) and pictures."""
        if any(text not in self.texts for text in texts):
            self.texts.fill(
                copy.deepcopy(self.model.text).to(self.dtype), texts, label
            )  # the weights stay what is saved
        if any(picture not in self.pictures for picture in pictures):
            eyes = copy.deepcopy(self.model.eyes).to(self.dtype)
            self.pictures.fill(lambda pixels: eyes(pixels.to(self.dtype)).float(), pictures, label)

    @torch.inference_mode()
    def vectors(self, paths: Sequence[Path]) -> ImageVectors:
        """All pictures of a set through the image part, as it now is."""
        self._trained.eval()
        parts = [paths[start : start + AT_ONCE] for start in range(0, len(paths), AT_ONCE)]
        seen = [self.image.images(self.pictures.maps(part)) for part in parts]
        return ImageVectors(
            vector=torch.cat([of.vector for of in seen]),
            regions=torch.cat([of.regions for of in seen]),
        )

    @torch.inference_mode()
    def find(self, queries: Sequence[str], paths: Sequence[Path]) -> Tensor:
        """The image part's logits of every query with every picture, [Q, P]."""
        seen = self.vectors(paths)
        hubs, rows = self.image.hubness(seen.vector), []
        for query in queries:
            caption = self.caption(query)
            rows.append(self._logits(caption, seen, hubs))
        return torch.stack(rows)

    @torch.inference_mode()
    def retrieve(self, queries: Sequence[str], paths: Sequence[Path]) -> Tensor:
        """The bi-encoder alone: cosine of vectors less hubness, as the index has it, [Q, P]."""
        seen = self.vectors(paths)
        indexed = self.image.index_vector(
            seen.vector, self.image.hubness(seen.vector)
        )  # [P, D + 2]
        asked = torch.cat([self.caption(query).vector for query in queries])  # [Q, D]
        return self.image.query_vector(asked) @ indexed.T

    def caption(self, query: str) -> CaptionVectors:
        """A query as pictures see it: by its first chunk, like every text."""
        entry = self.texts[f"query:{query}"]
        states = entry.states[: CHUNK_PIECES + 2].float().unsqueeze(0)  # [1, T, 384]
        vector = normalize(entry.chunks[:1].float(), dim=-1)
        return self.image.captions(states, torch.ones(states.shape[:2]), vector)

    def _query(self, query: str) -> QueryStates:
        entry = self.texts[f"query:{query}"]
        return self.reader.query(
            entry.states.float(), entry.pieces.long(), normalize(entry.chunks[0].float(), dim=0)
        )

    def _image_logits(self, of: GradedList) -> Tensor | None:
        """[N], zero where there is no picture, which `image_places` knows; None for a list without
        any.
        """
        if of.image_logits:
            return torch.tensor([logit or 0.0 for logit in of.image_logits])
        places = image_places(of)
        if not places:
            return None
        paths = [path for path in of.images if path is not None]
        if torch.is_grad_enabled():
            views = torch.randint(self.pictures.views, (len(paths),)).tolist()
            seen = self.image.images(self.pictures.maps(paths, views))
        else:
            seen = self._seen(paths)
        logits = self._logits(
            self.caption(of.query), seen, self.image.hubness(seen.vector)
        )  # [pictures]
        return torch.zeros(len(of.docids)).index_copy(0, torch.tensor(places), logits)

    def _seen(self, paths: Sequence[Path]) -> ImageVectors:
        """Whole pictures by the weights as they are: development lists share theirs, and each is
        looked at once.
        """
        now = sum(
            tensor._version for tensor in self.image.state_dict(keep_vars=True).values()
        )  # grows with every change
        asked = (self.pictures.folder, now, tuple(paths))
        if self._last is None or self._last[0] != asked:
            self._last = (asked, self.vectors(paths))
        return self._last[1]

    def _logits(self, caption: CaptionVectors, seen: ImageVectors, hubs: Tensor) -> Tensor:
        return self.image.score(
            caption.vector[0], caption.words[0], caption.weights[0], seen.vector, seen.regions, hubs
        )


def fast_dtype() -> torch.dtype:
    """bf16 where the processor multiplies it, else fp32."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def image_places(of: GradedList) -> list[int]:
    """Which candidates have a picture."""
    column = of.image_logits or of.images
    return [place for place, found in enumerate(column) if found is not None]


def candidate_batch(
    of: GradedList,
    cache: TextStateCache,
    config: ScorerConfig,
    project: Any,
    image_logits: Tensor | None,
) -> CandidateBatch:
    """A list as the reader wants it; gradients reach the reader's projection, so its texts are not
    `remember`ed by it.
    """
    entries = [cache[text] if text else None for text in of.texts]
    states = [entry.states for entry in entries if entry] or [torch.zeros(0, config.state_width)]
    parts = iter(torch.split(project(torch.cat(states).float()), [len(found) for found in states]))
    memories = [_memory(entry, next(parts)) if entry else None for entry in entries]
    if image_logits is None:
        return collate(memories, config)
    seen = torch.zeros(len(entries), dtype=torch.bool)
    seen[image_places(of)] = True
    return collate(memories, config, seen, image_logits)


def _memory(entry: CachedText, tokens: Tensor) -> TextMemory:
    return TextMemory(
        tokens=tokens, chunks=entry.chunks.float(), pieces=entry.pieces, counts=entry.counts
    )


def _belongs(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def first_projection(cache: TextStateCache, texts: Sequence[str], width: int) -> Tensor:
    """Principal directions of the token states, softly whitened (power 1/4): [width, 384], where
    `compress` starts.
    """
    states = normalize(torch.cat([cache[text].states[::3].float() for text in texts]), dim=-1)
    values, vectors = torch.linalg.eigh(states.T.cov())
    principal: Tensor = vectors[:, -width:] / values[-width:] ** 0.25  # [384, width]
    return principal.T.contiguous()


@torch.no_grad()
def begin_reader(learner: MiniLearner, texts: Sequence[str]) -> None:
    """An untrained reader begins at the text tower's own order, its memory at the principal
    directions of these texts.
    """
    reader = learner.reader
    reader.weights.copy_(learner.texts.weights)
    reader.compress.weight.copy_(first_projection(learner.texts, texts, reader.config.memory_width))
