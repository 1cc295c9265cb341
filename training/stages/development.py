"""The curriculum on the development data: which lists every source has, which sets select, and what
is computed in between.

Texts come from `mixes.py`, pictures from Flickr8k and OpenStax. States of texts and maps of
pictures are cached in one folder.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.mini import CAPTION_SHARE, ImageConfig, MiniModel, ScorerConfig
from training.data import CaptionedImage, GradedList, data_folder, files_read, flickr, openstax
from training.engine import Learner, Lists, Record, Stage, hashes
from training.features import FeatureMapCache, TextStateCache
from training.learners import MiniLearner, begin_reader
from training.stages import mixtures as mixes
from training.teachers import (
    EmbedderTeacher,
    Finder,
    Similarity,
    caption_lists,
    joint_lists,
    joint_set,
    matching_noise,
    picture_lists,
    remined,
)
from training.weights import fold

PICTURES, HELD_OUT = (
    2_000,
    200,
)  # of Flickr8k and of OpenStax each, to draw lists from and to measure on
LISTS = 800  # of pictures, and joint ones, of each source in a round
DEPTH, WRONG = 20, 20
TEMPERATURE = 0.03  # of the caption teacher: cosines of gte-small lie in .7 to 1
DROPOUT = 0.1  # of the image part
# Lists of a source whose negatives are mined anew in a round; the first round has all of them.
REMINED = 300
JOINT_PICTURES = 600
BANK_SHARE = 0.75  # of photographs' captions in the bank of the hub correction


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the weights and the caches are. retriever: an image part that was trained before, in
    place of stage 0; pictures: of Flickr8k and of OpenStax each that lists are drawn from."""

    text: Path
    tower: Path
    cache: Path
    retriever: Path | None = None
    pictures: int = PICTURES


