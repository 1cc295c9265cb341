"""Texts are cut into passages that can be read: words as ever, and what has no blanks by the signs
of its script.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeEmbedding
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer
from llama_index.core.schema import TextNode

import llama_index_rnx
from llama_index_rnx import NodeCollection
from llama_index_rnx.ingestion import SourceFile, index_paths
from llama_index_rnx.ingestion.readers import stamp_of
from llama_index_rnx.rankers.mini import CHUNK_PIECES as CHUNK
from llama_index_rnx.rankers.mini import ChunkTokenizer, model_folder
from llama_index_rnx.text import is_cut_by_words, passages
from llama_index_rnx.text import passage_splitter as module
from llama_index_rnx.text.passage_splitter import CHUNK_PIECES

ROOT = Path(llama_index_rnx.__file__).parent
ENGLISH = [
    *sorted((ROOT / "demo" / "data").rglob("*.md")),
    *sorted((ROOT.parent / "docs").rglob("*.md")),
]
LONG = " ".join(
    f"Sentence number {i} of a long text, with a comma; and 3.{i} more." for i in range(900)
)

CHINESE = "我们今天去北京看长城。天气很好，所以人很多！你去过吗？"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
THAI = "วันนี้เราไปเที่ยวกรุงเทพมหานครซึ่งเป็นเมืองหลวงของประเทศไทย"
UNSPACED = {
    "chinese": CHINESE * 100,
    "chinese in lines": f"{CHINESE}\n" * 100,
    "chinese without signs": "我们今天去北京看长城天气很好所以人很多" * 100,
    "japanese": JAPANESE * 100,
    "japanese with wide blanks": f"{JAPANESE}\u3000" * 100,
    "thai": THAI * 100,
    "thai with blanks between phrases": f"{THAI} " * 100,
    "khmer": "ថ្ងៃនេះយើងទៅលេងទីក្រុងភ្នំពេញ។" * 100,
    "tibetan": "བཀྲ་ཤིས་བདེ་ལེགས།" * 200,
}
NO_WORDS = {
    "json": '{"id":12,"name":"Ada","tags":["x","y"],"value":3.14},' * 200,
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODkr" * 200,
    "hexadecimal": "deadbeef" * 1_000,
    "a log in one line": "2024-01-01T00:00:00.000Z|INFO|com.example.Shop|id=ab12|took=12ms;" * 200,
    "one letter": "a" * 10_000,
    "dots": "." * 10_000,
    "words in lines": "apple\nbanana\ncherry\n" * 500,
    "tabs": "12\t45\tabc\n" * 500,
    "korean without blanks": "오늘날씨가좋다" * 1_000,
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 1_000,
}


def as_ever(text: str) -> list[str]:
    """How texts were cut before there was anything but words."""
    splitter = SentenceSplitter(chunk_size=180, chunk_overlap=20, tokenizer=str.split)
    return splitter.split_text(text)


# --- words: nothing changes


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.name)
def test_english_is_cut_as_ever(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert passages(text) == as_ever(text)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        LONG.replace(" ", "\n"),
        LONG.replace(". ", ".\n\n\n"),
        "no full stop and no comma at all " * 300,
        f"{LONG} https://example.com/{'x' * 700}?a=b {LONG}",
        "The word 蜂蜜 means honey. " * 200,
        " ".join(f"{i}. Step {i} (e.g. of Mr. X) is done!" for i in range(400)),
        "",
        " \n ",
    ],
    ids=[
        "prose",
        "lines",
        "paragraphs",
        "no-signs",
        "long-link",
        "a-foreign-word",
        "abbreviations",
        "empty",
        "blank",
    ],
)
def test_words_are_cut_as_ever(text: str) -> None:
    assert [one for one in passages(text) if one] == [one for one in as_ever(text) if one]


@pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.name)
def test_sentences_are_the_same_in_windows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nltk allows five seconds for a text: 6 MB of prose were left out with its error."""
    monkeypatch.setattr(module, "WINDOW", 900)
    monkeypatch.setattr(module, "MARGIN", 200)
    text = path.read_text(encoding="utf-8")
    assert module._sentences(text) == split_by_sentence_tokenizer()(text)


