"""The curriculum on generated data: made up from a seed in seconds, with a planted order, for an
rnx-mini of toy size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from training.data import HELD_OUT, GradedList, same_words
from training.data import synthetic as generated
from training.engine import Learner, Lists, Record, Stage
from training.features import FeatureMapCache, TextStateCache, idf
from training.learners import MiniLearner, begin_reader
from training.teachers import JointSet, caption_lists, joint_lists, joint_set, picture_lists

LISTS = 160  # of every source


class SyntheticData:
    """Texts and pictures, what the frozen towers say of them, and the learner over those towers."""

    def __init__(
        self, folder: Path, seed: int, count: int = LISTS, held_out: int = HELD_OUT
    ) -> None:
        """`count` lists of every source, `held_out` of every development set; tests want few of
        them.
        """
        self.seed, self.count = seed, count
        self.known, self.new = generated.pictures(folder / "pictures", 2 * count, held_out)
        self.texts = generated.text_lists(count, seed)
        self.held_out = generated.text_lists(held_out, seed + 1)
        self.pairs = generated.text_pairs(count, 15, seed)
        model, every = generated.tiny_model(seed), [text for of in self.texts for text in of.texts]
        self.tokens = TextStateCache(folder / "tokens", idf(model.text, every), model.reader.config)
        self.maps = FeatureMapCache(folder / "maps")
        learner = MiniLearner(model, self.tokens, self.maps, {}, torch.float32)
        learner.remember([*self.texts, *self.held_out, *self.pairs, *self._shown()], "generated")

    def learner(self) -> MiniLearner:
        learner = MiniLearner(
            generated.tiny_model(self.seed), self.tokens, self.maps, {}, torch.float32
        )
        begin_reader(learner, [text for of in self.texts for text in of.texts])
        self.settle(learner)
        return learner

    def development(self) -> Lists:
        joint = joint_lists(
            self._joint(new=True),
            self.tokens,
            lambda queries, _: self._alike(queries),
            count=len(self.new),
            wrong=12,
            seed=self.seed,
        )
        return {
            "texts": self.held_out,
            "pictures": picture_lists(self.new, "pictures", len(self.new)),
            "joint": joint,
        }

    def lists(self, source: str, stage: Stage, learner: Learner, turn: int) -> Sequence[GradedList]:
        assert isinstance(learner, MiniLearner)
        seed = self.seed + turn
        if source == "pictures":
            find = learner.retrieve
            return caption_lists(
                self.known,
                find,
                same_words,
                source=source,
                count=self.count,
                temperature=0.2,
                seed=seed,
            )
        if source == "joint":
            return joint_lists(
                self._joint(),
                self.tokens,
                learner.find,
                count=self.count,
                wrong=12,
                seed=seed,
                noise=0.0,
            )
        found = {
            "texts": self.texts,
            "text-pairs": self.pairs,
            "picture-pairs": self._picture_pairs,
        }
        return found[source]

    def retriever(self, stage: Stage, learner: Learner, work: Path, record: Record) -> list[float]:
        raise NotImplementedError("generated pairs are lists with wrong candidates at random")

    @torch.inference_mode()
    def settle(self, learner: Learner) -> None:
        """The bank of the hub correction, and its mean, through the caption head as it now is."""
        assert isinstance(learner, MiniLearner)
        part = learner.image.eval()
        queries = [query for picture in self.known for query in picture.queries][: len(part.bank)]
        part.bank[: len(queries)] = torch.cat([learner.caption(query).vector for query in queries])
        seen = learner.vectors([picture.path for picture in self.known])
        part.hub_mean.copy_(part.hubness(seen.vector).mean())

    def files(self) -> Mapping[str, str]:
        return {"generated": f"seed {self.seed}"}

    @cached_property
    def _picture_pairs(self) -> list[GradedList]:
        return generated.picture_pairs(self.known, self.count, 15, self.seed)

    def _shown(self) -> list[GradedList]:
        """Lists that name every picture and every text about one."""
        return [
            GradedList(
                source="",
                qid="",
                query=query,
                docids=("",),
                texts=(text,),
                grades=(0.0,),
                images=(picture.path,),
            )
            for picture in (*self.known, *self.new)
            for query in picture.queries
            for text in (*picture.about, picture.caption)
        ]

    def _joint(self, new: bool = False) -> JointSet:
        return joint_set("joint", self.new if new else self.known, self.tokens)

    def _alike(self, queries: Sequence[str]) -> torch.Tensor:
        """How like the captions of the new pictures are to these queries, [Q, P]: development lists
        know no model.
        """
        return same_words(queries, [picture.caption for picture in self.new])
