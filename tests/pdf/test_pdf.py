"""PDFs as people really have them, and as attackers make them: read in a process apart, with
limits.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEmbedding, FakeRanker, pdf_stream, write_endless_pdf, write_objects, write_pdf
from PIL import Image

from llama_index_rnx import NodeCollection
from llama_index_rnx.candidates import PageNode, image_of
from llama_index_rnx.errors import ImageError, RNXError
from llama_index_rnx.ingestion import SourceFile, index_paths, nodes_of
from llama_index_rnx.ingestion import readers as files
from llama_index_rnx.pdf import count_pages, draw_page, read_pages
from llama_index_rnx.pdf import overruns as outran
from llama_index_rnx.pdf import pages as pdf
from llama_index_rnx.pdf.overruns import Limits
from llama_index_rnx.pdf.pages import limits_from
from llama_index_rnx.pdf.text_layer import clean_pages
from llama_index_rnx.pdf.worker import MAX_SIDE, scale_for
from llama_index_rnx.pdf.worker_pool import Child, EndedError, Pool, shared_pool
from llama_index_rnx.text import bm25

SHORT = Limits(seconds=0.3)

# For a page that is at work until the test ends: it takes about 350 MiB a second, and may be left
# alone by a test that fails.
LONG = Limits(seconds=60, memory=3 * 2**30)
FONT = (
    "<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
    "/ZaDb<</Type/Font/Subtype/Type1/BaseFont/ZapfDingbats>>>>"
)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def one_page(
    path: Path,
    content: str,
    box: str = "[0 0 595 842]",
    page: str = "",
    catalog: str = "",
    more: Sequence[str] = (),
) -> Path:
    return write_objects(
        path,
        [
            f"<</Type/Catalog/Pages 2 0 R{catalog}>>",
            "<</Type/Pages/Kids[3 0 R]/Count 1>>",
            f"<</Type/Page/Parent 2 0 R/MediaBox{box}/Contents 4 0 R"
            f"/Resources<</Font {FONT}>>{page}>>",
            pdf_stream(content),
            *more,
        ],
    )


def lines_of(*lines: str) -> str:
    return "BT /F 12 Tf 72 700 Td 16 TL " + " T* ".join(f"({line}) Tj" for line in lines) + " ET"


def page_of(path: Path) -> PageNode:
    (node,) = nodes_of(SourceFile(path=path, docid=path.name))
    assert isinstance(node, PageNode)
    return node


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def eventually(true: Callable[[], bool]) -> bool:
    for _ in range(600):
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Processes of this test alone."""
    own = Pool()
    monkeypatch.setattr(pdf, "shared_pool", lambda: own)
    yield own
    own.close()


# --- words that lines had broken


