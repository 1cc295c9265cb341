"""Pure: how a query and candidates become a prompt of texts and slots, and which labels a tokenizer
can read. It knows no model.

A prompt is a sequence of segments: literal text, which may hold the chat's special tokens, and
slots, which the ranker fills from memories. Texts of users and documents come in slots only, so
they can never forge a special token.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

# Literal text -> token ids, special tokens recognised.
Encode = Callable[[str], Sequence[int]]

# Tokens written so far, tokens possible next -> one of the latter.
Choose = Callable[[Sequence[int], Sequence[int]], int]

Kind = Literal["text", "image", "both"]

# The owner of the query's slots; candidates own theirs by index.
QUERY = -1

VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
NAME = re.compile(r"\{(query|candidates|content|label|instruction)\}")
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

# For checkpoints that write a whole order, in the wording of RankGPT (Sun et al. 2023). The model
# continues it with "[2] > [1]".
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

# The format in which Qwen3-VL-Reranker was trained (its chat template). The model answers "yes" or
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
    """The position of the text or the image of a candidate (`owner` is its index) or of the query
    (`owner` is `QUERY`) in a prompt.
    """

    owner: int
    modality: Literal["text", "image"]


Segment = str | Slot


@dataclass(frozen=True, kw_only=True)
class ListPrompt:
    """The prompt of a whole list, which a model continues with a label or with an order of labels.

    `template` names `{candidates}` once and `{query}` at least once (an image in the query is read
    each time); `candidate` names `{label}` and, once, `{content}`. All other braces are plain text.
    In a written order each label has the form `written`, with `separator` between two of them.

    Raises:
        ValueError: a name is missing, doubled or unknown to its template.

    Example:
        >>> template, candidate = "{candidates}Q: {query}\\nA: ", "{label}. {content}\\n"
        >>> prompt = ListPrompt(template=template, candidate=candidate)
        >>> prompt.pieces(["text"], "A", "text")
        ['A. ', Slot(owner=0, modality='text'), '\\nQ: ', Slot(owner=-1, modality='text'), '\\nA: ']
    """

    template: str = LIST_TEMPLATE
    candidate: str = CANDIDATE_TEMPLATE
    written: str = "[{label}]"
    separator: str = " > "

    def __post_init__(self) -> None:
        _check(self.template, once=("candidates",), at_least_once=("query",))
        _check(self.candidate, once=("content",), at_least_once=("label",))

    @property
    def answer(self) -> str:
        """The literal text right before the label that is read."""
        return _literals(self.template)[-1]

    def header(self, label: str) -> str:
        """Return the literal text before the content of the candidate with this label."""
        return self.candidate.split("{content}")[0].replace("{label}", label)

    def names(
        self, labels: Sequence[str], encode: Encode
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return the tokens of each label in a written order: as its first, and as a later one with
        the separator before it.
        """
        texts = [self.written.replace("{label}", label) for label in labels]
        first = [list(encode(text)) for text in texts]
        later = [list(encode(self.separator + text)) for text in texts]
        return first, later

    def pieces(self, kinds: Sequence[Kind], labels: Sequence[str], query: Kind) -> list[Segment]:
        """Return the prompt of candidates of these kinds under these labels, and of a query of this
        kind.
        """
        candidates: list[Segment] = []
        for owner, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
            template = self.candidate.replace("{label}", label)
            candidates += _fill(template, {"content": content(owner, kind)})
        values = {"query": content(QUERY, query), "candidates": candidates}
        return _join(_fill(self.template, values))


@dataclass(frozen=True, kw_only=True)
class PairPrompt:
    """The prompt of one candidate, which a model continues with `yes` or `no`. `{query}` comes
    before `{content}`, so that a query is read once for all its candidates.

    Raises:
        ValueError: a name is missing or doubled, or `{content}` comes before the end of the query's
            part.
    """

    template: str = PAIR_TEMPLATE
    instruction: str = INSTRUCTION
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        _check(self.template, once=("content",), at_least_once=("query",))
        if "{query}" in self.template.split("{content}")[1]:
            raise ValueError(
                "the template names {query} after {content}; put it before: it is read once for "
                "all candidates."
            )

    @property
    def answer(self) -> str:
        """The literal text right before the answer that is read."""
        return _literals(self.template)[-1]

    def prefix(self, query: Kind) -> list[Segment]:
        """Return what all candidates of a query share; it ends in literal text."""
        start = self.template.split("{content}")[0]
        start = start.replace("{instruction}", self.instruction)
        return _join(_fill(start, {"query": content(QUERY, query)}))

    def suffix(self, owner: int, kind: Kind) -> list[Segment]:
        """Return what follows the prefix for one candidate."""
        return _join([*content(owner, kind), self.template.split("{content}")[1]])


