"""rnx-mini in training: its listwise scorer and its image heads, over frozen encoders whose states
and maps are cached. It knows no loss.

The forward is the ranker's own: the scorer, the image heads and `collate` of the package, on what
`remember` would have kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llama_index_rnx.rankers.mini import CHUNK_PIECES, ScorerConfig
from training.data import GradedList
from training.engine import Stage
from training.features import QUERY_PREFIX, CachedText, FeatureMapCache, TextStateCache
from training.mini import (
    CandidateBatch,
    CaptionVectors,
    ImageVectors,
    MiniModel,
    QueryStates,
    TextMemory,
    collate,
)
from training.weights import write_mini

# A few numbers each; they move at a rate of their own.
SCALARS = (
    "reader.base",
    "reader.kinds",
    "image.log_scale",
    "image.late",
    "image.hub",
    "image.bias",
)

IMAGES_AT_ONCE = 128  # where all images of a set are encoded


class MiniLearner:
    """The `Learner` of rnx-mini.

    Args:
        model: its encoders are frozen.
        texts: states of all texts that will be scored (see `remember`).
        pictures: feature maps of all images.
        about: the config that goes beside the weights, its `retrieval` and where they came from.
        dtype: of the encoders' forward; by default bf16 where the processor multiplies it (a third
            of the time, equal scores).
    """

    def __init__(
        self,
        model: MiniModel,
        texts: TextStateCache,
        pictures: FeatureMapCache,
        about: Mapping[str, Any],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype or _fast_cpu_dtype()
        self.model = model.eval()
        self.texts = texts
        self.pictures = pictures
        self.about = about
        self.reader = model.reader
        self.image = model.image

        self._trained = nn.ModuleDict({"reader": model.reader, "image": model.image})
        model.requires_grad_(False)

        # The last images that were encoded without gradients, and which ones they are.
        self._encoded: tuple[object, ImageVectors] | None = None

    def scores(self, graded_list: GradedList) -> Tensor:
        """Return the logits of one list, [N]; its texts and images must be in the caches."""
        is_training = torch.is_grad_enabled()
        self._trained.train(is_training)
        if is_training:
            # The next step moves the weights.
            self._encoded = None
        batch = candidate_batch(
            graded_list,
            self.texts,
            self.reader.config,
            self.reader.project,
            self._image_logits(graded_list),
        )
        logits: Tensor = self.reader(self._query(graded_list.query), batch)
        return logits

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        """Return the parameter groups of a stage: scalars with a rate of their own, matrices with
        weight decay, vectors without.
        """
        trained = {}
        for name, parameter in self._trained.named_parameters():
            is_trained = _is_part_of(name, stage.trainable)
            parameter.requires_grad_(is_trained)
            if is_trained:
                trained[name] = parameter

        scalars = [weight for name, weight in trained.items() if _is_part_of(name, SCALARS)]
        others = [weight for name, weight in trained.items() if not _is_part_of(name, SCALARS)]
        groups = [
            {"params": scalars, "lr": stage.scalar_learning_rate, "weight_decay": 0.0},
            {
                "params": [weight for weight in others if weight.ndim > 1],
                "lr": stage.learning_rate,
                "weight_decay": stage.weight_decay,
            },
            {
                "params": [weight for weight in others if weight.ndim <= 1],
                "lr": stage.learning_rate,
                "weight_decay": 0.0,
            },
        ]
        return [group for group in groups if group["params"]]

    def weights(self) -> dict[str, Tensor]:
        """Return scorer and image heads whole, with what is computed for them (idf, the bank of the
        hub correction).
        """
        return dict(self._trained.state_dict())

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self._encoded = None
        self._trained.load_state_dict(dict(weights))

    def save(self, folder: Path) -> None:
        """Write a checkpoint of rnx-mini, as `load_ranker(folder)` reads it."""
        write_mini(self.model, folder, self.about)

    def remember(self, lists: Iterable[GradedList], label: str) -> None:
        """Encode everything in these lists, once and for good: no encoder is trained.

        label: stands before the progress.
        """
        texts: list[str] = []
        images: list[Path] = []
        for graded_list in lists:
            texts += [f"{QUERY_PREFIX}{graded_list.query}", *filter(None, graded_list.texts)]
            images += [path for path in graded_list.images if path]
        self.fill_caches(texts, images, label)

    def fill_caches(self, texts: Sequence[str], images: Sequence[Path], label: str) -> None:
        """Encode texts (queries with `query:` in front) and images that are not cached yet."""
        # Copies in another precision: the weights stay what is saved.
        if any(text not in self.texts for text in texts):
            text_encoder = copy.deepcopy(self.model.text).to(self.dtype)
            self.texts.fill(text_encoder, texts, label)
        if any(image not in self.pictures for image in images):
            image_encoder = copy.deepcopy(self.model.eyes).to(self.dtype)
            self.pictures.fill(
                lambda pixels: image_encoder(pixels.to(self.dtype)).float(), images, label
            )

    @torch.inference_mode()
    def vectors(self, paths: Sequence[Path]) -> ImageVectors:
        """Encode the whole images of a set by the image heads, as they now are."""
        self._trained.eval()
        batches = [
            self.image.images(self.pictures.maps(paths[start : start + IMAGES_AT_ONCE]))
            for start in range(0, len(paths), IMAGES_AT_ONCE)
        ]
        return ImageVectors(
            vector=torch.cat([batch.vector for batch in batches]),
            regions=torch.cat([batch.regions for batch in batches]),
        )

    @torch.inference_mode()
    def find(self, queries: Sequence[str], paths: Sequence[Path]) -> Tensor:
        """Return the image heads' logits of every query with every image, [Q, P]."""
        images = self.vectors(paths)
        hubs = self.image.hubness(images.vector)
        rows = [self._logits(self.caption(query), images, hubs) for query in queries]
        return torch.stack(rows)

    @torch.inference_mode()
    def retrieve(self, queries: Sequence[str], paths: Sequence[Path]) -> Tensor:
        """Return the scores of the bi-encoder alone, cosine of vectors less hubness, as the index
        has it, [Q, P].
        """
        images = self.vectors(paths)
        hubs = self.image.hubness(images.vector)
        indexed = self.image.index_vector(images.vector, hubs)  # [P, D + 2]
        captions = torch.cat([self.caption(query).vector for query in queries])  # [Q, D]
        return self.image.query_vector(captions) @ indexed.T

    def caption(self, query: str) -> CaptionVectors:
        """Encode a query for images: by its first chunk, like every text."""
        entry = self.texts[f"{QUERY_PREFIX}{query}"]
        states = entry.states[: CHUNK_PIECES + 2].float().unsqueeze(0)  # [1, T, 384]
        vector = normalize(entry.chunks[:1].float(), dim=-1)
        return self.image.captions(states, torch.ones(states.shape[:2]), vector)

    def _query(self, query: str) -> QueryStates:
        entry = self.texts[f"{QUERY_PREFIX}{query}"]
        vector = normalize(entry.chunks[0].float(), dim=0)
        return self.reader.query(entry.states.float(), entry.pieces.long(), vector)

    def _image_logits(self, graded_list: GradedList) -> Tensor | None:
        """Return logits [N], zero where a candidate has no image; None for a list without any."""
        if graded_list.image_logits:
            return torch.tensor([logit or 0.0 for logit in graded_list.image_logits])
        positions = image_positions(graded_list)
        if not positions:
            return None

        paths = [path for path in graded_list.images if path is not None]
        if torch.is_grad_enabled():
            views = torch.randint(self.pictures.views, (len(paths),)).tolist()
            images = self.image.images(self.pictures.maps(paths, views))
        else:
            images = self._whole_images(paths)
        hubs = self.image.hubness(images.vector)
        logits = self._logits(self.caption(graded_list.query), images, hubs)  # [images]

        zeros = torch.zeros(len(graded_list.docids))
        return zeros.index_copy(0, torch.tensor(positions), logits)

    def _whole_images(self, paths: Sequence[Path]) -> ImageVectors:
        """Encode whole images; development lists share theirs, and each is encoded once between two
        steps.
        """
        key = (self.pictures.folder, tuple(paths))
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = (key, self.vectors(paths))
        return self._encoded[1]

    def _logits(self, caption: CaptionVectors, images: ImageVectors, hubs: Tensor) -> Tensor:
        return self.image.score(
            caption.vector[0],
            caption.words[0],
            caption.weights[0],
            images.vector,
            images.regions,
            hubs,
        )


