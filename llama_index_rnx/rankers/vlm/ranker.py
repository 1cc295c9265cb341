"""A vision-language model as a ranker: memories of texts and images, and scores read off one
forward. It knows neither nodes nor files.

`remember` tokenises a text and sends an image through the vision tower, once. `score` lays the
memories into a prompt and reads logits at its last position: one for each label of the list
(`labels`), or yes against no for each candidate (`pointwise`). Checkpoints trained to write an
order are held to a valid one (`permutation`), the only read-out that decodes. Which of them a
checkpoint can do is decided by its training, see `load_vlm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError, SettingsError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm.backbone import Backbone
from llama_index_rnx.rankers.vlm.encoding import Encoder
from llama_index_rnx.rankers.vlm.prompts import ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.readouts import READOUTS, LabelReadout
from llama_index_rnx.rankers.vlm.settings import Readout, VLMSettings
from llama_index_rnx.ranking import Calibration, ScoringRequest


class VLMRanker:
    """The `Ranker` of a vision-language model of the Qwen2-VL, Qwen2.5-VL or Qwen3-VL family; made
    by `load_vlm`.

    A memory holds `text` [T] int32 token ids, and of an image `image` [V, H] visual tokens, `grid`
    [3] int32 and, for Qwen3-VL, `deep` [D, V, H]; as int8 also `image_scale` [V] and `deep_scale`
    [D, V]. Texts and images of 512 tokens take 2 kB and, at 1,536 wide in bfloat16, 1.6 MB; int8
    halves the latter.

    Scores lie in [0, 1]. What they can be compared with depends on the read-out:

    * `pointwise`: the probability of yes against no. Each candidate is read alone, so scores
      compare across windows, calls and queries as far as the checkpoint is calibrated, and a
      `min_score` keeps its meaning.
    * `labels`: the logistic of a label's logit less the mean of its window's. Within one window the
      order and the distances are exact. Across windows, calls and queries .5 means "as good as its
      window's mean", no more: an average candidate among poor ones scores higher than among good
      ones, and a list of one scores .5. A calibration that was fitted on graded lists makes scores
      probabilities of relevance on lists like those, still relative to the window's mean.
    * `permutation`: 1 for the first of a window, falling in equal steps; ranks, comparable with
      nothing.

    Args:
        backbone: the weights.
        settings: all else; they never change. The `with_...` methods make another ranker over
            other settings, which shares weights and caches.
        encoder: of a ranker over the same backbone, to share its caches.

    Raises:
        SettingsError: the tokenizer cannot answer by this read-out under this prompt.
    """

    def __init__(
        self, backbone: Backbone, settings: VLMSettings, *, encoder: Encoder | None = None
    ) -> None:
        self.backbone = backbone
        self.settings = settings
        self.encoder = encoder or Encoder(backbone, settings)
        self.strategy = READOUTS[settings.readout](settings, self.encoder)

    # ---- the contract of a ranker

    @property
    def name(self) -> str:
        """The checkpoint, and its adapter after a plus sign."""
        return self.settings.name

    @property
    def fingerprint(self) -> str:
        """A string for all that a memory depends on: tokenizer, vision tower, budgets, dtype."""
        return self.encoder.fingerprint

    @property
    def window(self) -> int:
        """How many candidates are read at once; smaller after a window did not fit into memory."""
        return self.strategy.window

    @property
    def remember_at_once(self) -> int:
        """How many candidates are remembered before other callers have their turn: enough to fill
        the vision tower.
        """
        return self.encoder.images_at_once

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return one memory for each candidate.

        Raises:
            ImageError: an image cannot be read.
            RNXError: the vision tower runs out of memory on a single image.
        """
        return self.encoder.remember(candidates)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return one score in [0, 1] for each memory, higher is better. Images are not touched
        again.

        Raises:
            SettingsError: there are more memories than a window may hold.
            RNXError: the model gives no numbers, or nothing fits into memory.
        """
        return self.score_many([(query, memories)])[0]

    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Return the same for several windows, of one query or of many. They share forwards as far
        as memory allows.
        """
        requests = [(query, list(memories)) for query, memories in requests]
        longest = max((len(memories) for _, memories in requests), default=0)
        limit = self.strategy.max_candidates
        if longest > limit:
            raise SettingsError(
                f"got {longest} candidates at once; {self.name} reads at most {limit} by "
                f"{self.readout}."
            )
        with self.encoder.runtime.lock:
            return self.strategy.score_many(requests)

    # ---- what it is set to

    @property
    def readout(self) -> Readout:
        """How scores are read: `labels`, `pointwise` or `permutation`."""
        return self.settings.readout

    @property
    def labels(self) -> list[str]:
        """The texts that are read or written as answers."""
        return self.strategy.labels

    @property
    def label_mass(self) -> float | None:
        """The share of probability on the answers, averaged over all that was read; None until
        then.
        """
        return self.strategy.label_mass

    @property
    def list_prompt(self) -> ListPrompt:
        """The prompt of a whole list."""
        return self.settings.prompt_of_list

    @property
    def pair_prompt(self) -> PairPrompt:
        """The prompt of one candidate."""
        return self.settings.pair_prompt

    @property
    def calibration(self) -> Calibration:
        """The calibration that turns the logits of labels into scores."""
        return self.settings.calibration

    @property
    def prompts(self) -> dict[str, str]:
        """The templates of the read-out in use: `pair_prompt`, or `list_prompt` and
        `candidate_prompt`.
        """
        return self.strategy.prompts

    # ---- the same weights under other settings

    def with_prompts(self, templates: Mapping[str, str]) -> VLMRanker:
        """Return a ranker with other templates over the same weights and memories. A calibration
        was fitted under the old ones: fit it again.

        Raises:
            SettingsError: a template lacks a field, or the labels do not suit it.
        """
        try:
            settings = self.strategy.replace_prompts(templates)
        except ValueError as error:
            raise SettingsError(f"{self.name}, {' and '.join(templates)}: {error}") from error
        return self._with_settings(settings)

    def with_calibration(self, calibration: Calibration) -> VLMRanker:
        """Return a ranker with this calibration over the same weights and memories."""
        return self._with_settings(replace(self.settings, calibration=calibration))

    def with_single_order(self) -> VLMRanker:
        """Return a ranker that reads a list in the given order only, and measures its label mass
        anew.
        """
        return self._with_settings(replace(self.settings, both_orders=False))

    def uncalibrated(self) -> VLMRanker:
        """Return a ranker that reads a list in the given order only, without a calibration."""
        return self.with_single_order().with_calibration(Calibration())

    def _with_settings(self, settings: VLMSettings) -> VLMRanker:
        return VLMRanker(self.backbone, settings, encoder=self.encoder)

    # ---- training, copies

    def label_log_probabilities(self, query: Query, memories: Sequence[Memory]) -> Tensor:
        """Return [N], the log-probability of each label of one list among all words, with gradients
        for weights that require them. Training shapes these.

        It is the forward of `score`, so training and inference cannot read a list differently.

        Raises:
            SettingsError: the ranker is not read by labels.
        """
        if not isinstance(self.strategy, LabelReadout):
            raise SettingsError(
                f"{self.name} is read by {self.readout!r}; load it with readout='labels'."
            )
        return self.strategy.log_probabilities(query, memories)

    def __copy__(self) -> VLMRanker:
        """Return the ranker itself: its settings never change."""
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> VLMRanker:
        """Return the ranker itself: its weights fill the device once."""
        return self

    def __reduce__(self) -> str:
        raise RNXError(
            f"{self.name}: a loaded model of several GB is not pickled; give model={self.name!r} "
            "instead of ranker=, and it is loaded where it arrives."
        )