def content(owner: int, kind: Kind) -> list[Segment]:
    """Return a candidate or a query as segments: its image between its marks, then its text (the
    order of Qwen's own templates).
    """
    image: list[Segment] = [VISION_START, Slot(owner=owner, modality="image"), VISION_END]
    text: list[Segment] = [Slot(owner=owner, modality="text")]
    return {"image": image, "text": text, "both": image + text}[kind]


def choose_labels(
    prompt: ListPrompt, encode: Encode, count: int, pool: Sequence[str] = LABEL_POOL
) -> list[str]:
    """Return the first `count` labels of the pool that this tokenizer treats all alike, or fewer if
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
    alike = [label for label, length in zip(single, lengths, strict=True) if length == usual]
    return alike[:count]


def written_order(
    first: Sequence[Sequence[int]], later: Sequence[Sequence[int]], choose: Choose
) -> list[int]:
    """Write an order token by token, and let a model choose only where two labels differ. The
    result is always a full permutation.

    Args:
        first, later: the tokens of each candidate's label, as first of the order and (with the
            separator before it) later; no label may begin with another.
        choose: gets the tokens written so far and those that are possible next, and returns one of
            the latter.

    Example:
        >>> first, later = [[1], [2], [3]], [[0, 1], [0, 2], [0, 3]]
        >>> written_order(first, later, lambda written, possible: max(possible))
        [2, 1, 0]
    """
    written: list[int] = []
    order: list[int] = []
    while len(order) < len(first):
        labels = later if order else first
        start = len(written)
        options = [i for i in range(len(first)) if i not in order]

        while len(options) > 1:
            depth = len(written) - start
            possible = sorted({labels[i][depth] for i in options})
            token = possible[0] if len(possible) == 1 else choose(written, possible)
            written.append(token)
            options = [i for i in options if labels[i][depth] == token]

        # One candidate is left: the rest of its label needs no model.
        written[start:] = labels[options[0]]
        order += options
    return order


def label_id(answer: str, encode: Encode, label: str) -> int | None:
    """Return the token that represents a label after `answer`; None if it is not one token of its
    own there.
    """
    before = list(encode(answer))
    whole = list(encode(answer + label))
    return whole[-1] if whole[:-1] == before else None


def _fill(template: str, values: dict[str, list[Segment]]) -> list[Segment]:
    """Return a template as segments, with its names replaced by their values."""
    segments: list[Segment] = []
    # The split gives literal, name, literal, name, ..., literal.
    for position, text in enumerate(NAME.split(template)):
        is_name = position % 2 == 1
        segments += values[text] if is_name else [text]
    return segments


def _literals(template: str) -> list[str]:
    """Return the literal texts of a template, without the names between them."""
    return NAME.split(template)[::2]


def _join(segments: Sequence[Segment]) -> list[Segment]:
    """Join neighbouring literals, so that they are tokenised together; drop empty ones."""
    joined: list[Segment] = []
    for segment in segments:
        if isinstance(segment, str) and joined and isinstance(joined[-1], str):
            joined[-1] += segment
        elif segment != "":
            joined.append(segment)
    return joined


def _check(template: str, once: tuple[str, ...], at_least_once: tuple[str, ...]) -> None:
    """Raise ValueError unless a template names exactly what it may name."""
    names = NAME.findall(template)
    miscounted = [name for name in once if names.count(name) != 1]
    missing = [name for name in at_least_once if name not in names]
    unknown = sorted(set(names) - {*once, *at_least_once, "instruction"})
    mistakes = [*miscounted, *missing, *unknown]
    if mistakes:
        raise ValueError(
            f"a prompt template has a mistake at {_format(mistakes)}: {_format(once)} is named "
            f"exactly once, {_format(at_least_once)} at least once, and no other name is known "
            "there."
        )


def _format(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