def test_a_word_broken_at_the_end_of_a_line_is_whole(tmp_path: Path) -> None:
    lines = [
        "The regulator must be cali-",
        "brated before the hydrau-",
        "lic pump starts. See the long-",
        "term plan.",
    ]
    text = page_of(one_page(tmp_path / "a.pdf", lines_of(*lines))).text
    expected = "The regulator must be calibrated before the hydraulic pump starts."
    assert text == f"{expected} See the long-term plan."
    known = set(bm25.document_vector(text)[0])
    assert all(
        set(bm25.query_vector(word)[0]) <= known
        for word in ("calibrated", "hydraulic", "long-term")
    )


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("the sea\x02level rise", "the sea-level rise"),
        ("X\x02ray and e\x02mail", "X-ray and e-mail"),
        ("COVID\x0219", "COVID-19"),
        ("1990-\r\n1995", "1990-1995"),
        ("pages 441\u2013\r\n460", "pages 441\u2013460"),
        ("Jean\x02Pierre", "Jean-Pierre"),
        ("INTER\x02NATIONAL", "INTERNATIONAL"),
        ("Pr\u00fcf\x02verfahren", "Pr\u00fcfverfahren"),
        (
            "state\x02of-the-art and state\x02of\x02the\x02art",
            "state-of-the-art and state-of-the-art",
        ),
        ("the \ufb01\x02nal", "the \ufb01nal"),
        ("end-to\x02end and day-to\x02day", "end-to-end and day-to-day"),
        ("built\x02in self\x02test", "built-in self-test"),
        ("pre\x02and post-war", "pre- and post-war"),
        ("thous\x02and men, the vict\x02or and", "thousand men, the victor and"),
        ("un\x02like a read\x02able re\x02place", "unlike a readable replace"),
        ("in\x02forma\x02tion", "information"),
        ("infor\xadmation, a five\xadstar hotel", "information, a five-star hotel"),
        (
            "cali\x02\r\nbrated cali\ufffe\r\nbrated cali\xad\nbrated cali\u2010\r\nbrated",
            " ".join(["calibrated"] * 4),
        ),
        ("https://example.org/long\x02term/re\x02port", "https://example.org/long-term/re-port"),
        ("mixed\x02", "mixed-"),
        ("\x02lone (\x02) \x02 ", "lone ()"),
        ("3 - \r\n5", "3 - \n5"),
    ],
)
def test_the_hyphen_stays_where_it_belongs_to_the_word(broken: str, whole: str) -> None:
    assert clean_pages([broken]) == [whole]


def test_the_rest_of_the_document_decides_first() -> None:
    """Nothing else could know how a name or a term of art is written."""
    assert clean_pages(["Rudder\x02towne", "Ruddertowne"])[0] == "Ruddertowne"
    assert clean_pages(["Rudder\x02towne", "in Rudder-towne"])[0] == "Rudder-towne"
    assert clean_pages(["Instruct\x02GPT", "InstructGPT"])[0] == "InstructGPT"
    assert clean_pages(["the data\x02set", "dataset", "dataset", "data-set"])[0] == "the dataset"


def test_what_is_no_text_goes() -> None:
    dirty = "a\x00b\x03c\x1fd\x7fe\x9ff\u200bg\u202eh\ufeffi\uffffj\ud800k\u2066l a\u200db \ue000"
    assert clean_pages([dirty]) == ["abcdefghijkl ab \ue000"]
    assert clean_pages(["one\r\ntwo\rthree\x0cfour\u2028five\tsix"]) == [
        "one\ntwo\nthree\nfour\nfive\tsix"
    ]
    assert clean_pages(["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]) == [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 300_000,
        "-\n" * 100_000,
        "\x02" * 300_000,
        "a\x02" * 100_000,
        "\x02" + " " * 300_000,
        "a-" * 100_000,
    ],
)
def test_hostile_text_is_cleaned_in_no_time(hostile: str) -> None:
    begun = time.process_time()
    clean_pages([hostile])
    assert time.process_time() - begun < 20  # by the square it would be an hour


# --- forms


def widget(fields: str, row: int = 0, size: tuple[int, int] = (300, 24)) -> str:
    bottom = 650 - 40 * row
    place = f"[72 {bottom} {72 + size[0]} {bottom + size[1]}]"
    return f"<</Type/Annot/Subtype/Widget/Rect{place}/P 3 0 R/F 4/DA(/F 12 Tf 0 g)/{fields}>>"


def filled_form(path: Path, *widgets: str, more: Sequence[str] = (), acroform: str = "") -> Path:
    ids = " ".join(f"{5 + number} 0 R" for number in range(len(widgets)))
    return one_page(
        path,
        lines_of("Order form. Customer:"),
        page=f"/Annots[{ids}]",
        catalog=f"/AcroForm<</Fields[{ids}]/DR<</Font {FONT}>>/DA(/F 12 Tf 0 g){acroform}>>",
        more=[*widgets, *more],
    )


def dark_in_row(image: Image.Image, row: int) -> int:
    """Dark pixels where the widget of this row stands."""
    shades = np.asarray(image.convert("L"))
    top, bottom = (
        int(shades.shape[0] * (842 - height) / 842) for height in (674 - 40 * row, 650 - 40 * row)
    )
    return int((shades[top:bottom] < 128).sum())


