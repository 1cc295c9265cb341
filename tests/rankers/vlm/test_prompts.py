"""Prompts and labels, by hand-computable tokenizers: no model is needed."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_index_rnx.rankers.vlm import LIST_TEMPLATE, ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.prompts import (
    INSTRUCTION,
    QUERY,
    Slot,
    choose_labels,
    content,
    label_id,
    written_order,
)


def characters(text: str) -> list[int]:
    return [ord(character) for character in text]


def merging(*merges: str):
    """A tokenizer of characters in which the given strings are one token each."""
    tokens = re.compile("|".join([*(re.escape(merge) for merge in merges), "(?s:.)"]))
    return lambda text: [hash(token) for token in tokens.findall(text)]


def test_a_mixed_list_becomes_text_and_slots_in_order() -> None:
    prompt = ListPrompt(template="{query}|{candidates}|{query}>", candidate="{label}:{content};")
    assert prompt.pieces(["text", "both"], ["A", "B"], "text") == [
        Slot(owner=QUERY, modality="text"),
        "|A:",
        Slot(owner=0, modality="text"),
        ";B:<|vision_start|>",
        Slot(owner=1, modality="image"),
        "<|vision_end|>",
        Slot(owner=1, modality="text"),
        ";|",
        Slot(owner=QUERY, modality="text"),
        ">",
    ]


def test_contents_of_the_three_kinds() -> None:
    text, image = Slot(owner=4, modality="text"), Slot(owner=4, modality="image")
    assert content(4, "text") == [text]
    assert content(4, "image") == ["<|vision_start|>", image, "<|vision_end|>"]
    assert content(4, "both") == ["<|vision_start|>", image, "<|vision_end|>", text]


def test_braces_that_name_nothing_are_plain_text() -> None:
    prompt = ListPrompt(template='{"json": {candidates}{query}{}', candidate="{label}{content}")
    assert prompt.pieces([], [], "text")[0] == '{"json": '


def test_the_pair_prompt_is_the_trained_format_cut_at_the_document() -> None:
    prompt = PairPrompt()
    prefix, suffix = prompt.prefix("text"), prompt.suffix(0, "text")
    whole = "".join(
        piece if isinstance(piece, str) else {QUERY: "what?", 0: "that."}[piece.owner]
        for piece in [*prefix, *suffix]
    )
    assert whole == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        f"<|im_start|>user\n<Instruct>: {INSTRUCTION}<Query>:what?\n<Document>:that.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert isinstance(prefix[-1], str)


@pytest.mark.parametrize(
    ("template", "candidate"),
    [
        ("{query}", "{label}{content}"),
        ("{candidates}", "{label}{content}"),
        ("{candidates}{candidates}{query}", "{label}{content}"),
        ("{candidates}{query}{label}", "{label}{content}"),
        ("{candidates}{query}", "{content}"),
        ("{candidates}{query}", "{label}"),
    ],
)
def test_a_list_template_with_a_mistake_is_refused(template: str, candidate: str) -> None:
    with pytest.raises(ValueError, match="mistake at"):
        ListPrompt(template=template, candidate=candidate)


def test_a_pair_template_reads_the_query_first() -> None:
    with pytest.raises(ValueError, match="after"):
        PairPrompt(template="{query}{content}{query}")
    with pytest.raises(ValueError, match="mistake at"):
        PairPrompt(template="{content}")


def test_labels_are_letters_when_all_are_alike() -> None:
    assert choose_labels(ListPrompt(), characters, 20) == list(string.ascii_uppercase[:20])
    assert len(choose_labels(ListPrompt(), characters, 62)) == 62


def test_labels_that_merge_with_the_bracket_before_them_are_left_out() -> None:
    prompt = ListPrompt(template="{candidates}{query}\n[", candidate="{label}: {content}\n")
    found = choose_labels(prompt, merging("[A", "[B", "[C"), 4)
    assert found == ["D", "E", "F", "G"]


def test_labels_shown_in_fewer_or_more_tokens_than_most_are_left_out() -> None:
    prompt = ListPrompt(template="{candidates}{query}\n", candidate="[{label}] {content}\n")
    assert choose_labels(prompt, merging("[O", "[Q"), 26, string.ascii_uppercase) == [
        letter for letter in string.ascii_uppercase if letter not in "OQ"
    ]


def test_a_label_of_two_tokens_is_none() -> None:
    assert label_id("\n", characters, "A") == ord("A")
    assert label_id("\n", characters, "10") is None
    assert label_id("", merging("yes"), "yes") == hash("yes")


def test_the_answer_is_what_stands_before_the_label() -> None:
    assert LIST_TEMPLATE.endswith(ListPrompt().answer)
    assert ListPrompt().answer.endswith("<|im_start|>assistant\n")
    assert PairPrompt().answer == "<|im_end|>\n<|im_start|>assistant\n"


def test_an_order_is_chosen_where_names_part_and_forced_elsewhere() -> None:
    prompt, asked = ListPrompt(), []
    first, later = prompt.names(["1", "2", "10"], characters)

    def choose(written: list[int], possible: list[int]) -> int:
        asked.append(("".join(map(chr, written)), "".join(map(chr, possible))))
        return max(possible)  # "]" comes after "0", "2" after "1"

    assert written_order(first, later, choose) == [1, 0, 2]
    assert asked == [("[", "12"), ("[2] > [1", "0]")]


@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_a_written_order_is_always_a_permutation(count: int, dice: random.Random) -> None:
    names = ListPrompt().names([str(number + 1) for number in range(count)], characters)
    order = written_order(*names, lambda _, possible: dice.choice(list(possible)))
    assert sorted(order) == list(range(count))


def test_prompts_know_no_model() -> None:
    source = (Path(__file__).parents[3] / "llama_index_rnx/rankers/vlm/prompts.py").read_text(
        encoding="utf-8"
    )
    named = {
        line.split()[1].split(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert named <= {"__future__", "re", "string", "collections", "dataclasses", "typing"}