class DevelopmentData:
    """Everything is read when it is made, so that `files` knows it all from the first stage on."""

    def __init__(self, sources: Sources, seed: int, teacher: Similarity | None = None) -> None:
        self.sources, self.seed = sources, seed
        weights = sources.cache / "tokens" / "idf.safetensors"
        if not weights.exists():
            raise RNXError(
                f"{weights} is not there; make it by `python -m training.fill_cache --tower TEXT --cache CACHE/tokens`."
            )
        self.tokens = TextStateCache(weights.parent, load_file(weights)["weights"])
        self.teacher = teacher or self._by_text_tower
        self.known = {
            "flickr": flickr("train", sources.pictures),
            "openstax": openstax(False, sources.pictures),
        }
        self.new = {"flickr": flickr("dev", HELD_OUT), "openstax": openstax(True, HELD_OUT)}
        self.pools = {
            name: [of for of in make(self.tokens) if self._has(of)]
            for name, make in mixes.SOURCES.items()
        }
        self.texts = {name: self._nearest(name) for name in self.pools}
        self.selection = mixes.development(self.tokens)
        self._remembered = set[Path]()
        self._files = hashes(files_read(), data_folder())

    def learner(self) -> MiniLearner:
        torch.manual_seed(self.seed)
        model = MiniModel.untrained(
            self.sources.text, ImageConfig(dropout=DROPOUT, others=self._others()), ScorerConfig()
        )
        model.text.load_state_dict(load_file(self.sources.text / "model.safetensors"))
        model.eyes.tower.load_state_dict(
            fold(torch.load(self.sources.tower, map_location="cpu", weights_only=True)).state_dict()
        )
        learner = MiniLearner(model, self.tokens, self._maps(model), {"retrieval": [1.0, 0.0]})
        begin_reader(
            learner,
            [text for lists in self.texts.values() for of in lists[:20] for text in of.texts[:30]],
        )
        return learner

    def development(self) -> Lists:
        found = dict(self.selection)
        for name, pictures in self.new.items():
            found[name] = picture_lists(pictures, name, HELD_OUT)
            joint = joint_set(f"joint-{name}", pictures, self.tokens)
            found[joint.name] = joint_lists(
                joint, self.tokens, self._alike(pictures), count=HELD_OUT // 2, wrong=WRONG, seed=1
            )
        return found

    def lists(self, source: str, stage: Stage, learner: Learner, turn: int) -> Sequence[GradedList]:
        assert isinstance(learner, MiniLearner)
        self._remember(learner)  # again only where stage 0 was left out
        seed = self.seed + turn
        if source in self.known:
            return caption_lists(
                self.known[source],
                learner.retrieve,
                self.teacher,
                source=source,
                count=LISTS,
                depth=DEPTH,
                temperature=TEMPERATURE,
                seed=seed,
            )
        if source.startswith("joint-"):
            return self._joint(source, learner, seed)
        if turn == 0 or source not in mixes.NEGATIVES:
            return self.texts[source]
        pools = random.Random(f"{seed}-{source}").sample(
            self.pools[source], min(REMINED, len(self.pools[source]))
        )
        return remined(pools, torch.inference_mode()(learner.scores), mixes.NEGATIVES[source])

    def retriever(self, stage: Stage, learner: Learner, work: Path, record: Record) -> list[float]:
        """The image part and its tower, trained by `training.train_retriever` unless that was done
        before.
        """
        assert isinstance(learner, MiniLearner)
        folder = self.sources.retriever or work / "image"
        if not (folder / "image.safetensors").exists():
            train_image_part(self.sources, folder, stage)
        found = load_file(folder / "image.safetensors")
        about = json.loads((folder / "image.json").read_text())
        learner.model.eyes.load_state_dict(_below(found, "eyes."))
        trained = {
            name: tensor for name, tensor in _below(found, "part.").items() if name != "bank"
        }  # `settle` makes it
        learner.image.load_state_dict(trained, strict=False)
        learner.pictures = self._maps(learner.model)
        self._remember(learner)
        return [float(loss) for loss in about.get("losses", [])]

    @torch.inference_mode()
    def settle(self, learner: Learner) -> None:
        """The bank of the hub correction, and its mean, through the caption head as it now is."""
        assert isinstance(learner, MiniLearner)
        self._remember(learner)
        part = learner.image.eval()
        photographs = round(BANK_SHARE * len(part.bank))
        captions = [picture.queries[0] for picture in self.known["flickr"]][:photographs]
        captions += [picture.queries[0] for picture in self.known["openstax"]][
            : len(part.bank) - len(captions)
        ]
        part.bank.zero_()  # a row of zeros is near to nothing
        part.bank[: len(captions)] = torch.cat(
            [learner.caption(caption).vector for caption in captions]
        )
        new = [picture.path for picture in self.new["flickr"]]
        part.hub_mean.copy_(part.hubness(learner.vectors(new).vector).mean())
        found = learner.retrieve(
            [picture.queries[0] for picture in self.new["flickr"]], new
        )  # [P, P], right on the diagonal
        learner.about = {**learner.about, "retrieval": right_or_wrong(CAPTION_SHARE * found)}

    def files(self) -> Mapping[str, str]:
        return self._files

    def _joint(self, source: str, learner: MiniLearner, seed: int) -> list[GradedList]:
        name = source.removeprefix("joint-")
        known, new = self.known[name][:HELD_OUT], self.new[name]
        noise = matching_noise(
            *(learner.find([p.queries[0] for p in of], [p.path for p in of]) for of in (known, new))
        )
        joint = joint_set(source, self.known[name][:JOINT_PICTURES], self.tokens)
        return joint_lists(
            joint, self.tokens, learner.find, count=LISTS, wrong=WRONG, seed=seed, noise=noise
        )

    def _nearest(self, source: str) -> list[GradedList]:
        """With the negatives that the text tower finds hardest, where negatives are mined."""
        if source not in mixes.NEGATIVES:
            return self.pools[source]
        return remined(
            self.pools[source], partial(mixes.tower_scores, self.tokens), mixes.NEGATIVES[source]
        )

    def _has(self, of: GradedList) -> bool:
        return f"query:{of.query}" in self.tokens and all(text in self.tokens for text in of.texts)

    def _others(self) -> tuple[str, ...]:
        """The towers beside the first, where an image part is at hand that has heads on them."""
        folder = self.sources.retriever
        return (
            tuple(json.loads((folder / "image.json").read_text())["config"]["others"])
            if folder
            else ()
        )

    def _maps(self, model: MiniModel) -> FeatureMapCache:
        """One folder for each tower: its maps are of no use to another."""
        digest = hashlib.sha256()
        for tensor in model.eyes.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return FeatureMapCache(self.sources.cache / f"maps-{digest.hexdigest()[:12]}")

    def _remember(self, learner: MiniLearner) -> None:
        """Everything about the pictures, once for each tower; the texts of the lists are in the
        cache already.
        """
        if learner.pictures.folder in self._remembered:
            return
        self._remembered.add(learner.pictures.folder)
        pictures = [picture for of in (*self.known.values(), *self.new.values()) for picture in of]
        texts = [
            text
            for picture in pictures
            for text in (*(f"query:{query}" for query in picture.queries), *picture.captions)
        ]
        learner.read(texts, [picture.path for picture in pictures], "pictures and captions")

    def _alike(self, pictures: Sequence[CaptionedImage]) -> Finder:
        """Pictures by their captions, so that development lists depend on no trained weights."""
        captions = [picture.captions[-1] for picture in pictures]
        return lambda queries, _: self._by_text_tower(queries, captions)

    def _by_text_tower(self, queries: Sequence[str], captions: Sequence[str]) -> Tensor:
        asked, told = (
            [self.tokens[text].chunks.float().mean(0) for text in of]
            for of in (_asked(queries), captions)
        )
        return normalize(torch.stack(asked), dim=-1) @ normalize(torch.stack(told), dim=-1).T


