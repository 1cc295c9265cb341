"""A vision-language ranker in training: LoRA on its language half, its own prompt and forward, the
vision tower frozen.

A training list goes the ranker's own way, memories -> prompt -> one forward -> label logits, so
that nothing is read in training that inference would read otherwise. What a picture looks like is
remembered once, as for inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, Query, file_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.vlm import RankerConfig, VLMRanker
from llama_index_rnx.ranking import ScoringRequest, get_or_compute_memories, rank
from training.data import GradedList
from training.engine import Stage

PART = "adapter"  # what a stage names to train it
# Weight of the labels' share among all words: listwise losses see differences alone, and would let
# it drift.
MASS = 0.1
TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """The size of an adapter: the change of each projection is alpha / rank times a product of that
    rank.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    seed: int = 0


class VLMLearner:
    """A `Learner`. The order of a list is drawn anew each time that it is read with gradients, so
    slots mean nothing.

    Args:
        ranker: read by labels, its weights as they come (not quantised); the adapter's layers are
            put into its model.
        recipe: goes beside the adapter, so that it is read as it was trained.
        checkpointing: activations are computed twice instead of kept: a list of 3,000 tokens would
            keep 20 GB of them.
        half: the forward runs under bfloat16 autocast; for weights in float32, on a device that is
            fast at it.
    """

    def __init__(
        self,
        ranker: VLMRanker,
        store: MemoryStore,
        recipe: RankerConfig,
        lora: Lora = Lora(),
        *,
        checkpointing: bool = True,
        half: bool = False,
    ) -> None:
        if ranker.readout != "labels":
            raise RNXError(
                f"{ranker.name} is read by {ranker.readout!r}; load it with readout='labels' to train it."
            )
        self.ranker, self.store, self.recipe, self.half = ranker.uncalibrated(), store, recipe, half
        model = ranker.backbone.model
        self._language = model.model.language_model
        self._penalty = torch.zeros(())
        torch.manual_seed(lora.seed)
        config = peft.LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=TARGETS
        )
        self._adapted = peft.get_peft_model(model, config)
        self._adapted.peft_config["default"].base_model_name_or_path = _lasting(ranker.name)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            # Of frozen embeddings; only re-entrant checkpointing needed that.
            model.disable_input_require_grads()

    def scores(self, of: GradedList) -> Tensor:
        """Log-probabilities of the labels [N], with gradients; without, a list of any length by the
        ranker's own windows.
        """
        learning = torch.is_grad_enabled()
        self._language.train(
            learning
        )  # and stays so while gradients are computed: checkpointing reads it again
        if not learning and len(of.texts) > self.ranker.window:
            return self._by_windows(of)
        query, memories = self.ask(of)
        order = torch.randperm(len(memories)) if learning else torch.arange(len(memories))
        with torch.autocast(self.ranker.backbone.device.type, torch.bfloat16, enabled=self.half):
            by_slot = self.ranker.label_log_probabilities(
                query, [memories[place] for place in order.tolist()]
            )  # [N]
        self._penalty = -MASS * by_slot.logsumexp(0)
        return by_slot[order.argsort().to(by_slot.device)]  # [N], by candidate

    def penalty(self) -> Tensor:
        """For the list read last: minus the logarithm of the labels' share of probability."""
        return self._penalty

    def rest(self) -> None:
        """From now on the ranker may be asked by anyone: no dropout."""
        self._language.eval()

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        if stage.trainable != (PART,):
            raise RNXError(
                f"stage {stage.name!r} trains {', '.join(stage.trainable)}; of this ranker only {PART!r} is trained."
            )
        return [
            {
                "params": list(self._parameters().values()),
                "lr": stage.learning_rate,
                "weight_decay": stage.weight_decay,
            }
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.data for name, parameter in self._parameters().items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self.weights().items():
            tensor.copy_(weights[name])

    def save(self, folder: Path) -> None:
        """An adapter for `load_ranker(base, adapter=folder)`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._adapted.save_pretrained(str(folder))
        (folder / "README.md").unlink(
            missing_ok=True
        )  # peft's form of a model card, with nothing filled in
        self.recipe.save(folder)

    def start_from(self, folder: Path) -> None:
        """Take over an adapter of the same size that an earlier stage saved.

        Raises:
            RNXError: there is none, or its size is another.
        """
        try:
            found: Any = peft.set_peft_model_state_dict(
                self._adapted, peft.load_peft_weights(str(folder), device="cpu")
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise RNXError(
                f"{folder} holds no adapter of this size ({' '.join(str(error).split())[:200]})."
            ) from error
        if found.unexpected_keys or any("lora" in name for name in found.missing_keys):
            raise RNXError(
                f"{folder} holds an adapter of other layers; give one that this command saved."
            )

    def ask(self, of: GradedList) -> ScoringRequest:
        """The query and the memories of a list, made now where nothing is remembered."""
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # they are kept, and tensors of inference mode cannot be trained on
            return Query(text=of.query), get_or_compute_memories(
                self.ranker, candidates_of(of), self.store
            )

    def _by_windows(self, of: GradedList) -> Tensor:
        ranking = rank(self.ranker, self.store, Query(text=of.query), candidates_of(of))
        found = torch.empty(len(ranking.order))
        found[ranking.order] = torch.arange(
            len(ranking.order), 0, -1
        ).float()  # across windows only the order means something
        return found

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {
            name: parameter
            for name, parameter in self._adapted.named_parameters()
            if "lora_" in name
        }


def candidates_of(of: GradedList) -> list[Candidate]:
    """What the ranker sees of a list."""
    images: Sequence[Path | None] = of.images or [None] * len(of.texts)
    return [
        Candidate(id=docid, text=text, image=None if path is None else file_source(path))
        for docid, text, path in zip(of.docids, of.texts, images, strict=True)
    ]


def _lasting(model: str) -> str:
    """A name that is found again from elsewhere."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