def test_windows_lose_nothing_where_no_word_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 100)
    monkeypatch.setattr(module, "MARGIN", 20)
    for text in (" . " * 200, "?! " * 200, "- " * 300, "\u0301" * 300):
        assert "".join(module._sentences(text)) == text


# --- no words


@pytest.mark.parametrize("name", UNSPACED)
def test_scripts_without_blanks(name: str) -> None:
    tokenizer = ChunkTokenizer.from_folder(model_folder())
    found = passages(UNSPACED[name])
    assert len(found) > 5
    for one in found:
        assert len(module._pieces(one)) <= CHUNK_PIECES
        (ids,) = tokenizer.chunk_ids(one)  # one chunk of the text tower
        assert len(ids) <= CHUNK + 2


@pytest.mark.parametrize("name", NO_WORDS)
def test_what_is_no_language(name: str) -> None:
    found = passages(NO_WORDS[name])
    assert len(found) > 3
    assert max(map(len, found)) <= 8 * CHUNK_PIECES


@pytest.mark.parametrize("name", [*UNSPACED, *NO_WORDS])
def test_the_parts_of_a_text_are_the_text(name: str) -> None:
    text = (UNSPACED | NO_WORDS)[name]
    parts = list(module._units(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= module.MAX_UNIT


def test_nothing_is_lost_and_neighbours_overlap() -> None:
    text = "".join(f"第{n}章讲的是长城，天气很好。" for n in range(500))
    end = 0
    for one in passages(text):
        at = text.index(one)
        assert at <= end
        end = at + len(one)
    assert end == len(text)


@pytest.mark.parametrize(
    ("sign", "sentence"),
    [("。", "今天天气很好"), ("！", "今天天气很好"), ("।", "आज मौसम अच्छा है"), ("።", "ዛሬ ጥሩ ነው")],
)
def test_passages_end_where_sentences_do(sign: str, sentence: str) -> None:
    text = f"{sentence}{sign}".replace(" ", "") * 1_000
    assert all(one.endswith(sign) for one in passages(text))
    assert all(one[0] == sentence[0] for one in passages(text))


def test_numbers_are_not_parted() -> None:
    text = ",".join(f'{{"pi":3.14159265358979,"n":{n}}}' for n in range(1_000))
    seen = {number for one in passages(text) for number in re.findall(r"[\d.]{5,}", one)}
    assert seen == {"3.14159265358979"}


@pytest.mark.parametrize(
    "letter",
    [
        "e\u0301",
        "ก็",
        "\U0001f1e9\U0001f1ea",
        "\U0001f44d\U0001f3fd",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    ],
)
def test_no_letter_is_parted(letter: str) -> None:
    found = passages(letter * 3_000)
    assert len(found) > 3
    assert all(one == letter * (len(one) // len(letter)) for one in found)


def test_a_letter_without_end_is_parted_all_the_same() -> None:
    found = passages("a" + "\u0301" * 5_000)
    assert max(map(len, found)) <= 6 * CHUNK_PIECES
    assert sum(map(len, found)) >= 5_000


def test_an_english_manual_with_a_chinese_chapter() -> None:
    found = passages(f"{LONG}\n\n{CHINESE * 100}\n\n{LONG}")
    chinese = [
        one
        for one in found
        if any(unicodedata.name(letter, "").startswith("CJK") for letter in one)
    ]
    english = [one for one in found if one not in chinese]
    assert len(chinese) >= 11
    assert max(len(module._pieces(one)) for one in chinese) <= CHUNK_PIECES
    assert all(90 < len(one.split()) <= 180 for one in english[1:-1])


@pytest.mark.parametrize(
    "text", [CHINESE, '{"id":1}', "b" * 10_000, "." * 10_000, "\u0301", "a.b", "\n\n\n", "x\n\n\n"]
)
def test_the_work_grows_with_the_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: every character is looked at a few times, however long the line is."""
    looked_at = 0
    real = module._pieces

    def counted(part: str) -> range:
        nonlocal looked_at
        looked_at += len(part)
        return real(part)  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "_pieces", counted)
    whole = text * (400_000 // len(text))
    module._piece_splitter().split_text(whole)
    assert looked_at <= 4 * len(whole)


def test_a_file_without_blanks_becomes_many_nodes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CHINESE * 100, encoding="utf-8")
    (tmp_path / "b.txt").write_text(LONG, encoding="utf-8")
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    report = index_paths(collection, [tmp_path], show_progress=False)
    assert report.written == len(passages(CHINESE * 100)) + len(as_ever(LONG))
    assert collection.get(["a.txt@2"])[0].get_content() == passages(CHINESE * 100)[1]
    assert collection.get(["b.txt@2"])[0].get_content() == as_ever(LONG)[1]
    collection.close()


# --- indexes of before


def index_as_before(
    collection: NodeCollection, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the package did when it knew words alone, and counted no versions of how it cuts."""
    with monkeypatch.context() as patched:
        patched.setattr("llama_index_rnx.ingestion.readers.passages", as_ever)
        patched.setattr("llama_index_rnx.ingestion.readers.reader_of", lambda source: 0)
        index_paths(collection, [docs])


def test_an_index_of_before_is_cut_anew_where_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "a.txt": LONG,
        "b.txt": UNSPACED["chinese"],
        "c.md": NO_WORDS["base64"],
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    index_as_before(collection, tmp_path, monkeypatch)

    report = index_paths(collection, [tmp_path])
    assert (report.files, report.unchanged) == (3, 1)
    expected = sum(len(passages(path.read_text(encoding="utf-8"))) for path in tmp_path.glob("*.*"))
    assert len(collection) == expected
    assert index_paths(collection, [tmp_path]).unchanged == 3
    collection.close()


def test_what_is_cut_into_fewer_passages_than_before_leaves_none_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(UNSPACED["chinese"], encoding="utf-8")
    found = passages(UNSPACED["chinese"])
    collection = NodeCollection(":memory:", embedding=FakeEmbedding())
    source = SourceFile(path=path, docid="a.txt")
    old = replace(stamp_of(source, len(found) + 5), reader=0)
    ids = ["a.txt", *(f"a.txt@{number}" for number in range(2, len(found) + 6))]
    nodes = [TextNode(id_=name, text=f"old {name}", metadata={"source": "a.txt"}) for name in ids]
    collection.write([(node, old) for node in nodes], lambda _: None)
    assert len(collection) == len(found) + 5

    index_paths(collection, [tmp_path])
    assert len(collection) == len(found)
    assert [node.get_content() for node in collection.get(["a.txt", "a.txt@2"])] == found[:2]
    collection.close()


@pytest.mark.parametrize(
    "text", [*UNSPACED.values(), *NO_WORDS.values(), LONG, "", " ", "x" * 900 + " " + LONG]
)
def test_whether_words_decide_is_known_without_cutting(text: str) -> None:
    assert is_cut_by_words(text) == (module._word_passages(text) is not None)


@pytest.mark.parametrize(("words", "is_cut"), [(180, True), (181, False)])
def test_a_stretch_without_blanks_may_have_as_many_words_as_a_passage(
    words: int, is_cut: bool
) -> None:
    """`SentenceSplitter` cuts a longer one letter by letter, so it is measured in pieces."""
    stretch = "\n".join("a" * words)
    assert is_cut_by_words(stretch) is is_cut
    assert is_cut_by_words(f"Before. {stretch} After.") is is_cut
