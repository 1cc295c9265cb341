"""The curriculum on the development data: its lists by source, its development sets, its learner.

Texts come from `mixtures.py`, images from Flickr8k and OpenStax. Token states of texts and feature
maps of images are cached in one folder. It knows no stage but the first, which trains pairs.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.mini import CAPTION_SHARE, ImageConfig, ScorerConfig
from training.bi_encoder import (
    BANK_SHARE,
    BiEncoderSettings,
    EncoderInputs,
    fit_logistic,
    train_stage_zero,
)
from training.data import CaptionedImage, DataFolder, GradedList, flickr, openstax
from training.engine import Learner, Lists, Record, Stage, hashes
from training.features import QUERY_PREFIX, FeatureMapCache, TextStateCache
from training.learners import MiniLearner, begin_reader
from training.mini import MiniModel
from training.stages import mixtures
from training.teachers import (
    EmbedderTeacher,
    Finder,
    Similarity,
    caption_lists,
    image_lists,
    joint_lists,
    joint_set,
    matching_noise,
    remine,
)
from training.weights import fold

# Images of Flickr8k and of OpenStax each: to draw lists from, and to measure on.
PICTURES = 2_000
HELD_OUT = 200

# Image lists, and joint lists, of each source in a round of mining.
LISTS = 800

# Candidates of an image list, and wrong candidates of a joint list.
DEPTH = 20
NEGATIVES = 20

# Of the caption teacher: cosines of gte-small lie in .7 to 1.
TEMPERATURE = 0.03

# Of the image part.
DROPOUT = 0.1

# Lists of a source whose negatives are mined anew in a round; the first round has all of them.
REMINED = 300

# Images that joint lists are drawn from.
JOINT_IMAGES = 600


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The paths of the weights and the caches.

    text: the folder of gte-small.
    tower: EfficientNet-Lite2 as its package has it, a .pth file.
    cache: the folder of token states and feature maps.
    retriever: the folder of an image part that was trained before, in place of stage 0.
    images: how many images of Flickr8k and of OpenStax each lists are drawn from.
    """

    text: Path
    tower: Path
    cache: Path
    retriever: Path | None = None
    images: int = PICTURES