@pytest.mark.parametrize("acroform", ["", "/NeedAppearances true"])
def test_values_typed_into_a_form_are_in_text_and_image(tmp_path: Path, acroform: str) -> None:
    path = filled_form(
        tmp_path / "a.pdf",
        widget("FT/Tx/T(name)/V(Zebulon Quagmire)"),
        widget("FT/Ch/Ff 131072/T(colour)/Opt[(Vermilion)(Teal)]/V(Vermilion)", 1),
        widget("FT/Tx/Ff 4096/T(lines)/V(first line\\rsecond line)", 2, (300, 30)),
        widget("FT/Tx/Ff 8192/T(password)/V(Swordfish)", 3),
        widget("FT/Tx/T(empty)", 4),
        acroform=acroform,
    )
    page = page_of(path)
    assert page.has_fields
    for shown in ("Customer:", "Zebulon Quagmire", "Vermilion", "first line\nsecond line"):
        assert shown in page.text
    assert "Teal" not in page.text
    assert "Swordfish" not in page.text  # a viewer shows stars
    image = image_of(page)
    assert image is not None
    assert [dark_in_row(image.load(), row) > 0 for row in range(5)] == [
        True,
        True,
        True,
        True,
        False,
    ]


def test_a_tick_is_in_the_image(tmp_path: Path) -> None:
    tick = "/Type/XObject/Subtype/Form/BBox[0 0 24 24]/Resources<</Font " + FONT + ">>"
    for state in ("Yes", "Off"):
        box = widget(
            f"FT/Btn/T(ok)/V/{state}/AS/{state}/AP<</N<</Yes 6 0 R/Off 7 0 R>>>>", size=(24, 24)
        )
        path = filled_form(
            tmp_path / f"{state}.pdf",
            box,
            more=[pdf_stream("q BT /ZaDb 20 Tf 2 4 Td (4) Tj ET Q", tick), pdf_stream(" ", tick)],
        )
        assert (dark_in_row(draw_page(path, 0), 0) > 0) == (state == "Yes")


def test_what_was_written_upon_a_page_is_in_its_text(tmp_path: Path) -> None:
    note = (
        "<</Type/Annot/Subtype/FreeText/Contents(Hand it in by Friday)"
        "/DA(/F 12 Tf 0 g)/Rect[72 650 372 674]/F 4>>"
    )
    path = one_page(tmp_path / "a.pdf", lines_of("Order form."), page="/Annots[5 0 R]", more=[note])
    page = page_of(path)
    assert "Hand it in by Friday" in page.text
    assert not page.has_fields


def test_reading_the_text_does_not_change_the_image(tmp_path: Path) -> None:
    path = filled_form(tmp_path / "a.pdf", widget("FT/Tx/T(name)/V(Zebulon Quagmire)"))
    before = draw_page(path, 0)
    read_pages(path)
    assert draw_page(path, 0).tobytes() == before.tobytes()


def test_a_page_with_fields_has_a_digest_of_its_own(tmp_path: Path) -> None:
    """Its image was remembered without them before they were drawn; that of any other page is as
    good as it was.
    """
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    plain = image_of(PageNode(text="one", pdf_path=str(path), page=1))
    filled = image_of(PageNode(text="one", pdf_path=str(path), page=1, has_fields=True))
    found = path.stat()
    assert plain is not None
    assert filled is not None
    assert plain.digest == f"{path}|{found.st_size}|{found.st_mtime_ns}#1"
    assert filled.digest != plain.digest


# --- sizes


