"""Prompts -> logits of a few answers, in batches that fit into memory. It knows no windows and no
scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.backbone import Prefix, PromptTokens
from llama_index_rnx.rankers.vlm.encoding import Encoder
from llama_index_rnx.ranking import batches_by_token_budget, halve_on_oom


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a prompt: the logits [A] of the possible answers in float64, and the logarithm
    of the sum over all words.
    """

    logits: Tensor
    log_total: float

    def mass(self, count: int) -> float:
        """The share of probability on the first `count` answers, in [0, 1]."""
        return float((self.logits[:count] - self.log_total).exp().sum())


class BatchedForward:
    """Runs the language model over any number of prompts."""

    def __init__(self, encoder: Encoder) -> None:
        self.backbone = encoder.backbone
        self._encoder = encoder
        self._runtime = encoder.runtime

    def answers(
        self,
        prompts: Sequence[PromptTokens],
        answer_ids: Sequence[int],
        prefix: Prefix | None = None,
    ) -> list[Answer]:
        """Return what follows each prompt. Prompts of similar length share a forward.

        Raises:
            TooLargeError: a single prompt does not fit into memory.
        """
        answers: dict[int, Answer] = {}
        batches = batches_by_token_budget(
            [len(prompt) for prompt in prompts],
            lambda: self._runtime.token_budget,
            prefix.length if prefix else 0,
        )

        def run(indices: Sequence[int]) -> list[Answer]:
            return self._forward([prompts[i] for i in indices], answer_ids, prefix)

        for batch in batches:
            results = halve_on_oom(batch, run, self._shrink_token_budget)
            answers.update(zip(batch, results, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def prefix(self, prompt: PromptTokens) -> Prefix:
        """Compute a common start of several prompts once.

        Raises:
            TooLargeError: it does not fit into memory.
        """

        def run(prompts: Sequence[PromptTokens]) -> list[Prefix]:
            return [self.backbone.compute_prefix(prompt) for prompt in prompts]

        (prefix,) = halve_on_oom([prompt], run, self._shrink_token_budget)
        return prefix

    def best_token(self, prompt: PromptTokens, prefix: Prefix, tokens: Sequence[int]) -> int:
        """Return the most probable of `tokens` after a prefix and a prompt.

        Raises:
            TooLargeError: the prompt does not fit into memory.
            RNXError: the model gives logits that are no numbers.
        """

        def run(prompts: Sequence[PromptTokens]) -> list[Tensor]:
            return list(self.backbone.next_token_logits(prompts, prefix, tokens))

        (logits,) = halve_on_oom([prompt], run, self._shrink_token_budget)
        chosen = logits[list(tokens)]
        self.check_numbers(chosen)
        return tokens[int(chosen.argmax())]

    def check_numbers(self, logits: Tensor) -> None:
        """Refuse logits that are infinite or no numbers.

        Raises:
            RNXError: one is.
        """
        if not bool(torch.isfinite(logits).all()):
            raise RNXError(
                f"{self._runtime.name} gave logits that are no numbers; try dtype='float32', or "
                "another checkpoint."
            )

    def _forward(
        self, prompts: Sequence[PromptTokens], answer_ids: Sequence[int], prefix: Prefix | None
    ) -> list[Answer]:
        """Run one forward. Of the vocabulary only the logits of the answers are kept."""
        logits = self.backbone.next_token_logits(prompts, prefix, answer_ids)  # [B, W]
        of_answers = logits[:, answer_ids].cpu().double()  # [B, A]
        log_totals = logits.logsumexp(-1).cpu()  # [B]
        return [
            Answer(logits=row, log_total=float(log_total))
            for row, log_total in zip(of_answers, log_totals, strict=True)
        ]

    def _shrink_token_budget(self) -> None:
        self._encoder.release_images()
        self._runtime.shrink_token_budget()
