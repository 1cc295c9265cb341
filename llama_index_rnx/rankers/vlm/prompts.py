"""Pure: how a query and candidates become a prompt of texts and slots, and which labels a tokenizer
can read. No model.

A prompt is a sequence of pieces: literal text, which may hold the chat's special tokens, and slots,
which the ranker fills from memories. What users and documents wrote stands in slots only, so it can
never forge a special token.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Encode = Callable[[str], Sequence[int]]  # literal text -> token ids, special tokens recognised
Choose = Callable[
    [Sequence[int], Sequence[int]], int
]  # tokens written, tokens possible next -> one of the latter
Kind = Literal["text", "image", "both"]

QUERY = -1  # the owner of the query's slots; candidates own theirs by index
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
LABEL_POOL = string.ascii_uppercase + string.ascii_lowercase + string.digits

LIST_TEMPLATE = """<|im_start|>system
You rank search results. A result is a text, a picture, or both.<|im_end|>
<|im_start|>user
Query:
{query}

Results:
{candidates}
Which of these results answers the query best? The query again:
{query}

Reply with the label of that result and nothing else.<|im_end|>
<|im_start|>assistant
"""
CANDIDATE_TEMPLATE = "Result {label}:\n{content}\n"

# For checkpoints that write a whole order, in the wording of RankGPT (Sun et al. 2023); "[2] > [1]"
# follows it.
ORDER_TEMPLATE = """<|im_start|>system
You rank search results. A result is a text, a picture, or both.<|im_end|>
<|im_start|>user
Query:
{query}

Results:
{candidates}
Rank these results by how well they answer the query. The query again:
{query}

Reply with the labels in descending order, such as [2] > [1], and nothing else.<|im_end|>
<|im_start|>assistant
"""
ORDER_CANDIDATE = "[{label}]\n{content}\n"

# The format in which Qwen3-VL-Reranker was trained (its chat template); its answer is "yes" or
# "no".
PAIR_TEMPLATE = """<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {instruction}<Query>:{query}
<Document>:{content}<|im_end|>
<|im_start|>assistant
"""
INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for the text or the image of a candidate (`owner` is its index) or of the query
    (`owner` is `QUERY`).
    """

    owner: int
    part: Literal["text", "image"]


PromptPart = str | Slot


