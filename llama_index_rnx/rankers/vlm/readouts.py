"""Three ways to read scores off a vision-language model: by labels, by pairs, by a written order.
They know windows and prompts, not candidates.

Each is an object over one frozen `VLMSettings`; `READOUTS` finds it by its name. A read-out over
remembered keys and values (`kv`) would be one more class here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from llama_index_rnx.candidates import Query
from llama_index_rnx.errors import RNXError, SettingsError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm.backbone import PromptTokens
from llama_index_rnx.rankers.vlm.encoding import Encoder
from llama_index_rnx.rankers.vlm.forwards import Answer, BatchedForward
from llama_index_rnx.rankers.vlm.packing import kind_of
from llama_index_rnx.rankers.vlm.prompts import choose_labels, label_id, written_order
from llama_index_rnx.rankers.vlm.settings import Readout, VLMSettings
from llama_index_rnx.ranking import (
    ScoringRequest,
    TooLargeError,
    Window,
    run_plan,
    sliding_windows,
)

# Candidates of a list that are read together: the usual window of listwise rankers.
WINDOW = 20

# Candidates of a pointwise call. Each is read alone, so one call takes many.
PAIRS = 10_000

# The probability on the answers below which a checkpoint does not understand the prompt.
ENOUGH_MASS = 0.5


class ReadoutStrategy(ABC):
    """Scores windows of memories over one frozen `VLMSettings`.

    Attributes:
        labels: the texts of the answers.
        answer_ids: the tokens of the answers, in the same order.
        full_window: how many candidates are read at once as long as memory does not run out.
        max_candidates: how many candidates one request may have.
        label_mass: the share of probability on the answers, averaged over all that was read; None
            until then.
    """

    labels: list[str]
    answer_ids: list[int]
    full_window: int
    max_candidates: int

    def __init__(self, settings: VLMSettings, encoder: Encoder) -> None:
        self.settings = settings
        self.encoder = encoder
        self.forward = BatchedForward(encoder)
        self.label_mass: float | None = None
        self._answer_count = 0
        context = encoder.backbone.context
        self._window_tokens = min(settings.max_window_tokens or context, context)

    @property
    def window(self) -> int:
        """How many candidates are read at once; fewer after a window did not fit into memory."""
        fitting = self.encoder.runtime.max_candidates
        return self.full_window if fitting is None else min(self.full_window, fitting)

    @property
    @abstractmethod
    def prompts(self) -> dict[str, str]:
        """The templates in use, by name."""

    @abstractmethod
    def replace_prompts(self, templates: Mapping[str, str]) -> VLMSettings:
        """Return the settings with other templates.

        Raises:
            ValueError: a template lacks a field.
        """

    @abstractmethod
    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Return the scores in [0, 1] of several windows, as far as memory allows in the same
        forwards.

        Raises:
            RNXError: the model gives no numbers, or nothing fits into memory.
        """

    def _check_answer(self, answer: Answer, count: int) -> None:
        """Refuse logits that are no numbers, and measure how much probability the answers have.

        Warn if that is little the first time.
        """
        self.forward.check_numbers(answer.logits[:count])
        mass = answer.mass(count)
        self._answer_count += 1
        if self.label_mass is None:
            self.label_mass = mass
            self._warn_if_little(mass)
        else:
            self.label_mass += (mass - self.label_mass) / self._answer_count

    def _warn_if_little(self, mass: float) -> None:
        if mass >= ENOUGH_MASS:
            return
        self.encoder.runtime.warn_once(
            ("mass", *self.prompts.values()),
            f"only {mass:.0%} of the probability lies on the answers of "
            f"readout={self.settings.readout!r}; the checkpoint does not understand the prompt. "
            "Use its own prompt or another read-out.",
        )


