"""A vision-language ranker in training: LoRA on its language half, its own prompt and forward, the
vision tower frozen. It knows no loss.

A training list goes the ranker's own way, memories -> prompt -> one forward -> label logits, so
that training and inference see the same tokens. What an image looks like is remembered once, as for
inference.
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
from llama_index_rnx.errors import SettingsError, one_line
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers.vlm import RankerConfig, VLMRanker
from llama_index_rnx.ranking import ScoringRequest, get_or_compute_memories, rank
from training.data import GradedList
from training.engine import Stage

# The name by which a stage trains it.
PART = "adapter"

# Weight of the labels' share of probability among all words: listwise losses see differences alone,
# and would let it drift.
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
    """A `Learner`. The order of a list is drawn anew each time that it is scored with gradients, so
    that positions carry no information.

    Args:
        ranker: with the read-out "labels", its weights unquantized; the adapter's layers are put
            into its model.
        store: of memories.
        recipe: goes beside the adapter, so that it is read as it was trained.
        lora: the size of the adapter.
        checkpointing: activations are computed twice instead of kept: a list of 3,000 tokens would
            keep 20 GB of them.
        half: the forward runs under bfloat16 autocast; for weights in float32, on a device that is
            fast at it.

    Raises:
        SettingsError: the ranker has another read-out.
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
            raise SettingsError(
                f"{ranker.name} is read by {ranker.readout!r}; "
                "load it with readout='labels' to train it."
            )
        self.ranker = ranker.uncalibrated()
        self.store = store
        self.recipe = recipe
        self.half = half

        model = ranker.backbone.model
        self._language = model.model.language_model
        self._penalty = torch.zeros(())
        self._adapted = _with_adapter(model, lora, _absolute_name(ranker.name))
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            # Of frozen embeddings; only re-entrant checkpointing needs that.
            model.disable_input_require_grads()

    def scores(self, graded_list: GradedList) -> Tensor:
        """Return log-probabilities of the labels [N], with gradients; without gradients, a list of
        any length is scored by the ranker's own windows.
        """
        is_training = torch.is_grad_enabled()
        # It stays so while gradients are computed: checkpointing runs the forward again.
        self._language.train(is_training)
        if not is_training and len(graded_list.texts) > self.ranker.window:
            return self._scores_by_windows(graded_list)

        query, memories = self.ask(graded_list)
        count = len(memories)
        order = torch.randperm(count) if is_training else torch.arange(count)
        shuffled = [memories[index] for index in order.tolist()]
        with torch.autocast(self.ranker.backbone.device.type, torch.bfloat16, enabled=self.half):
            by_position = self.ranker.label_log_probabilities(query, shuffled)  # [N]

        self._penalty = -MASS * by_position.logsumexp(0)
        return by_position[order.argsort().to(by_position.device)]  # [N], by candidate

    def penalty(self) -> Tensor:
        """Return minus the logarithm of the labels' share of probability, weighted, for the list
        scored last.
        """
        return self._penalty

    def rest(self) -> None:
        """Switch dropout off, so that the ranker can be used as it is."""
        self._language.eval()

    def groups(self, stage: Stage) -> list[dict[str, Any]]:
        if stage.trainable != (PART,):
            raise SettingsError(
                f"stage {stage.name!r} trains {', '.join(stage.trainable)}; "
                f"of this ranker only {PART!r} is trained."
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
        """Write an adapter for `load_ranker(base, adapter=folder)`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._adapted.save_pretrained(str(folder))
        # Peft's form of a model card, with nothing filled in.
        (folder / "README.md").unlink(missing_ok=True)
        self.recipe.save(folder)

    def start_from(self, folder: Path) -> None:
        """Take over an adapter of the same size that an earlier stage saved.

        Raises:
            SettingsError: there is none, or its size is another.
        """
        try:
            weights = peft.load_peft_weights(str(folder), device="cpu")
            result: Any = peft.set_peft_model_state_dict(self._adapted, weights)
        except (OSError, ValueError, RuntimeError) as error:
            raise SettingsError(
                f"{folder} holds no adapter of this size ({one_line(error, 200)})."
            ) from error
        if result.unexpected_keys or any("lora" in name for name in result.missing_keys):
            raise SettingsError(
                f"{folder} holds an adapter of other layers; give one that this command saved."
            )

    def ask(self, graded_list: GradedList) -> ScoringRequest:
        """Return the query and the memories of a list; missing memories are computed now."""
        candidates = candidates_of(graded_list)
        # Memories are kept, and tensors of inference mode cannot be trained on.
        with torch.inference_mode(False), torch.no_grad():
            memories = get_or_compute_memories(self.ranker, candidates, self.store)
        return Query(text=graded_list.query), memories

    def _scores_by_windows(self, graded_list: GradedList) -> Tensor:
        """Return N, N - 1, ..., 1 in the ranker's order: across windows only the order means
        something.
        """
        query = Query(text=graded_list.query)
        ranking = rank(self.ranker, self.store, query, candidates_of(graded_list))
        count = len(ranking.order)
        scores = torch.empty(count)
        scores[ranking.order] = torch.arange(count, 0, -1).float()
        return scores

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return {
            name: parameter
            for name, parameter in self._adapted.named_parameters()
            if "lora_" in name
        }


def candidates_of(graded_list: GradedList) -> list[Candidate]:
    """Return what the ranker sees of a list."""
    texts = graded_list.texts
    images: Sequence[Path | None] = graded_list.images or [None] * len(texts)
    return [
        Candidate(id=docid, text=text, image=None if path is None else file_source(path))
        for docid, text, path in zip(graded_list.docids, texts, images, strict=True)
    ]


def _with_adapter(model: Any, lora: Lora, base_name: str) -> peft.PeftModel:
    """Put a fresh adapter into a model, the same at every call."""
    torch.manual_seed(lora.seed)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=TARGETS
    )
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def _absolute_name(model: str) -> str:
    """Return a name that is valid from any folder."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
