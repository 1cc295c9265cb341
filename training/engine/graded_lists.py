"""The task that trains a ranker on graded lists: any `Learner`, any `Stage`. It knows losses and
lists, and no model.

Every step draws lists from the stage's sources, samples candidates of each, and averages the
losses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from training.data import GradedList, take
from training.engine.distributed import SingleProcess
from training.engine.learner import Learner, Penalised
from training.engine.schedules import warmup_then_cosine
from training.engine.stage import Stage
from training.engine.task import Task
from training.evaluation import NDCG10, Run, Values, evaluate, mean, qrels_of, run_of
from training.losses import lambdarank, listmle, ranknet, softmax_kl

Loss = Callable[[Tensor, Tensor], Tensor]

# Lists by source, or by development set.
Lists = Mapping[str, Sequence[GradedList]]

LOSSES: dict[str, Loss] = {
    "softmax_kl": softmax_kl,
    "listmle": listmle,
    "ranknet": ranknet,
    "lambdarank": lambdarank,
    "mixed": lambda scores, grades: softmax_kl(scores, grades) + 0.3 * listmle(scores, grades),
}

# The learning rate ends at this share of its peak.
FLOOR = 0.02


class GradedListTask(Task):
    """A learner in one stage.

    Args:
        learner: the ranker to train.
        stage: how.
        lists: returns the lists of a mining round (from 0) by source; it is called when the round
            begins, and when a run resumes inside it.
        dev_sets: lists by development set; the mean of their nDCG@10 selects the best weights.
        seed: of everything that is drawn.
        processes: the team that shares the lists of a step.
    """

    def __init__(
        self,
        learner: Learner,
        stage: Stage,
        lists: Callable[[int], Lists],
        dev_sets: Lists,
        seed: int,
        processes: SingleProcess = SingleProcess(),
    ) -> None:
        self.learner = learner
        self.stage = stage
        self.dev_sets = dev_sets
        self.seed = seed
        self.processes = processes

        self.name = stage.name
        self.steps = stage.steps
        self.evaluate_every = stage.evaluate_every
        self.max_grad_norm = stage.clip

        self._lists_of_round = lists
        self._lists: Lists | None = None

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.learner.groups(self.stage), eps=1e-6)

    def learning_rate_factor(self, step: int) -> float:
        """Rise linearly over the warm-up, then fall along a cosine to 2 % of the peak."""
        warmup = max(1, round(self.stage.warmup * self.steps))
        return warmup_then_cosine(step, warmup, self.steps, FLOOR)

    def ema_decay(self, step: int) -> float:
        """Average over few steps in the beginning: 1/10, 2/11, ..., at most the stage's decay."""
        return min(self.stage.ema_decay, (step + 1) / (step + 10))

    def weights(self) -> dict[str, Tensor]:
        return self.learner.weights()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.learner.load(weights)

    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield the loss of every list of this process's share, divided by the batch size."""
        for graded_list, seed in self.processes.share(self.sample(step)):
            # The seed of dropout and of views.
            torch.manual_seed(seed)
            yield self._loss(graded_list) / self.stage.batch_size

    def sample(self, step: int) -> list[tuple[GradedList, int]]:
        """Draw the lists of a step, cut to sampled candidates, with the seed of what else is drawn
        while each is scored.
        """
        if self._lists is None or starts_round(step, self.stage):
            self._lists = self._lists_of_round(round_of(step, self.stage))

        rng = random.Random(f"{self.seed}-{self.stage.name}-{step}")
        names = [name for name, _ in self.stage.sources]
        weights = [weight for _, weight in self.stage.sources]
        sources = rng.choices(names, weights=weights, k=self.stage.batch_size)
        return [self.sample_list(rng.choice(self._lists[name]), rng) for name in sources]

    def sample_list(self, graded_list: GradedList, rng: random.Random) -> tuple[GradedList, int]:
        """Sample candidates of a list, and draw the seed of what else is drawn while it is
        scored.
        """
        half = self.stage.list_length // 2
        count = min(rng.randint(max(2, half), half * 3), self.stage.max_list_length)
        positions = sample_candidates(graded_list, count, rng)
        return take(graded_list, positions), rng.getrandbits(63)

    def evaluate(self) -> dict[str, float]:
        """Return nDCG@10 of every development set."""
        shares = {
            name: ndcg(self.learner, self.processes.share(lists))
            for name, lists in self.dev_sets.items()
        }
        return {name: mean(self.processes.gather(values)) for name, values in shares.items()}

    def _loss(self, graded_list: GradedList) -> Tensor:
        scores = self.learner.scores(graded_list)  # [N]
        grades = torch.tensor(graded_list.grades, device=scores.device)
        loss = LOSSES[self.stage.loss](scores, grades)
        if isinstance(self.learner, Penalised):
            loss = loss + self.learner.penalty()
        return loss


def round_of(step: int, stage: Stage) -> int:
    """Return the mining round, from 0, that a step belongs to."""
    return min(step * stage.mining_rounds // stage.steps, stage.mining_rounds - 1)


def starts_round(step: int, stage: Stage) -> bool:
    """Return whether a step is the first of its mining round."""
    return step == 0 or round_of(step, stage) != round_of(step - 1, stage)


def sample_candidates(graded_list: GradedList, count: int, rng: random.Random) -> list[int]:
    """Return indices of `count` sampled candidates, at most half of them relevant, so that every
    list keeps negatives.
    """
    relevant = [index for index, grade in enumerate(graded_list.grades) if grade > 0]
    irrelevant = [index for index, grade in enumerate(graded_list.grades) if grade <= 0]
    rng.shuffle(relevant)
    rng.shuffle(irrelevant)

    positives = relevant[: max(count // 2, count - len(irrelevant))]
    return positives + irrelevant[: count - len(positives)]


@torch.inference_mode()
def run_lists(learner: Learner, lists: Sequence[GradedList]) -> Run:
    """Score whole lists, and return the scores as a run."""
    return run_of(lists, [learner.scores(graded_list).tolist() for graded_list in lists])


def ndcg(learner: Learner, lists: Sequence[GradedList]) -> Values:
    """Return nDCG@10 of every list by its qid."""
    return evaluate(qrels_of(lists), run_lists(learner, lists), NDCG10)