class ListReadout(ReadoutStrategy):
    """The common half of the two read-outs of a whole list: its prompt, and smaller windows for a
    list that does not fit.
    """

    @property
    def prompts(self) -> dict[str, str]:
        prompt = self.settings.prompt_of_list
        return {"list_prompt": prompt.template, "candidate_prompt": prompt.candidate}

    def replace_prompts(self, templates: Mapping[str, str]) -> VLMSettings:
        chosen = {**self.prompts, **templates}
        prompt = replace(
            self.settings.prompt_of_list,
            template=chosen["list_prompt"],
            candidate=chosen["candidate_prompt"],
        )
        return replace(self.settings, list_prompt=prompt)

    def _set_labels(self, labels: list[str]) -> None:
        """Show the candidates of a window by these labels, one for each."""
        self.labels = labels
        self.full_window = len(labels)
        self.max_candidates = len(labels)

    def _build_prompt(self, query: Memory, memories: Sequence[Memory]) -> PromptTokens:
        kinds = [kind_of(memory) for memory in memories]
        labels = self.labels[: len(memories)]
        segments = self.settings.prompt_of_list.pieces(kinds, labels, kind_of(query))
        return self.encoder.build_prompt(segments, query, memories)

    def _shrink_window(self, count: int) -> None:
        self.encoder.release_images()
        self.encoder.runtime.shrink_window(count)

    def _score_by_smaller_windows(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Score a list that is too large: a window of half its size, or less, slides over it."""
        if not memories:
            return []
        if len(memories) <= 2:
            raise RNXError(
                f"{self.settings.name}: {len(memories)} candidate(s) and the query do not fit into "
                f"memory, or into {self._window_tokens} tokens; lower max_pixels or "
                "max_text_tokens, or take a larger device."
            )
        size = max(2, min(self.window, len(memories) // 2))

        def score_window(window: Window) -> list[float]:
            return self.score_many([(query, [memories[i] for i in window])])[0]

        plan = sliding_windows(len(memories), size, max(1, size // 2))
        ranking = run_plan(plan, score_window)
        scores = dict(zip(ranking.order, ranking.scores, strict=True))
        return [scores[i] for i in range(len(memories))]


class LabelReadout(ListReadout):
    """One prompt for a list, one logit for each candidate: that of its label."""

    def __init__(self, settings: VLMSettings, encoder: Encoder) -> None:
        super().__init__(settings, encoder)
        prompt = settings.prompt_of_list
        encode = encoder.literal_tokens
        count = settings.window or WINDOW

        labels = choose_labels(prompt, encode, count)
        too_few = settings.window is not None and len(labels) < settings.window
        if len(labels) < 2 or too_few:
            raise SettingsError(
                f"{settings.name}: its tokenizer has {len(labels)} labels that are single tokens, "
                f"all alike, after the prompt; {count} are needed. Lower window=, end the prompt "
                "in a line break, or use readout='pointwise'."
            )
        self._set_labels(labels)
        tokens = [label_id(prompt.answer, encode, label) for label in self.labels]
        self.answer_ids = [token for token in tokens if token is not None]

    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score lists that fit in common forwards, and one that does not fit by smaller windows."""
        prompts = [self._fitting_prompts(query, memories) for query, memories in requests]
        answers = self._try_answers(prompts)
        if answers is None:
            # The images of the prompts take memory on the device; free it before the next try.
            del prompts
            return self._score_one_by_one(requests)

        scores: list[list[float]] = []
        remaining = iter(answers)
        for (query, memories), group in zip(requests, prompts, strict=True):
            if group:
                group_answers = list(islice(remaining, len(group)))
                scores.append(self._list_scores(group_answers, len(memories)))
            else:
                scores.append(self._score_by_smaller_windows(query, memories))
        return scores

    def window_prompts(self, query: Query, memories: Sequence[Memory]) -> list[PromptTokens]:
        """Return the prompt of a list; with `both_orders` also that of its reverse."""
        query_memory = self.encoder.query_memory(query)
        prompts = [self._build_prompt(query_memory, memories)]
        if self.settings.both_orders and len(memories) > 1:
            prompts.append(self._build_prompt(query_memory, memories[::-1]))
        return prompts

    def log_probabilities(self, query: Query, memories: Sequence[Memory]) -> Tensor:
        """Return [N], the log-probability of each label of one list among all words, with gradients
        for weights that require them.
        """
        prompt = self.window_prompts(query, memories)[0]
        logits = self.encoder.backbone.forward([prompt], words=self.answer_ids)  # [1, W]
        return logits.log_softmax(-1)[0, self.answer_ids[: len(memories)]]

    def _fitting_prompts(self, query: Query, memories: Sequence[Memory]) -> list[PromptTokens]:
        """Return the prompts of a list, none if it is empty or too large."""
        if not 0 < len(memories) <= self.window:
            return []
        prompts = self.window_prompts(query, memories)
        return prompts if max(map(len, prompts)) <= self._window_tokens else []

    def _try_answers(self, prompts: Sequence[Sequence[PromptTokens]]) -> list[Answer] | None:
        """Return the answers to all prompts, None if a single prompt does not fit into memory."""
        flat = [prompt for group in prompts for prompt in group]
        try:
            return self.forward.answers(flat, self.answer_ids)
        except TooLargeError:
            return None

    def _score_one_by_one(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score requests whose prompts did not all fit into memory."""
        if len(requests) > 1:
            return [self.score_many([request])[0] for request in requests]
        ((query, memories),) = requests
        self._shrink_window(len(memories))
        return [self._score_by_smaller_windows(query, memories)]

    def _list_scores(self, answers: Sequence[Answer], count: int) -> list[float]:
        """Turn the answer to a list, and perhaps to its reverse, into scores."""
        for answer in answers:
            self._check_answer(answer, count)
        calibration = self.settings.calibration
        logits = [calibration.logits(answer.logits[:count]) for answer in answers]  # [N] each
        if len(logits) == 2:
            logits[1] = logits[1].flip(0)
        scores: list[float] = torch.stack(logits).mean(0).sigmoid().tolist()
        return scores


class PointwiseReadout(ReadoutStrategy):
    """One prompt for each candidate, yes against no; the query's part is computed once."""

    def __init__(self, settings: VLMSettings, encoder: Encoder) -> None:
        super().__init__(settings, encoder)
        prompt = settings.pair_prompt
        self.labels = [prompt.yes, prompt.no]
        tokens = [label_id(prompt.answer, encoder.literal_tokens, word) for word in self.labels]
        self.answer_ids = [token for token in tokens if token is not None]
        if len(self.answer_ids) < 2:
            raise SettingsError(
                f"{settings.name}: {prompt.yes!r} and {prompt.no!r} must be single tokens after "
                "the pointwise prompt."
            )
        self.full_window = settings.window or PAIRS
        self.max_candidates = max(self.full_window, PAIRS)

    @property
    def prompts(self) -> dict[str, str]:
        prompt = self.settings.pair_prompt
        return {"pair_prompt": prompt.template.replace("{instruction}", prompt.instruction)}

    def replace_prompts(self, templates: Mapping[str, str]) -> VLMSettings:
        chosen = {**self.prompts, **templates}
        prompt = replace(self.settings.pair_prompt, template=chosen["pair_prompt"])
        return replace(self.settings, pair_prompt=prompt)

    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score the requests one after the other; each has a prefix of its own."""
        return [self._pair_scores(query, memories) for query, memories in requests]

    def _pair_scores(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        if not memories:
            return []
        query_memory = self.encoder.query_memory(query)
        pairs = self.settings.pair_prompt
        start = self.encoder.build_prompt(pairs.prefix(kind_of(query_memory)), query_memory, [])
        rests = [
            self.encoder.build_prompt(pairs.suffix(i, kind_of(memory)), query_memory, memories)
            for i, memory in enumerate(memories)
        ]
        self._check_length(len(start) + max(map(len, rests)))

        try:
            answers = self.forward.answers(rests, self.answer_ids, self.forward.prefix(start))
        except TooLargeError as error:
            raise RNXError(
                f"{self.settings.name}: out of memory on one candidate; lower max_pixels or "
                "max_text_tokens."
            ) from error
        for answer in answers:
            self._check_answer(answer, 2)
        return [float((answer.logits[0] - answer.logits[1]).sigmoid()) for answer in answers]

    def _check_length(self, tokens: int) -> None:
        if tokens > self._window_tokens:
            raise RNXError(
                f"{self.settings.name}: a query and a candidate have {tokens} tokens; "
                f"{self._window_tokens} are allowed. Lower max_pixels or max_text_tokens."
            )


class PermutationReadout(ListReadout):
    """One prompt for a list, whose order the model writes under constraint: always a permutation.

    It is the only read-out that decodes.
    """

    def __init__(self, settings: VLMSettings, encoder: Encoder) -> None:
        super().__init__(settings, encoder)
        self.answer_ids = []
        self._set_labels([str(number + 1) for number in range(settings.window or WINDOW)])
        for tokens in settings.prompt_of_list.names(self.labels, encoder.literal_tokens):
            self._check_distinct(tokens)

    def score_many(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Score the requests one after the other: 1 for the first of a window, falling in equal
        steps.
        """
        return [self._written_scores(query, memories) for query, memories in requests]

    def window_prompts(self, query: Query, memories: Sequence[Memory]) -> list[PromptTokens]:
        """Return the prompt of a list."""
        return [self._build_prompt(self.encoder.query_memory(query), memories)]

    def _written_scores(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        if not memories:
            return []
        count = len(memories)
        (prompt,) = self.window_prompts(query, memories)
        if count > self.window or len(prompt) > self._window_tokens:
            return self._score_by_smaller_windows(query, memories)

        order = self._try_order(prompt, count)
        if order is None:
            # The images of the prompt take memory on the device; free it before the next try.
            del prompt
            self._shrink_window(count)
            return self._score_by_smaller_windows(query, memories)
        ranks = {candidate: rank for rank, candidate in enumerate(order)}
        return [1 - ranks[i] / count for i in range(count)]

    def _try_order(self, prompt: PromptTokens, count: int) -> list[int] | None:
        """Return the order that the model writes, None if the prompt does not fit into memory."""
        try:
            return self._written_order(prompt, count)
        except TooLargeError:
            return None

    def _written_order(self, prompt: PromptTokens, count: int) -> list[int]:
        """Let the model write an order of the first `count` labels.

        The list is computed once, as a prefix; at each choice only what follows it is computed.
        """
        encode = self.encoder.literal_tokens
        first, later = self.settings.prompt_of_list.names(self.labels[:count], encode)
        prefix = self.forward.prefix(PromptTokens(ids=prompt.ids[:-1], images=prompt.images))
        last = prompt.ids[-1:].tolist()

        def choose(written: Sequence[int], possible: Sequence[int]) -> int:
            rest = PromptTokens(ids=torch.tensor([*last, *written]))
            return self.forward.best_token(rest, prefix, possible)

        return written_order(first, later, choose)

    def _check_distinct(self, labels: Sequence[Sequence[int]]) -> None:
        """Refuse labels one of which begins with another: a choice between them has no end."""
        for label in labels:
            for longer in labels:
                if longer != label and longer[: len(label)] == label:
                    written = self.settings.prompt_of_list.written
                    raise SettingsError(
                        f"{self.settings.name}: one label begins with another as {written!r} is "
                        "tokenised; close it, as in written='[{label}]'."
                    )


READOUTS: Mapping[Readout, type[ReadoutStrategy]] = {
    "labels": LabelReadout,
    "pointwise": PointwiseReadout,
    "permutation": PermutationReadout,
}