@pytest.mark.parametrize(
    "box",
    [
        "[0 0 1000000 0.000001]",
        "[0 0 0.000001 1000000]",
        "[0 0 0 0]",
        "[0 0 -500 -700]",
        "[0 0 nan nan]",
        "[0 0 1 5000]",
        "[0 0 20000 30000]",
        "[0 0 0.00001 0.00001]",
        "[0 0 9e9 400]",
        "[0 0 99999999999999999999999999999999999999999999999999 1]",
        "[a b c d]",
        "[0 0 600 800]/UserUnit 75000",
        "[0 0 600 800]/CropBox[0 0 0.001 600]",
        "[0 0 600 800]/Rotate 90",
    ],
)
def test_a_page_of_any_size_is_drawn_within_the_limit(tmp_path: Path, box: str) -> None:
    path = one_page(tmp_path / "a.pdf", "0 0 m 600 700 l S", box=box)
    image = draw_page(path, 0)
    assert min(image.size) >= 1
    assert max(image.size) <= MAX_SIDE + 1
    assert image.width * image.height <= pdf.PAGE_PIXELS + sum(image.size)
    image = image_of(page_of(path))
    assert image is not None
    assert image.load().width * image.load().height <= pdf.PAGE_PIXELS


def test_the_scale_of_a_usual_page_fills_the_pixels() -> None:
    assert scale_for(500.0, 800.0, 1_000_000) == pytest.approx((1_000_000 / 400_000) ** 0.5)