@torch.inference_mode(False)
def right_or_wrong(cosines: Tensor, depth: int = DEPTH) -> list[float]:
    """Scale and bias that make a cosine the logit of being right, on the best `depth` of every
    query. [Q, Q], right ones on the diagonal; as the collection has them, so that pictures and
    texts can be fetched into one list."""
    near = cosines.clone().topk(min(depth, len(cosines)))
    right = (near.indices == torch.arange(len(cosines)).unsqueeze(1)).float()
    line = torch.tensor([50.0, -10.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([line], lr=0.5, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = binary_cross_entropy_with_logits(near.values * line[0] + line[1], right)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return [round(value, 3) for value in line.tolist()]


def train_image_part(sources: Sources, folder: Path, stage: Stage) -> None:
    """Stage 0 as its own commands do it: the bi-encoder, then its bank, its calibration and its
    export to `folder`.
    """
    common = [
        "--tower",
        str(sources.tower),
        "--text",
        str(sources.text),
        "--cache",
        str(sources.cache / "retriever"),
    ]
    steps = [
        "--steps",
        str(stage.steps),
        "--batch",
        str(stage.list_length),
        "--rate",
        str(stage.learning_rate),
    ]
    for module, more in (("train_retriever", steps), ("evaluate_images", ["--final", str(folder)])):
        subprocess.run(
            [
                sys.executable,
                "-m",
                f"training.{module}",
                *common,
                "--out",
                str(folder / "run"),
                *more,
            ],
            check=True,
        )


def caption_teacher(folder: Path) -> Similarity:
    """A sentence-transformers embedder that says how like captions are."""
    teacher, known = EmbedderTeacher(folder), dict[str, Tensor]()

    def vectors(texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, teacher.vectors(new), strict=True) if new else ())
        return torch.stack([known[text] for text in texts])

    return lambda queries, captions: vectors(queries) @ vectors(captions).T


def _asked(queries: Sequence[str]) -> list[str]:
    return [f"query:{query}" for query in queries]


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
