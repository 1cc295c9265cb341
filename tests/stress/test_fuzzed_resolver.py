"""What is fuzzed into the resolver (nodes, picture files, PDFs) comes out as a candidate or as a
one-line RNXError.
"""

from __future__ import annotations

import base64
import json
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deadline import HungError, deadline
from fakes import pdf_bytes
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    ImageNode,
    MediaResource,
    Node,
    TextNode,
)
from mutate import documents, mutated, pictures
from sizes import sizes

from llama_index_rnx.candidates import bytes_source, candidate_of
from llama_index_rnx.errors import RNXError
from llama_index_rnx.ingestion import SourceFile, nodes_of
from llama_index_rnx.pdf import draw_page, read_pages

SECONDS = 10.0  # for one input, on a crowded machine
FUZZ = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None
)


def one_line(error: RNXError) -> None:
    assert str(error).strip()
    assert "\n" not in str(error), str(error)
    assert len(str(error)) < 2_000, str(error)


def tried(work: Any) -> bool:
    """Whether it came out; otherwise it was refused in one line. Anything else, or no end, fails
    the test.
    """
    try:
        with deadline(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about tags that it does not know
            work()
    except RNXError as error:
        one_line(error)
        return False
    return True


@pytest.mark.parametrize("count", sizes(150, 10_000))
def test_picture_files(count: int) -> None:
    rng, seen = random.Random(count), 0
    for _ in range(count):
        data = mutated(rng.choice(pictures()), rng, pictures())
        pixels = rng.choice([None, 784, 28 * 28 * 16])
        seen += tried(lambda: bytes_source(data, label="fuzzed").load(pixels))  # noqa: B023
    print(f"{count} mutated pictures: {seen} seen, {count - seen} refused in one line")


@pytest.mark.parametrize("count", sizes(60, 10_000))
def test_pdf_files(count: int, tmp_path: Path) -> None:
    rng, path, seen = random.Random(count), tmp_path / "fuzzed.pdf", 0
    for _ in range(count):
        path.write_bytes(mutated(rng.choice(documents()), rng, documents()))
        seen += tried(lambda: list(pages(path)))
    print(f"{count} mutated PDFs: {seen} read, {count - seen} refused in one line")


def pages(path: Path) -> Iterator[Any]:
    """Do what indexing and a ranker do with a PDF: make its nodes, draw its first three pages."""
    nodes = list(nodes_of(SourceFile(path=path, docid=path.name)))
    assert len(nodes) < 100_000
    for node in nodes[:3]:
        candidate = candidate_of(node)
        assert candidate.image is not None
        yield candidate.image.load(784)


TEXT = st.text(max_size=40)
WILD = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=30))
JSON = st.recursive(
    WILD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ODD_PATHS = (
    *(
        "/",
        ".",
        "",
        "~",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
        "/etc/passwd",
        "a\0b",
        "x" * 5_000,
        "\ud800",
    ),
    *(
        "http://127.0.0.1/a.png",
        "file:///etc",
        "file://%00",
        "file://[",
        "//host/a.png",
        "data:image/png;base64,",
    ),
)
PATHS = st.one_of(TEXT, st.sampled_from(ODD_PATHS))
DATA = st.one_of(TEXT, st.binary(max_size=60).map(base64.b64encode), st.binary(max_size=60), PATHS)
FIELDS = {
    TextNode: st.fixed_dictionaries(
        {}, optional={"text": TEXT, "metadata": st.dictionaries(TEXT, JSON, max_size=3)}
    ),
    ImageNode: st.fixed_dictionaries(
        {},
        optional={
            "text": TEXT,
            "image": DATA,
            "image_path": PATHS,
            "image_url": PATHS,
            "metadata": st.dictionaries(TEXT, JSON, max_size=3),
        },
    ),
}
RESOURCE = st.fixed_dictionaries(
    {}, optional={"data": DATA, "path": PATHS, "url": PATHS, "text": TEXT}
)


@st.composite
def nodes(draw: Any) -> BaseNode:
    """A node of any shape that LlamaIndex itself accepts."""
    kind = draw(st.sampled_from([TextNode, ImageNode, Document, ImageDocument, Node]))
    while True:
        try:
            if kind is Node:
                text = draw(st.none() | TEXT)
                return Node(
                    text_resource=MediaResource(text=text) if text is not None else None,
                    image_resource=MediaResource(**draw(RESOURCE)) if draw(st.booleans()) else None,
                )
            return kind(
                **draw(FIELDS[ImageNode if kind in (ImageNode, ImageDocument) else TextNode])
            )  # type: ignore[no-any-return]
        except (ValueError, TypeError, OSError):
            continue


# LlamaIndex's ImageNode leaves files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("count", sizes(100, 10_000))
def test_nodes(count: int) -> None:
    seen = 0

    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
    )
    @given(node=nodes())
    def fuzz(node: BaseNode) -> None:
        nonlocal seen
        seen += tried(lambda: _looked_at(node))

    fuzz()
    print(f"{count} nodes: {seen} became candidates, pictures opened")


def _looked_at(node: BaseNode) -> None:
    candidate = candidate_of(node)
    assert candidate.text or candidate.image
    assert candidate.digest
    json.dumps(candidate.text).encode()
    if candidate.image is not None:
        candidate.image.load(784)


def test_the_clock_rings() -> None:
    with pytest.raises(HungError, match="still at work"), deadline(0.05):
        time.sleep(5)


def test_a_page_of_endless_size(tmp_path: Path) -> None:
    """A page may say that it is a kilometre wide: it is drawn as large as any other."""
    wide = pdf_bytes(["x"]).replace(b"[0 0 300 400]", b"[0 0 9e9 400]")
    path = tmp_path / "wide.pdf"
    path.write_bytes(wide)
    assert tried(lambda: list(pages(path))) in (True, False)
    assert read_pages(path)[0].text in ("", "x")
    assert tried(lambda: draw_page(path, 0, 784)) in (True, False)