class DevelopmentData:
    """The lists, development sets and learner of the curriculum on the development data.

    Every file is read in the constructor, so that the record of the first stage names them all.

    Raises:
        SettingsError: RNX_DATA names no folder, or the states of the texts are not cached yet.
    """

    def __init__(self, sources: Sources, seed: int, teacher: Similarity | None = None) -> None:
        self.sources = sources
        self.seed = seed
        self.text_states = _open_text_states(sources.cache / "tokens")
        self.teacher = teacher or self._encoder_similarity

        folder = DataFolder.from_environment()
        self.data = folder.path
        self.training_images = {
            "flickr": flickr(folder, "train", sources.images),
            "openstax": openstax(folder, False, sources.images),
        }
        self.held_out_images = {
            "flickr": flickr(folder, "dev", HELD_OUT),
            "openstax": openstax(folder, True, HELD_OUT),
        }
        self.pools = {
            name: self._cached_lists(build(folder, self.text_states))
            for name, build in mixtures.SOURCES.items()
        }
        self.text_lists = {name: self._mine_by_encoder(name) for name in self.pools}
        self.selection_sets = mixtures.selection_sets(folder, self.text_states)

        self._file_hashes = hashes(folder.files_read, folder.path)
        self._folders_filled: set[Path] = set()

    def build_learner(self) -> MiniLearner:
        """Return rnx-mini with pretrained encoders and an untrained scorer; the same every time."""
        torch.manual_seed(self.seed)
        config = ImageConfig(dropout=DROPOUT, others=self._other_encoders())
        model = MiniModel.untrained(self.sources.text, config, ScorerConfig())
        model.text.load_state_dict(load_file(self.sources.text / "model.safetensors"))
        tower = torch.load(self.sources.tower, map_location="cpu", weights_only=True)
        model.eyes.tower.load_state_dict(fold(tower).state_dict())

        maps = self._feature_maps(model)
        learner = MiniLearner(model, self.text_states, maps, {"retrieval": [1.0, 0.0]})
        texts = [
            text
            for lists in self.text_lists.values()
            for graded_list in lists[:20]
            for text in graded_list.texts[:30]
        ]
        begin_reader(learner, texts)
        return learner

    def build_dev_sets(self) -> Lists:
        """Return development sets of texts, of images and of both; they depend on no learner."""
        dev_sets = dict(self.selection_sets)
        for name, images in self.held_out_images.items():
            dev_sets[name] = image_lists(images, name, HELD_OUT)
            joint = joint_set(f"joint-{name}", images, self.text_states)
            dev_sets[joint.name] = joint_lists(
                joint,
                self.text_states,
                self._find_by_caption(images),
                count=HELD_OUT // 2,
                negatives=NEGATIVES,
                seed=1,
            )
        return dev_sets

    def build_lists(
        self, source: str, stage: Stage, learner: Learner, mining_round: int
    ) -> Sequence[GradedList]:
        """Return the lists of one source, mined by the learner as it now is."""
        assert isinstance(learner, MiniLearner)
        # It was filled before, unless stage 0 was left out.
        self._fill_caches(learner)
        seed = self.seed + mining_round
        if source in self.training_images:
            return caption_lists(
                self.training_images[source],
                learner.retrieve,
                self.teacher,
                source=source,
                count=LISTS,
                depth=DEPTH,
                temperature=TEMPERATURE,
                seed=seed,
            )
        if source.startswith("joint-"):
            return self._joint_lists(source, learner, seed)
        if mining_round == 0 or source not in mixtures.NEGATIVES:
            return self.text_lists[source]
        pools = self.pools[source]
        sample = random.Random(f"{seed}-{source}").sample(pools, min(REMINED, len(pools)))
        score = torch.inference_mode()(learner.scores)
        return remine(sample, score, mixtures.NEGATIVES[source])

    def train_retriever(
        self, stage: Stage, learner: Learner, work: Path, record: Record
    ) -> list[float]:
        """Train the image part and its encoder, unless that was done before; return the losses."""
        assert isinstance(learner, MiniLearner)
        folder = self.sources.retriever or work / "image"
        if not (folder / "image.safetensors").exists():
            self._train_image_part(stage, folder)
        tensors = load_file(folder / "image.safetensors")
        about = json.loads((folder / "image.json").read_text())

        learner.model.eyes.load_state_dict(_strip(tensors, "eyes."))
        scorer = _strip(tensors, "part.")
        # `refresh_statistics` makes the bank.
        scorer.pop("bank", None)
        learner.image.load_state_dict(scorer, strict=False)
        learner.pictures = self._feature_maps(learner.model)
        self._fill_caches(learner)
        return [float(loss) for loss in about.get("losses", [])]

    def _train_image_part(self, stage: Stage, folder: Path) -> None:
        inputs = EncoderInputs(
            data=self.data,
            tower=self.sources.tower,
            text=self.sources.text,
            cache=self.sources.cache / "retriever",
        )
        settings = BiEncoderSettings(
            steps=stage.steps, batch=stage.list_length, rate=stage.learning_rate
        )
        train_stage_zero(inputs, settings, folder / "run", folder)

    @torch.inference_mode()
    def refresh_statistics(self, learner: Learner) -> None:
        """Compute what follows from the weights: the bank of the hub correction, its mean, and the
        retrieval calibration.
        """
        assert isinstance(learner, MiniLearner)
        self._fill_caches(learner)
        scorer = learner.image.eval()
        captions = self._bank_captions(len(scorer.bank))
        # A row of zeros is near to nothing.
        scorer.bank.zero_()
        vectors = [learner.caption(caption).vector for caption in captions]
        scorer.bank[: len(captions)] = torch.cat(vectors)

        images = self.held_out_images["flickr"]
        paths = [image.path for image in images]
        scorer.hub_mean.copy_(scorer.hubness(learner.vectors(paths).vector).mean())

        cosines = learner.retrieve([image.queries[0] for image in images], paths)  # [P, P]
        line = fit_retrieval_calibration(CAPTION_SHARE * cosines)
        learner.about = {**learner.about, "retrieval": line}

    def file_hashes(self) -> Mapping[str, str]:
        """Return the sha256 of every file of the development data that was read, by its name."""
        return self._file_hashes

    def _bank_captions(self, size: int) -> list[str]:
        """Return captions of photographs and of figures, `size` in all where there are as many."""
        photographs = [image.queries[0] for image in self.training_images["flickr"]]
        figures = [image.queries[0] for image in self.training_images["openstax"]]
        captions = photographs[: round(BANK_SHARE * size)]
        return captions + figures[: size - len(captions)]

    def _joint_lists(self, source: str, learner: MiniLearner, seed: int) -> list[GradedList]:
        name = source.removeprefix("joint-")
        noise = matching_noise(
            _own_image_logits(learner, self.training_images[name][:HELD_OUT]),
            _own_image_logits(learner, self.held_out_images[name]),
        )
        joint = joint_set(source, self.training_images[name][:JOINT_IMAGES], self.text_states)
        return joint_lists(
            joint,
            self.text_states,
            learner.find,
            count=LISTS,
            negatives=NEGATIVES,
            seed=seed,
            noise=noise,
        )

    def _mine_by_encoder(self, source: str) -> list[GradedList]:
        """Return the lists with the text encoder's hardest negatives, where they are mined."""
        if source not in mixtures.NEGATIVES:
            return self.pools[source]
        score = partial(mixtures.encoder_scores, self.text_states)
        return remine(self.pools[source], score, mixtures.NEGATIVES[source])

    def _cached_lists(self, lists: Sequence[GradedList]) -> list[GradedList]:
        return [
            graded_list
            for graded_list in lists
            if mixtures.is_cached(self.text_states, graded_list)
        ]

    def _other_encoders(self) -> tuple[str, ...]:
        """Return the image encoders beside the first, if the given image part has heads on them."""
        folder = self.sources.retriever
        if folder is None:
            return ()
        return tuple(json.loads((folder / "image.json").read_text())["config"]["others"])

    def _feature_maps(self, model: MiniModel) -> FeatureMapCache:
        """Return the cache of these image encoders: their maps are of no use to others."""
        digest = hashlib.sha256()
        for tensor in model.eyes.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return FeatureMapCache(self.sources.cache / f"maps-{digest.hexdigest()[:12]}")

    def _fill_caches(self, learner: MiniLearner) -> None:
        """Compute everything about the images, once for each image encoder.

        The texts of the lists are in the cache already.
        """
        folder = learner.pictures.folder
        if folder in self._folders_filled:
            return
        self._folders_filled.add(folder)
        sets = (*self.training_images.values(), *self.held_out_images.values())
        images = [image for image_set in sets for image in image_set]
        texts = []
        for image in images:
            texts += _query_keys(image.queries)
            texts += image.captions
        learner.fill_caches(texts, [image.path for image in images], "pictures and captions")

    def _find_by_caption(self, images: Sequence[CaptionedImage]) -> Finder:
        """Find images by their captions, so that development lists depend on no trained weights."""
        captions = [image.captions[-1] for image in images]
        return lambda queries, _: self._encoder_similarity(queries, captions)

    def _encoder_similarity(self, queries: Sequence[str], captions: Sequence[str]) -> Tensor:
        """Return the text encoder's cosines of queries and captions, [Q, C]."""
        return self._unit_vectors(_query_keys(queries)) @ self._unit_vectors(captions).T

    def _unit_vectors(self, keys: Sequence[str]) -> Tensor:
        vectors = torch.stack([self.text_states[key].chunks.float().mean(0) for key in keys])
        return normalize(vectors, dim=-1)


