"""A vision-language model as a ranker: memories of texts and pictures, and scores read from one
forward.

`remember` tokenises a text and sends a picture through the vision tower, once. `score` lays the
memories into a prompt and reads logits at its last place: one for each label of the list
(`labels`), or yes against no for each candidate (`pointwise`). Checkpoints trained to write an
order are held to a valid one (`permutation`), the only read-out that decodes. Which of them a
checkpoint can do is decided by its training, see `load_vlm`.
"""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, ImageSource, Query, pad_to_aspect
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers.vlm.backbone import Backbone, ImageFeatures, Prefix, PromptTokens
from llama_index_rnx.rankers.vlm.packing import MEMORY_DTYPES, kind_of, pack, unpack
from llama_index_rnx.rankers.vlm.prompts import (
    ORDER_CANDIDATE,
    ORDER_TEMPLATE,
    QUERY,
    ListPrompt,
    PairPrompt,
    PromptPart,
    choose_labels,
    label_id,
    written_order,
)
from llama_index_rnx.ranking import (
    Calibration,
    ScoringRequest,
    TooLargeError,
    Window,
    batches_by_token_budget,
    batches_of_equal_shape,
    halve_on_oom,
    prefetch,
    run_plan,
    sliding_windows,
)

Readout = Literal["labels", "pointwise", "permutation"]