def test_a_file_that_claims_a_million_pages_is_refused(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    path.write_bytes(path.read_bytes().replace(b"/Count 1 ", b"/Count 1000000 "))
    with pytest.raises(RNXError, match="1,000,000 pages; at most 20,000"):
        count_pages(path)


def test_many_pages_that_cannot_be_loaded_are_one_line_each_where_they_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rnx: Any
) -> None:
    (tmp_path / "docs").mkdir()
    path = write_pdf(tmp_path / "docs" / "a.pdf", ["one"])
    path.write_bytes(path.read_bytes().replace(b"/Count 1 ", b"/Count 12 "))
    with caplog.at_level(logging.WARNING):
        assert [page.text for page in read_pages(path)] == ["one", *[""] * 11]
    assert [message.endswith(", 10 other pages likewise.") for message in caplog.messages] == [True]

    caplog.clear()
    result = rnx("index", path.parent, "--to", tmp_path / "idx")
    assert len(caplog.messages) == 1
    left_out = [line for line in result.err.splitlines() if line.startswith("left out: ")]
    assert ["a.pdf#2" in left_out[0], len(left_out), left_out[-1]] == [
        True,
        4,
        "left out: a.pdf: 8 more of its pages or passages",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_is_no_pdf(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pdf")
    with pytest.raises(RNXError, match="it is no file"):
        count_pages(tmp_path / "a.pdf")
    with pytest.raises(ImageError, match="it is no file"):
        draw_page(tmp_path / "a.pdf", 0)


# --- what never ends


def test_a_page_that_never_ends_is_an_error_of_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_endless_pdf(tmp_path / "a.pdf")
    with pytest.raises(
        ImageError, match=r"a\.pdf#1: the page cannot be drawn \(it takes more than 0.3 s to draw\)"
    ):
        draw_page(path, 0, limits=SHORT)
    with caplog.at_level(logging.WARNING):
        assert [page.text for page in read_pages(path, SHORT)] == [""]
    assert (
        f"{path}#1: the page is taken to have no text (it takes more than 0.3 s to read)."
        in caplog.messages
    )
    # A fresh process reads it.
    assert draw_page(write_pdf(tmp_path / "good.pdf", ["good"]), 0).size[0] > 100


@linux
def test_a_page_that_takes_all_memory(tmp_path: Path) -> None:
    path = write_endless_pdf(tmp_path / "a.pdf")
    with pytest.raises(ImageError, match="takes more than 64 MiB to draw"):
        draw_page(path, 0, limits=Limits(seconds=60, memory=64 * 2**20))


def test_what_outran_its_limits_is_not_tried_again(tmp_path: Path, pool: Pool) -> None:
    path = write_endless_pdf(tmp_path / "a.pdf")
    for _ in range(2):
        with pytest.raises(ImageError, match=r"more than 0\.3 s"):
            draw_page(path, 0, limits=SHORT)
    (child,) = pool.children()  # the second found it on disk, and left its process as it was
    copy = tmp_path / "under another name.pdf"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(ImageError, match=r"more than 0\.3 s"):
        draw_page(copy, 0, limits=SHORT)
    assert pool.children() == [child]
    with pytest.raises(ImageError, match=r"more than 0\.6 s"):
        draw_page(path, 0, limits=Limits(seconds=0.6))  # higher limits: tried again
    assert pool.children() == []


def test_records_that_cannot_be_read_or_written_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_endless_pdf(tmp_path / "a.pdf")
    limits = Limits(seconds=0.1)
    outran.record(str(path), "draw", 0, "time", limits)
    (found,) = outran._folder().iterdir()
    assert outran.recorded(str(path), "draw", 0, limits) == "time"
    for broken in ("", "{", "[]", '{"how": 1}', "\0"):
        found.write_text(broken)
        assert outran.recorded(str(path), "draw", 0, limits) is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    outran.record(str(path), "draw", 0, "time", limits)
    assert outran.recorded(str(path), "draw", 0, limits) is None


def test_a_crash_is_remembered_for_this_pdfium_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_pdf(tmp_path / "a.pdf", ["one"]))
    outran.record(path, "draw", 0, "crash", Limits())
    assert outran.recorded(path, "draw", 0, Limits(seconds=1_000)) == "crash"
    monkeypatch.setattr(outran, "reader_version", lambda: "99")
    assert outran.recorded(path, "draw", 0, Limits()) is None


def test_a_document_of_such_pages_is_given_up(tmp_path: Path, pool: Pool) -> None:
    path = write_endless_pdf(tmp_path / "a.pdf", pages=8)
    limits = Limits(seconds=0.05)
    said = []
    for index in range(8):
        with pytest.raises(ImageError) as caught:
            draw_page(path, index, limits=limits)
        said.append("no other is tried" in str(caught.value))
    assert said == [False] * outran.GIVEN_UP_AFTER + [True] * 4


def test_one_bad_page_holds_nobody_else_up(tmp_path: Path, pool: Pool) -> None:
    bad, good = write_endless_pdf(tmp_path / "bad.pdf"), write_pdf(tmp_path / "good.pdf", ["good"])
    ended = threading.Event()

    def draw_bad() -> None:
        with pytest.raises(ImageError):
            draw_page(bad, 0, limits=LONG)
        ended.set()

    thread = threading.Thread(target=draw_bad)
    thread.start()
    assert eventually(lambda: any(child.document == str(bad) for child in pool.children()))
    assert draw_page(good, 0).width > 100
    assert read_pages(good)[0].text == "good"
    assert not ended.is_set()
    pool.close()
    thread.join(timeout=30)
    assert ended.is_set()


def test_a_folder_with_such_a_file_is_indexed(
    tmp_path: Path, rnx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNX_PDF_SECONDS", "0.2")
    docs = tmp_path / "docs"
    docs.mkdir()
    write_endless_pdf(docs / "a.pdf")
    write_pdf(docs / "b.pdf", ["Bees make honey."])
    (docs / "c.txt").write_text("Iron rusts.")
    result = rnx("index", docs, "--to", tmp_path / "idx")
    assert result.code == 0
    assert "2 nodes written" in result.err
    assert [
        line
        for line in result.err.splitlines()
        if line.startswith("left out:") and "a.pdf#1" in line and "0.2 s" in line
    ]


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "inf"])
def test_limits_from_the_environment(value: str) -> None:
    assert limits_from({}) == Limits()
    assert limits_from({"RNX_PDF_SECONDS": "90", "RNX_PDF_MIB": "2048"}) == Limits(
        seconds=90.0, memory=2**31
    )
    with pytest.raises(RNXError, match=r"RNX_PDF_MIB is .*a number above 0"):
        limits_from({"RNX_PDF_MIB": value})