def _open_text_states(folder: Path) -> TextStateCache:
    weights = folder / "idf.safetensors"
    if not weights.exists():
        raise SettingsError(
            f"{weights} does not exist; "
            "make it by `python -m training.fill_cache --tower TEXT --cache CACHE/tokens`."
        )
    return TextStateCache(folder, load_file(weights)["weights"])


def _own_image_logits(learner: MiniLearner, images: Sequence[CaptionedImage]) -> Tensor:
    """Return the logits of every image for every image's first query, [P, P]."""
    queries = [image.queries[0] for image in images]
    return learner.find(queries, [image.path for image in images])


def fit_retrieval_calibration(cosines: Tensor, depth: int = DEPTH) -> list[float]:
    """Return scale and bias that make a cosine the logit of being the right image.

    cosines: [Q, Q], right ones on the diagonal, as the collection has them: so images and texts can
    be fetched into one list. They are fitted on the best `depth` of every query.
    """
    nearest = cosines.topk(min(depth, len(cosines)))
    is_right = (nearest.indices == torch.arange(len(cosines)).unsqueeze(1)).float()
    return fit_logistic(nearest.values, is_right)


def caption_teacher(folder: Path) -> Similarity:
    """Return the similarity of captions by a sentence-transformers embedder."""
    encode = _cached_vectors(EmbedderTeacher(folder))
    return lambda queries, captions: encode(queries) @ encode(captions).T


def _cached_vectors(teacher: EmbedderTeacher) -> Callable[[Sequence[str]], Tensor]:
    cache: dict[str, Tensor] = {}

    def encode(texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(texts) if text not in cache]
        if missing:
            cache.update(zip(missing, teacher.vectors(missing), strict=True))
        return torch.stack([cache[text] for text in texts])

    return encode


def _query_keys(queries: Sequence[str]) -> list[str]:
    """Return the keys of queries in the cache of text states."""
    return [f"{QUERY_PREFIX}{query}" for query in queries]


def _strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