@dataclass(frozen=True, kw_only=True)
class ListPrompt:
    """The prompt of a whole list; the label that follows it is read, or an order of labels is
    written.

    `template` names `{candidates}` once and `{query}` as often as it likes (a picture in the query
    is read as often); `candidate` names `{label}` and, once, `{content}`. All other braces are
    plain text. In a written order each label stands as in `written`, with `separator` between two
    of them.

    Raises:
        ValueError: a name is missing, doubled or unknown to its template.

    Example:
        >>> prompt = ListPrompt(template="{candidates}Q: {query}\\nA: ", candidate="{label}. {content}\\n")
        >>> prompt.pieces(["text"], "A", "text")
        ['A. ', Slot(owner=0, part='text'), '\\nQ: ', Slot(owner=-1, part='text'), '\\nA: ']
    """

    template: str = LIST_TEMPLATE
    candidate: str = CANDIDATE_TEMPLATE
    written: str = "[{label}]"
    separator: str = " > "

    def __post_init__(self) -> None:
        _check(self.template, once=("candidates",), some=("query",))
        _check(self.candidate, once=("content",), some=("label",))

    @property
    def answer(self) -> str:
        """The literal text right before the label that is read."""
        return _split(self.template)[-1]

    def header(self, label: str) -> str:
        """The literal text in which a candidate's label is shown."""
        return self.candidate.split("{content}")[0].replace("{label}", label)

    def names(
        self, labels: Sequence[str], encode: Encode
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens of each label in a written order: as its first, and as a later one with the
        separator before it.
        """
        shown = [self.written.replace("{label}", label) for label in labels]
        return [list(encode(name)) for name in shown], [
            list(encode(self.separator + name)) for name in shown
        ]

    def pieces(self, kinds: Sequence[Kind], labels: Sequence[str], query: Kind) -> list[PromptPart]:
        """The prompt of candidates of these kinds under these labels."""
        shown: list[PromptPart] = []
        for owner, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
            shown += _filled(
                self.candidate.replace("{label}", label), {"content": content(owner, kind)}
            )
        return _joined(
            _filled(self.template, {"query": content(QUERY, query), "candidates": shown})
        )


@dataclass(frozen=True, kw_only=True)
class PairPrompt:
    """The prompt of one candidate; `yes` or `no` follows it. `{query}` stands before `{content}`,
    so that a query is read once for all its candidates.

    Raises:
        ValueError: a name is missing or doubled, or `{content}` comes before the end of the query's
            part.
    """

    template: str = PAIR_TEMPLATE
    instruction: str = INSTRUCTION
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        _check(self.template, once=("content",), some=("query",))
        if "{query}" in self.template.split("{content}")[1]:
            raise ValueError(
                "the template names {query} after {content}; put it before: it is read once for all candidates."
            )

    @property
    def answer(self) -> str:
        """The literal text right before the answer that is read."""
        return _split(self.template)[-1]

    def prefix(self, query: Kind) -> list[PromptPart]:
        """What all candidates of a query share: it ends in literal text."""
        head = self.template.split("{content}")[0].replace("{instruction}", self.instruction)
        return _joined(_filled(head, {"query": content(QUERY, query)}))

    def suffix(self, owner: int, kind: Kind) -> list[PromptPart]:
        """What is read of one candidate after the prefix."""
        return _joined([*content(owner, kind), self.template.split("{content}")[1]])


def content(owner: int, kind: Kind) -> list[PromptPart]:
    """A candidate or a query as pieces: its image between its marks, then its text (the order of
    Qwen's own templates).
    """
    image: list[PromptPart] = [VISION_START, Slot(owner=owner, part="image"), VISION_END]
    text: list[PromptPart] = [Slot(owner=owner, part="text")]
    return {"image": image, "text": text, "both": image + text}[kind]


def choose_labels(
    prompt: ListPrompt, encode: Encode, wanted: int, pool: Sequence[str] = LABEL_POOL
) -> list[str]:
    """The first labels of the pool that this tokenizer treats all alike; fewer than `wanted` if
    there are no more.

    Alike means: read as one token that does not merge with the text before it, and shown in a
    header of as many tokens as the others. Forcing a bracket shows why: Qwen's "[A" is one token
    for 18 letters, "[O" and "[Q" are two, and O then won 31 of 32 lists.

    Example:
        >>> choose_labels(ListPrompt(), lambda text: [ord(character) for character in text], 3)
        ['A', 'B', 'C']
    """
    single = [label for label in pool if label_id(prompt.answer, encode, label) is not None]
    lengths = [len(encode(prompt.header(label))) for label in single]
    usual = max(set(lengths), key=lengths.count, default=0)
    return [label for label, length in zip(single, lengths, strict=True) if length == usual][
        :wanted
    ]


def written_order(
    first: Sequence[Sequence[int]], later: Sequence[Sequence[int]], choose: Choose
) -> list[int]:
    """Writes an order token by token, and lets a model choose only where two names part: always a
    full permutation.

    Args:
        first, later: the tokens of each candidate's name, as first of the order and (with the
            separator before it) later; no name may begin with another.
        choose: gets the tokens written so far and those that are possible next, and returns one of
            the latter.

    Example:
        >>> written_order([[1], [2], [3]], [[0, 1], [0, 2], [0, 3]], lambda written, possible: max(possible))
        [2, 1, 0]
    """
    written: list[int] = []
    order: list[int] = []
    while len(order) < len(first):
        names, start = (later if order else first), len(written)
        options = [i for i in range(len(first)) if i not in order]
        while len(options) > 1:
            depth = len(written) - start
            possible = sorted({names[i][depth] for i in options})
            written.append(possible[0] if len(possible) == 1 else choose(written, possible))
            options = [i for i in options if names[i][depth] == written[-1]]
        written[start:] = names[options[0]]
        order += options
    return order


def label_id(answer: str, encode: Encode, label: str) -> int | None:
    """The token that stands for a label after `answer`; None if it is not one token of its own
    there.
    """
    before, whole = list(encode(answer)), list(encode(answer + label))
    return whole[-1] if whole[:-1] == before else None


_NAME = re.compile(r"\{(query|candidates|content|label|instruction)\}")


def _filled(template: str, values: dict[str, list[PromptPart]]) -> list[PromptPart]:
    pieces: list[PromptPart] = []
    for place, part in enumerate(
        _NAME.split(template)
    ):  # literal, name, literal, name, ..., literal
        pieces += values[part] if place % 2 else [part]
    return pieces


def _split(template: str) -> list[str]:
    return _NAME.split(template)[::2]


def _joined(pieces: Sequence[PromptPart]) -> list[PromptPart]:
    """Neighbouring literals as one, so that they are tokenised together; empty ones fall away."""
    joined: list[PromptPart] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return joined


def _check(template: str, once: tuple[str, ...], some: tuple[str, ...]) -> None:
    named = _NAME.findall(template)
    wrong = [name for name in once if named.count(name) != 1] + [
        name for name in some if name not in named
    ]
    strange = set(named) - {*once, *some, "instruction"}
    if wrong or strange:
        raise ValueError(
            f"a prompt template has a mistake at {_shown([*wrong, *sorted(strange)])}: {_shown(once)} is named exactly once, "
            f"{_shown(some)} at least once, and no other name is known there."
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
