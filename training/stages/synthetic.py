"""The curriculum on generated data: made from a seed in seconds, for an rnx-mini of toy size.

It knows no stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from training.data import HELD_OUT, CaptionedImage, GradedList, word_overlap
from training.data import synthetic as generated
from training.engine import Learner, Lists, Record, Stage
from training.features import FeatureMapCache, TextStateCache, idf
from training.learners import MiniLearner, begin_reader
from training.stages.tiny_mini import tiny_model
from training.teachers import JointSet, caption_lists, image_lists, joint_lists, joint_set

# Training lists of every source.
LISTS = 160

# Wrong candidates of a pair, as in a bi-encoder's batch.
PAIR_NEGATIVES = 15

# Wrong candidates of a joint list.
JOINT_NEGATIVES = 12


class SyntheticData:
    """Texts and images, what the frozen encoders say of them, and the learner over these encoders.

    Args:
        folder: where images and caches are written.
        seed: of everything that is generated.
        count: lists of every source.
        held_out: lists of every development set.
    """

    def __init__(
        self, folder: Path, seed: int, count: int = LISTS, held_out: int = HELD_OUT
    ) -> None:
        self.seed = seed
        self.count = count
        self.training_images, self.held_out_images = generated.generate_images(
            folder / "pictures", 2 * count, held_out
        )
        self.text_lists = generated.text_lists(count, seed)
        self.held_out_lists = generated.text_lists(held_out, seed + 1)
        self.text_pairs = generated.text_pairs(count, PAIR_NEGATIVES, seed)

        model = tiny_model(seed)
        weights = idf(model.text, self._texts())
        self.text_states = TextStateCache(folder / "tokens", weights, model.reader.config)
        self.feature_maps = FeatureMapCache(folder / "maps")
        learner = MiniLearner(model, self.text_states, self.feature_maps, {}, torch.float32)
        lists = [*self.text_lists, *self.held_out_lists, *self.text_pairs]
        learner.remember([*lists, *self._lists_of_all_images()], "generated")

    def build_learner(self) -> MiniLearner:
        """Return an untrained rnx-mini of toy size; the same at every call."""
        model = tiny_model(self.seed)
        learner = MiniLearner(model, self.text_states, self.feature_maps, {}, torch.float32)
        begin_reader(learner, self._texts())
        self.refresh_statistics(learner)
        return learner

    def build_dev_sets(self) -> Lists:
        """Return the development sets: texts, images, and both in one list."""

        def find(queries: Sequence[str], _: Sequence[Path]) -> Tensor:
            return self._caption_overlap(queries)

        images = self.held_out_images
        joint = joint_lists(
            self._joint_set(images),
            self.text_states,
            find,
            count=len(images),
            negatives=JOINT_NEGATIVES,
            seed=self.seed,
        )
        return {
            "texts": self.held_out_lists,
            "pictures": image_lists(images, "pictures", len(images)),
            "joint": joint,
        }

    def build_lists(
        self, source: str, stage: Stage, learner: Learner, mining_round: int
    ) -> Sequence[GradedList]:
        """Return the lists of one source; images and joint lists are mined by the learner."""
        assert isinstance(learner, MiniLearner)
        seed = self.seed + mining_round
        if source == "pictures":
            return caption_lists(
                self.training_images,
                learner.retrieve,
                word_overlap,
                source=source,
                count=self.count,
                temperature=0.2,
                seed=seed,
            )
        if source == "joint":
            return joint_lists(
                self._joint_set(self.training_images),
                self.text_states,
                learner.find,
                count=self.count,
                negatives=JOINT_NEGATIVES,
                seed=seed,
                noise=0.0,
            )
        lists = {
            "texts": self.text_lists,
            "text-pairs": self.text_pairs,
            "picture-pairs": self._image_pairs,
        }
        return lists[source]

    def train_retriever(
        self, stage: Stage, learner: Learner, work: Path, record: Record
    ) -> list[float]:
        raise NotImplementedError("generated pairs are lists with wrong candidates at random")

    @torch.inference_mode()
    def refresh_statistics(self, learner: Learner) -> None:
        """Compute the bank of the hub correction and its mean by the caption head as it now is."""
        assert isinstance(learner, MiniLearner)
        scorer = learner.image.eval()
        queries = [query for image in self.training_images for query in image.queries]
        vectors = [learner.caption(query).vector for query in queries[: len(scorer.bank)]]
        scorer.bank[: len(vectors)] = torch.cat(vectors)
        images = learner.vectors([image.path for image in self.training_images])
        scorer.hub_mean.copy_(scorer.hubness(images.vector).mean())

    def file_hashes(self) -> Mapping[str, str]:
        """Return the seed, in place of hashes: no file is read."""
        return {"generated": f"seed {self.seed}"}

    @cached_property
    def _image_pairs(self) -> list[GradedList]:
        return generated.image_pairs(self.training_images, self.count, PAIR_NEGATIVES, self.seed)

    def _texts(self) -> list[str]:
        return [text for graded_list in self.text_lists for text in graded_list.texts]

    def _lists_of_all_images(self) -> list[GradedList]:
        """Return lists that name every image and every text about one."""
        return [
            GradedList(
                source="",
                qid="",
                query=query,
                docids=("",),
                texts=(text,),
                grades=(0.0,),
                images=(image.path,),
            )
            for image in (*self.training_images, *self.held_out_images)
            for query in image.queries
            for text in (*image.about, image.caption)
        ]

    def _joint_set(self, images: Sequence[CaptionedImage]) -> JointSet:
        return joint_set("joint", images, self.text_states)

    def _caption_overlap(self, queries: Sequence[str]) -> Tensor:
        """Return how similar the captions of the held-out images are to these queries, [Q, P].

        Development lists are made by it, so they depend on no model.
        """
        return word_overlap(queries, [image.caption for image in self.held_out_images])