# --- the processes


def test_many_pages_are_read_by_one_process(tmp_path: Path, pool: Pool) -> None:
    path = write_pdf(tmp_path / "a.pdf", [f"page {number}" for number in range(30)])
    assert [page.text for page in read_pages(path)] == [f"page {number}" for number in range(30)]
    assert draw_page(path, 29).width > 100
    assert len(pool.children()) == 1


@linux
def test_every_request_has_limits_while_a_document_is_open(tmp_path: Path, pool: Pool) -> None:
    good = write_pdf(tmp_path / "good.pdf", ["one", "two"])
    bad = write_endless_pdf(tmp_path / "bad.pdf", pages=2)
    small = Limits(seconds=60, memory=64 * 2**20)
    for path, texts in [(good, ["one", "two"]), (bad, ["", ""]), (good, ["one", "two"])]:
        assert [page.text for page in read_pages(path, small)] == texts
    hows = [outran.recorded(str(bad), "text", page, small) for page in (0, 1)]
    assert hows == ["memory", "memory"]


def test_a_document_that_was_read_is_closed_soon(tmp_path: Path, pool: Pool) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    read_pages(path)
    (child,) = pool.children()
    folder = Path(f"/proc/{child.pid}/fd")
    if not folder.is_dir():
        pytest.skip("reads /proc")

    def is_closed() -> bool:
        return str(path) not in {os.path.realpath(link) for link in folder.iterdir()}

    assert not is_closed()
    assert eventually(is_closed)
    read_pages(path)
    count_pages(path)
    assert is_closed()  # at once, as an upload is moved after it is counted


def test_a_file_that_changed_is_opened_anew(tmp_path: Path, pool: Pool) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    assert read_pages(path)[0].text == "one"
    write_pdf(path, ["another", "and more"])
    assert [page.text for page in read_pages(path)] == ["another", "and more"]