WINDOW = 20  # of labels; the usual window of listwise rankers
PAIRS = 10_000  # candidates of a pointwise call: each is read alone, so one call takes many
TEXT_TOKENS = 512
QUERIES_KEPT = 64
AHEAD = 32  # pictures as patches, waiting for the tower; one of 512 tokens is 10 MB
PATCHES_AT_ONCE = {"cuda": 65_536, "mps": 16_384, "cpu": 8_192}  # of the vision tower
PATCHES_A_PICTURE = 2_048  # of 512 tokens
PLACES_AT_ONCE = {
    "cuda": 65_536,
    "mps": 16_384,
    "cpu": 8_192,
}  # of the language model, padding counted
NEAR_BYTES = {
    "cuda": 2 * 2**30,
    "mps": 2**30,
}  # of pictures that stay on the device between windows and calls
ENOUGH_MASS = 0.5  # the share of probability on the labels below which the prompt is not understood
LIST_PROMPTS = {
    "label": ListPrompt(),
    "order": ListPrompt(template=ORDER_TEMPLATE, candidate=ORDER_CANDIDATE),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What follows a prompt: the logits [A] of the answers, and `total`, the log of the sum over
    all words.
    """

    logits: Tensor
    total: float


class VLMRanker:
    """The `Ranker` of a vision-language model of the Qwen2-VL, Qwen2.5-VL or Qwen3-VL family; made
    by `load_vlm`.

    A memory holds `text` [T] int32 token ids, and of an image `image` [V, H] visual tokens, `grid`
    [3] int32 and, for Qwen3-VL, `deep` [D, V, H]; as int8 also `image_scale` [V] and `deep_scale`
    [D, V]. Texts and pictures of 512 tokens take 2 kB and, at 1,536 wide in bfloat16, 1.6 MB; int8
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
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        name: str,
        readout: Readout,
        window: int | None = None,
        max_text_tokens: int | None = None,
        max_window_tokens: int | None = None,
        both_orders: bool = False,
        memory_dtype: str = "bfloat16",
        list_prompt: ListPrompt | None = None,
        pair_prompt: PairPrompt | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if memory_dtype not in MEMORY_DTYPES:
            raise RNXError(
                f"memory_dtype={memory_dtype!r} is not known; allowed: {', '.join(MEMORY_DTYPES)}."
            )
        if both_orders and readout != "labels":
            raise RNXError(
                f"both_orders=True needs readout='labels'; {name!r} is read by {readout!r}."
            )
        self.readout, self.both_orders = readout, both_orders
        self.list_prompt = list_prompt or (
            LIST_PROMPTS["order"] if readout == "permutation" else LIST_PROMPTS["label"]
        )
        self.pair_prompt = pair_prompt or PairPrompt()
        self.calibration = calibration or Calibration()
        self.label_mass: float | None = (
            None  # share of probability on the answers, meaned over all that were read
        )
        self._measured = 0
        self._backbone, self._name = backbone, name
        self._text_tokens = max_text_tokens or TEXT_TOKENS
        self._window_tokens = min(max_window_tokens or backbone.context, backbone.context)
        self._memory_dtype = MEMORY_DTYPES[memory_dtype]
        self._fingerprint = f"{backbone.fingerprint()}/{self._text_tokens}/{memory_dtype}"
        kind = backbone.device.type
        self._patches, self._places = (
            PATCHES_AT_ONCE.get(kind, 8_192),
            PLACES_AT_ONCE.get(kind, 8_192),
        )
        self._encode = lru_cache(maxsize=1_024)(self._encode_literal)
        self._queries: OrderedDict[str, Memory] = OrderedDict()
        self._near: OrderedDict[int, tuple[Tensor, ImageFeatures]] = (
            OrderedDict()
        )  # by the id of a memory's tensor
        self._near_bytes = NEAR_BYTES.get(kind, 0)
        self._said: set[str] = set()
        self._lock = threading.RLock()
        self._asked_window = window
        self.labels, self._answers, self._window = self._chosen_answers(window)

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def window(self) -> int:
        """How many candidates are read at once; smaller after a window did not fit into memory."""
        return self._window

    @property
    def remember_at_once(self) -> int:
        """How many candidates are remembered before other callers have their turn: enough to fill
        the vision tower.
        """
        return max(1, self._patches // PATCHES_A_PICTURE)

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """One memory a candidate. Pictures are opened and cut into patches by threads, beside the
        vision tower's work.

        Raises:
            ImageError: an image cannot be read. RNXError: the vision tower runs out of memory on a
                single image.
        """
        found: list[dict[str, Tensor]] = [{} for _ in candidates]
        texts = {i: c.text for i, c in enumerate(candidates) if c.text}
        for i, ids in zip(texts, self._tokens(list(texts.values())), strict=True):
            found[i]["text"] = ids
        images = {i: c.image for i, c in enumerate(candidates) if c.image is not None}
        for i, seen in zip(images, self._see(list(images.values())), strict=True):
            found[i].update(pack(seen, self._memory_dtype))
        return list(found)

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """One score in [0, 1] a memory, higher is better; pictures are not touched again.

        Raises:
            RNXError: there are more memories than `window`, the model gives no numbers, or nothing
                fits into memory.
        """
        return self.score_many([(query, memories)])[0]

    def score_many(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """The same for several windows, of one query or of many; they share forwards as far as
        memory allows.
        """
        asks = [(query, list(memories)) for query, memories in asks]
        longest = max((len(memories) for _, memories in asks), default=0)
        if longest > self._limit():
            raise RNXError(
                f"got {longest} candidates at once; {self._name} reads at most {self._limit()} by {self.readout}."
            )
        with self._lock:
            by = {
                "labels": self._by_labels,
                "pointwise": self._by_pairs,
                "permutation": self._by_writing,
            }
            return by[self.readout](asks)

    @property
    def prompts(self) -> dict[str, str]:
        """The templates of the read-out in use: `pair_prompt`, or `list_prompt` and
        `candidate_prompt`.
        """
        if self.readout == "pointwise":
            return {
                "pair_prompt": self.pair_prompt.template.replace(
                    "{instruction}", self.pair_prompt.instruction
                )
            }
        return {
            "list_prompt": self.list_prompt.template,
            "candidate_prompt": self.list_prompt.candidate,
        }

    def with_prompts(self, templates: Mapping[str, str]) -> VLMRanker:
        """The same weights and memories under other templates. A calibration was fitted under the
        old ones: fit it again.

        Raises:
            RNXError: a template lacks a field, or the labels do not suit it.
        """
        found, other = self.prompts | dict(templates), copy.copy(self)
        try:
            if self.readout == "pointwise":
                other.pair_prompt = replace(self.pair_prompt, template=found["pair_prompt"])
            else:
                shown = {"template": found["list_prompt"], "candidate": found["candidate_prompt"]}
                other.list_prompt = replace(self.list_prompt, **shown)
        except ValueError as error:
            raise RNXError(f"{self._name}, {' and '.join(templates)}: {error}") from error
        other.labels, other._answers, other._window = other._chosen_answers(self._asked_window)
        other.label_mass, other._measured, other._said = None, 0, set()
        return other

    def __copy__(self) -> VLMRanker:
        """The same weights and caches."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> VLMRanker:
        """The model itself: its weights fill the device once."""
        return self

    def __reduce__(self) -> str:
        raise RNXError(
            f"{self._name}: a loaded model of several GB is not pickled; give model={self._name!r} instead of ranker=, and it "
            "is loaded where it arrives."
        )

    def read_once(self) -> VLMRanker:
        """The same model, which reads a list in the given order only and measures its label mass
        anew.
        """
        once = copy.copy(self)
        once.both_orders, once.label_mass, once._measured = False, None, 0
        return once

    @property
    def backbone(self) -> Backbone:
        """The weights, and how they are called."""
        return self._backbone

    def label_log_probabilities(self, query: Query, memories: Sequence[Memory]) -> Tensor:
        """[N], of the labels of one list among all words, with gradients for weights that want
        them: what training shapes.

        It is the forward of `score`, so training and inference cannot read a list differently.
        """
        row = self._list_rows(query, memories)[0]
        logits = self._backbone.logits([row], words=self._answers)  # [1, W]
        return logits.log_softmax(-1)[0, self._answers[: len(memories)]]

    def uncalibrated(self) -> VLMRanker:
        """The same, without its calibration."""
        plain = self.read_once()
        plain.calibration = Calibration()
        return plain

    # ---- labels: one prompt a list, one logit a candidate
    # -----------------------------------------------------------

    def _by_labels(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        """Lists that fit share forwards; one that does not is read in smaller windows."""
        rows = [self._list_rows(*ask) if 0 < len(ask[1]) <= self._window else [] for ask in asks]
        rows = [
            pair if max(map(len, pair), default=0) <= self._window_tokens else [] for pair in rows
        ]
        try:
            answers = iter(self._read([row for pair in rows for row in pair]))
        except TooLargeError:
            if len(asks) > 1:
                return [self._by_labels([ask])[0] for ask in asks]
            self._shrink(len(asks[0][1]))
            rows = [[]]
        return [
            self._list_scores([next(answers) for _ in pair], len(ask[1]))
            if pair
            else self._by_smaller_windows(*ask)
            for ask, pair in zip(asks, rows, strict=True)
        ]

    def _list_rows(self, query: Query, memories: Sequence[Memory]) -> list[PromptTokens]:
        """The list as a prompt; with `both_orders` also its reverse."""
        asked = self._query(query)
        orders = (
            [memories, memories[::-1]] if self.both_orders and len(memories) > 1 else [memories]
        )
        labels = self.labels[: len(memories)]
        return [
            self._row(
                self.list_prompt.pieces([kind_of(m) for m in o], labels, kind_of(asked)), asked, o
            )
            for o in orders
        ]

    def _list_scores(self, answers: Sequence[Answer], count: int) -> list[float]:
        """The answers to the list, and to its reverse -> scores."""
        for answer in answers:
            self._check(answer, count)
        found = [self.calibration.logits(answer.logits[:count]) for answer in answers]  # [N] each
        if len(found) == 2:
            found[1] = found[1].flip(0)
        scores: list[float] = torch.stack(found).mean(0).sigmoid().tolist()
        return scores

    def _by_smaller_windows(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """A list that is too large: a window of half its size, or less, slides over it."""
        if not memories:
            return []
        if len(memories) <= 2:
            raise RNXError(
                f"{self._name}: {len(memories)} candidate(s) and the query do not fit into memory, or into "
                f"{self._window_tokens} tokens; lower max_pixels or max_text_tokens, or take a larger device."
            )
        size = max(2, min(self._window, len(memories) // 2))

        def read(places: Window) -> list[float]:
            return self.score(query, [memories[i] for i in places])

        ranking = run_plan(sliding_windows(len(memories), size, max(1, size // 2)), read)
        scores = dict(zip(ranking.order, ranking.scores, strict=True))
        return [scores[i] for i in range(len(memories))]

    # ---- pointwise: one prompt a candidate, the query's part read once
    # ----------------------------------------------

    def _by_pairs(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        return [self._pair_scores(query, memories) if memories else [] for query, memories in asks]

    def _pair_scores(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        asked = self._query(query)
        rows = [
            self._row(self.pair_prompt.suffix(i, kind_of(m)), asked, memories)
            for i, m in enumerate(memories)
        ]
        head = self._row(self.pair_prompt.prefix(kind_of(asked)), asked, memories)
        longest = len(head) + max(map(len, rows))
        if longest > self._window_tokens:
            raise RNXError(
                f"{self._name}: a query and a candidate have {longest} tokens; {self._window_tokens} are allowed."
            )
        try:
            answers = self._read(rows, self._prefix(head))
        except TooLargeError as error:
            raise RNXError(
                f"{self._name}: out of memory on one candidate; lower max_pixels or max_text_tokens."
            ) from error
        for answer in answers:
            self._check(answer, 2)
        return [float((answer.logits[0] - answer.logits[1]).sigmoid()) for answer in answers]

    # ---- permutation: one prompt a list, its order written under constraint
    # ----------------------------------------

    def _by_writing(self, asks: Sequence[ScoringRequest]) -> list[list[float]]:
        return [
            self._written_scores(query, memories) if memories else [] for query, memories in asks
        ]

    def _written_scores(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        count = len(memories)
        (row,) = self._list_rows(query, memories)
        if count > self._window or len(row) > self._window_tokens:
            return self._by_smaller_windows(query, memories)
        try:
            order = self._written_order(row, count)
        except TooLargeError:
            self._shrink(count)
            return self._by_smaller_windows(query, memories)
        places = {candidate: place for place, candidate in enumerate(order)}
        return [1 - places[i] / count for i in range(count)]

    def _written_order(self, row: PromptTokens, count: int) -> list[int]:
        """What the model writes after the list, held to a permutation. The list is read once, what
        is written again.
        """
        first, later = self.list_prompt.names(self.labels[:count], self._plain)
        prefix, last = (
            self._prefix(PromptTokens(ids=row.ids[:-1], seen=row.seen)),
            row.ids[-1:].tolist(),
        )

        def choose(written: Sequence[int], possible: Sequence[int]) -> int:
            tail = PromptTokens(ids=torch.tensor([*last, *written]))
            (logits,) = halve_on_oom(
                [tail], lambda rows: list(self._backbone.read(rows, prefix, possible)), self._fewer
            )
            self._check_numbers(logits[list(possible)])
            return possible[int(logits[list(possible)].argmax())]

        return written_order(first, later, choose)

    # ---- prompts and forwards
    # ---------------------------------------------------------------------------------------

    def _row(
        self, pieces: Sequence[PromptPart], query: Memory, memories: Sequence[Memory]
    ) -> PromptTokens:
        """Pieces with their slots filled from memories."""
        ids: list[Tensor] = []
        seen: list[ImageFeatures] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids.append(self._encode(piece))
                continue
            memory = query if piece.owner == QUERY else memories[piece.owner]
            if piece.part == "text":
                ids.append(memory["text"].long())
            else:
                seen.append(self._seen(memory))
                ids.append(torch.full((len(seen[-1].tokens),), self._backbone.image_token))
        return PromptTokens(ids=torch.cat(ids), seen=seen)

    def _read(self, rows: Sequence[PromptTokens], prefix: Prefix | None = None) -> list[Answer]:
        """What follows each row; rows of like length are read together. Raises TooLargeError if a
        single one does not fit.
        """
        found: dict[int, Answer] = {}
        shared = prefix.length if prefix else 0
        for part in batches_by_token_budget(
            [len(row) for row in rows], lambda: self._places, shared
        ):
            read = halve_on_oom(
                part, lambda some: self._answered([rows[i] for i in some], prefix), self._fewer
            )
            found.update(zip(part, read, strict=True))
        return [found[i] for i in range(len(rows))]

    def _prefix(self, row: PromptTokens) -> Prefix:
        (prefix,) = halve_on_oom([row], lambda rows: [self._backbone.prefix(rows[0])], self._fewer)
        return prefix

    def _answered(self, rows: Sequence[PromptTokens], prefix: Prefix | None) -> list[Answer]:
        """One forward. Of the vocabulary only the answers' logits are kept."""
        logits = self._backbone.read(rows, prefix, self._answers)  # [B, W]
        kept, total = logits[:, self._answers].cpu().double(), logits.logsumexp(-1).cpu()
        return [
            Answer(logits=one, total=float(every)) for one, every in zip(kept, total, strict=True)
        ]

    def _fewer(self) -> None:
        self._near.clear()
        self._places = max(1, self._places // 2)
        self._say(
            "batch",
            f"{self._name}: out of memory; from now on smaller batches are read, which takes longer.",
        )

    def _fewer_patches(self) -> None:
        self._near.clear()
        self._patches = max(1, self._patches // 2)
        self._say(
            "vision",
            f"{self._name}: out of memory in the vision tower; from now on it sees fewer pictures at once.",
        )

    # ---- texts and pictures
    # -----------------------------------------------------------------------------------------

    def _query(self, query: Query) -> Memory:
        """The query's memory; the last ones are kept, so a picture goes through the tower once."""
        asked = Candidate(id="query", text=query.text, image=query.image)
        memory = self._queries.get(asked.digest) or self.remember([asked])[0]
        self._queries[asked.digest] = memory
        self._queries.move_to_end(asked.digest)
        while len(self._queries) > QUERIES_KEPT:
            self._queries.popitem(last=False)
        return memory

    def _encode_literal(self, text: str) -> Tensor:
        """[T] ids of a template's own text, its special tokens recognised."""
        return torch.tensor(
            self._backbone.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long
        )

    def _tokens(self, texts: Sequence[str]) -> list[Tensor]:
        """[T] int32 ids each, at most `max_text_tokens`; what looks like a special token is plain
        text.
        """
        if not texts:
            return []
        with self._lock:  # a tokenizer switches its treatment of special tokens for all its threads
            made = self._backbone.tokenizer(
                list(texts), add_special_tokens=False, split_special_tokens=True
            )["input_ids"]
        cut = [len(ids) for ids in made if len(ids) > self._text_tokens]
        if cut:
            self._say(
                "cut",
                f"{self._name}: {len(cut)} of {len(made)} texts were cut to {self._text_tokens} tokens (the longest had "
                f"{max(cut)}); raise max_text_tokens or index smaller pieces.",
            )
        return [torch.tensor(ids[: self._text_tokens], dtype=torch.int32) for ids in made]

    def _see(self, sources: Sequence[ImageSource]) -> list[ImageFeatures]:
        """The visual tokens of pictures. While the tower sees a batch, threads cut the next
        pictures into patches.
        """
        seen: list[ImageFeatures] = []
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as workers:
            pictures = prefetch(workers, self._patched, sources, AHEAD)
            for batch in batches_of_equal_shape(
                pictures, lambda picture: len(picture[0]), lambda: self._patches
            ):
                try:
                    with self._lock:
                        seen += halve_on_oom(batch, self._backbone.see, self._fewer_patches)
                except TooLargeError as error:
                    raise RNXError(
                        f"{self._name}: out of memory on one picture; lower max_pixels."
                    ) from error
        return seen

    def _seen(self, memory: Memory) -> ImageFeatures:
        """The picture of a memory, on the device, where the last ones stay: windows overlap, and
        good pages come again.

        A hundred pictures of 512 tokens are 160 MB in bfloat16 (Qwen3-VL: 840 MB), 10 to 100 ms on
        the way to a GPU.
        """
        image = memory["image"]  # kept with its copy, so that no other tensor can take its id
        _, seen = self._near.pop(id(image), (image, None))
        if seen is None:
            device = self._backbone.device
            seen = unpack(
                {
                    name: t if name == "grid" else t.to(device)
                    for name, t in memory.items()
                    if name != "text"
                }
            )
        self._near[id(image)] = (image, seen)
        while sum(near.nbytes for _, near in self._near.values()) > self._near_bytes:
            self._near.popitem(last=False)
        return seen

    def _patched(self, source: ImageSource) -> tuple[Tensor, Tensor]:
        try:
            picture = source.load(self._backbone.max_pixels)
            return self._backbone.pixels(
                pad_to_aspect(picture, self._backbone.max_pixels, self._backbone.max_aspect)
            )
        except ImageError as error:
            raise ImageError(
                str(error) if source.label in str(error) else f"{source.label}: {error}"
            ) from error

    # ---- checks
    # -----------------------------------------------------------------------------------------------------

    def _chosen_answers(self, window: int | None) -> tuple[list[str], list[int], int]:
        """The texts and the ids of the tokens that are read, and the window."""
        if self.readout == "pointwise":
            return self._pair_answers(window or PAIRS)
        if self.readout == "permutation":
            return self._number_labels(window or WINDOW), [], window or WINDOW
        wanted = window or WINDOW
        labels = choose_labels(self.list_prompt, self._plain, wanted)
        if len(labels) < 2 or (window and len(labels) < window):
            raise RNXError(
                f"{self._name}: its tokenizer has {len(labels)} labels that are single tokens, all alike, after the prompt; "
                f"{wanted} are needed. Lower window=, end the prompt in a line break, or use readout='pointwise'."
            )
        ids = [label_id(self.list_prompt.answer, self._plain, label) for label in labels]
        return labels, [i for i in ids if i is not None], len(labels)

    def _number_labels(self, window: int) -> list[str]:
        """1, 2, ... as labels of a written order."""
        labels = [str(number + 1) for number in range(window)]
        for names in self.list_prompt.names(labels, self._plain):
            if any(one != other and other[: len(one)] == one for one in names for other in names):
                raise RNXError(
                    f"{self._name}: one label begins with another as {self.list_prompt.written!r} is tokenised; close it, "
                    "as in written='[{label}]'."
                )
        return labels

    def _pair_answers(self, window: int) -> tuple[list[str], list[int], int]:
        words = [self.pair_prompt.yes, self.pair_prompt.no]
        found = [label_id(self.pair_prompt.answer, self._plain, word) for word in words]
        ids = [i for i in found if i is not None]
        if len(ids) < 2:
            raise RNXError(
                f"{self._name}: {words[0]!r} and {words[1]!r} must be single tokens after the pointwise prompt."
            )
        return words, ids, window

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text).tolist()
        return ids

    def _limit(self) -> int:
        return max(self._window, PAIRS) if self.readout == "pointwise" else len(self.labels)

    def _check(self, answer: Answer, count: int) -> None:
        """Refuses what is no number; measures how much probability the answers have, and says so if
        it is little at first.
        """
        logits = answer.logits[:count]
        self._check_numbers(logits)
        mass, first = float((logits - answer.total).exp().sum()), self.label_mass is None
        self._measured += 1
        self.label_mass = (
            mass
            if self.label_mass is None
            else self.label_mass + (mass - self.label_mass) / self._measured
        )
        if first and mass < ENOUGH_MASS:
            self._say(
                "mass",
                f"{self._name}: only {mass:.0%} of the probability lies on the answers of readout="
                f"{self.readout!r}; the checkpoint does not understand the prompt. Use its own prompt or another read-out.",
            )

    def _check_numbers(self, logits: Tensor) -> None:
        if not bool(torch.isfinite(logits).all()):
            raise RNXError(
                f"{self._name} gave logits that are no numbers; try dtype='float32', or another checkpoint."
            )

    def _shrink(self, count: int) -> None:
        """A window of `count` candidates did not fit: from now on it is half as large."""
        self._near.clear()
        self._window = max(2, count // 2)
        self._say(
            "window",
            f"{self._name}: out of memory; from now on {self._window} candidates are read at once.",
        )

    def _say(self, key: str, text: str) -> None:
        """A warning, once in this ranker's life."""
        if key not in self._said:
            self._said.add(key)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