def image_positions(graded_list: GradedList) -> list[int]:
    """Return the indices of the candidates that have an image."""
    column = graded_list.image_logits or graded_list.images
    return [index for index, value in enumerate(column) if value is not None]


def candidate_batch(
    graded_list: GradedList,
    cache: TextStateCache,
    config: ScorerConfig,
    project: Callable[[Tensor], Tensor],
    image_logits: Tensor | None,
) -> CandidateBatch:
    """Return a list as the scorer takes it.

    Gradients reach the scorer's projection, which is why its texts are not `remember`ed by it.

    Args:
        graded_list: N candidates; all of its texts are in the cache.
        cache: states of texts.
        config: of the scorer.
        project: the scorer's projection of states [T, 384].
        image_logits: [N], or None for a list without images.
    """
    entries = [cache[text] if text else None for text in graded_list.texts]
    states = [entry.states for entry in entries if entry]
    if not states:
        states = [torch.zeros(0, config.state_width)]

    projected = project(torch.cat(states).float())
    tokens = iter(torch.split(projected, [len(rows) for rows in states]))
    memories = [_memory(entry, next(tokens)) if entry else None for entry in entries]
    if image_logits is None:
        return collate(memories, config)

    has_image = torch.zeros(len(entries), dtype=torch.bool)
    has_image[image_positions(graded_list)] = True
    return collate(memories, config, has_image, image_logits)


def first_projection(cache: TextStateCache, texts: Sequence[str], width: int) -> Tensor:
    """Return principal directions of the token states, softly whitened (power 1/4): [width, 384],
    where `compress` starts.
    """
    sampled = torch.cat([cache[text].states[::3].float() for text in texts])
    states = normalize(sampled, dim=-1)
    values, vectors = torch.linalg.eigh(states.T.cov())
    principal: Tensor = vectors[:, -width:] / values[-width:] ** 0.25  # [384, width]
    return principal.T.contiguous()


@torch.no_grad()
def begin_reader(learner: MiniLearner, texts: Sequence[str]) -> None:
    """Initialize an untrained scorer: it begins at the text encoder's own order, its memory at the
    principal directions of these texts.
    """
    reader = learner.reader
    width = reader.config.memory_width
    reader.weights.copy_(learner.texts.weights)
    reader.compress.weight.copy_(first_projection(learner.texts, texts, width))


def _memory(entry: CachedText, tokens: Tensor) -> TextMemory:
    return TextMemory(
        tokens=tokens, chunks=entry.chunks.float(), pieces=entry.pieces, counts=entry.counts
    )


def _fast_cpu_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it by itself, else float32."""
    # Torch offers no public question for this, and older versions not even this one.
    is_native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if is_native else torch.float32


def _is_part_of(name: str, modules: Sequence[str]) -> bool:
    """Return whether a parameter is one of these, or inside one of these modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