def test_threads_share_the_processes(tmp_path: Path, pool: Pool) -> None:
    paths = [write_pdf(tmp_path / f"{number}.pdf", [f"text {number}"] * 3) for number in range(8)]
    results: dict[int, list[str]] = {}

    def read(number: int) -> None:
        for _ in range(3):
            results[number] = [page.text for page in read_pages(paths[number])]

    threads = [threading.Thread(target=read, args=(number % 8,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [f"text {number}"] * 3 for number in range(8)}
    assert 1 <= len(pool.children()) <= pool.size


def test_a_process_that_was_killed_is_replaced(tmp_path: Path, pool: Pool) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    assert count_pages(path) == 1
    (child,) = pool.children()
    os.kill(child.pid, signal.SIGKILL)
    assert count_pages(path) == 1
    assert child not in pool.children()


def test_a_process_that_does_not_answer_is_killed() -> None:
    child = Child()
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(EndedError) as caught:
        child.ask(
            {"do": "count", "path": "/", "page": -1, "seconds": 1, "memory": 2**30}, timeout=0.2
        )
    assert caught.value.how == "late"
    child.kill()


def test_a_closed_pool_reads_no_more(tmp_path: Path, pool: Pool) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    count_pages(path)
    pool.close()
    with pytest.raises(RNXError, match="no longer read"):
        count_pages(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork_each_has_processes_of_its_own(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["one"])
    count_pages(path)
    mine = {child.pid for child in shared_pool().children()}
    pid = os.fork()
    if pid == 0:
        own = count_pages(path) == 1 and not mine & {
            child.pid for child in shared_pool().children()
        }
        shared_pool().close()
        os._exit(0 if own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert count_pages(path) == 1
    assert mine == {child.pid for child in shared_pool().children()}


PARENT = """
    import signal, sys, threading, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    from llama_index_rnx.pdf import count_pages, draw_page
    from llama_index_rnx.pdf.overruns import Limits
    from llama_index_rnx.pdf.worker_pool import shared_pool
    path = sys.argv[1]
    def tell():
        while not [child for child in shared_pool().children() if child.document == path]:
            time.sleep(0.01)
        time.sleep(0.3)
        print(shared_pool().children()[0].pid, flush=True)
    if sys.argv[2] == "idle":
        count_pages(path)
        tell()
        time.sleep(600)
    else:
        threading.Thread(target=tell, daemon=True).start()
        draw_page(path, 0, limits=Limits(seconds=60, memory=3 * 2**30))
"""


@linux
@pytest.mark.parametrize(
    ("state", "ending"),
    [("idle", signal.SIGKILL), ("at work", signal.SIGKILL), ("at work", signal.SIGINT)],
)
def test_no_process_outlives_its_parent(tmp_path: Path, state: str, ending: signal.Signals) -> None:
    path = (
        write_pdf(tmp_path / "a.pdf", ["one"])
        if state == "idle"
        else write_endless_pdf(tmp_path / "a.pdf")
    )
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(path), state]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.send_signal(ending)
        said = parent.stderr.read()
    assert said.count("Traceback") == (ending == signal.SIGINT)  # the parent's own
    assert eventually(lambda: gone(child))


def test_the_process_knows_nothing_of_the_package(tmp_path: Path) -> None:
    source = Path(pdf.__file__).with_name("worker.py")
    code = (
        f"import runpy, sys; runpy.run_path({str(source)!r}); "
        "import pypdfium2; print(sorted(sys.modules))"
    )
    names = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not [
        name
        for name in ("torch", "llama_index", "llama_index_rnx", "transformers", "numpy", "PIL")
        if f"'{name}'" in names
    ]


# --- indexes of before


@pytest.fixture
def old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Indexes a folder as the package did before the version of the reader was counted."""

    def make(collection: NodeCollection) -> Path:
        docs = tmp_path / "docs"
        docs.mkdir()
        one_page(docs / "broken.pdf", lines_of("must be cali-", "brated"))
        filled_form(
            docs / "form.pdf",
            widget("FT/Btn/T(ok)/V/Yes/AS/Yes/AP<</N<</Yes 6 0 R>>>>"),
            more=[pdf_stream(" ", "/Type/XObject/Subtype/Form/BBox[0 0 9 9]")],
        )
        write_pdf(docs / "plain.pdf", ["one", "two"])
        (docs / "note.txt").write_text("Iron rusts.")
        with monkeypatch.context() as patched:
            patched.setattr(files, "reader_of", lambda source: 0)
            patched.setattr(files, "read_pages", read_as_before)
            index_paths(collection, [docs])
        return docs

    return make


def read_as_before(path: Path) -> list[pdf.PageText]:
    marked = {"must be calibrated": "must be cali\x02brated"}
    return [
        pdf.PageText(text=marked.get(page.text, page.text), has_fields=False)
        for page in read_pages(path)
    ]


def test_an_index_of_before_is_brought_up_to_date_once(
    old_index: Callable[..., Path], tmp_path: Path
) -> None:
    ranker = FakeRanker()
    collection = NodeCollection(str(tmp_path / "idx"), embedding=FakeEmbedding(), ranker=ranker)
    docs = old_index(collection)
    assert collection.get(["broken.pdf#1"])[0].get_content() == "must be cali\x02brated"
    assert not any(
        "file_reader" in node
        for nodes in collection.files(collection.paths()).values()
        for node in nodes
    )
    ranker.remembered.clear()

    report = index_paths(collection, [docs])
    assert (report.written, report.unchanged, report.skipped) == (4, 1, [])
    assert len(collection) == 5
    assert collection.get(["broken.pdf#1"])[0].get_content() == "must be calibrated"
    # The others say and show what they did.
    assert sorted(ranker.remembered) == [
        "broken.pdf#1",
        "form.pdf#1",
    ]

    report = index_paths(collection, [docs])
    assert (report.written, report.unchanged) == (0, 4)
    collection.close()
