"""What is made for an index belongs to its owner alone, whatever the umask; what is there already
stays as it is.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import RED, FakeEmbedding, image_bytes
from fakes.ui import put, settled
from llama_index.core.schema import TextNode

from llama_index_rnx import NodeCollection
from llama_index_rnx.memory.open_backend import open_backend
from llama_index_rnx.memory.sqlite_backend import FILE_NAME
from llama_index_rnx.system import make_folder
from llama_index_rnx.ui import open_library
from llama_index_rnx.ui.library import Library

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(root: Path) -> list[str]:
    """What others may look into, of a folder and all in it: what lies in a private folder is
    private, whatever its own permissions.
    """
    paths = [root, *root.rglob("*")]
    assert len(paths) > 1
    private = {path for path in paths if path.is_dir() and not mode(path) & 0o077}
    return [
        str(path.relative_to(root))
        for path in paths
        if mode(path) & 0o077 and not private & set(path.parents)
    ]


@pytest.mark.usefixtures("umask")
def test_an_index_with_its_memories_and_uploads(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "index"
    collection = NodeCollection(folder, embedding=FakeEmbedding())
    collection.add([TextNode(id_="a", text="Bees make honey.")])
    library = Library(collection, folder / "uploads" / "rnx")
    put(library, "red.png", image_bytes(RED))
    settled(library)
    with library.receive("half.png") as upload:
        upload.write(b"half")
        assert open_to_others(tmp_path / "new") == []
    library.close()
    collection.close()
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "edge",
        "memories",
        "uploads",
    }
    assert mode(folder) == 0o700
    assert mode(folder / "edge") == mode(folder / "edge" / "rnx") == 0o700


@pytest.mark.usefixtures("umask")
def test_what_sqlite_puts_beside_its_file(tmp_path: Path) -> None:
    store = open_backend(tmp_path / "memories")
    store.write({b"key": b"data"})
    assert {path.name for path in (tmp_path / "memories").iterdir()} == {
        FILE_NAME,
        f"{FILE_NAME}-wal",
        f"{FILE_NAME}-shm",
    }
    assert open_to_others(tmp_path / "memories") == []
    store.close()


@pytest.mark.usefixtures("umask")
def test_memories_at_an_address(tmp_path: Path) -> None:
    store = open_backend(f"file://{tmp_path}/memories")
    store.write({b"key": b"data"})
    assert store.read([b"key"]) == {b"key": b"data"}
    assert open_to_others(tmp_path / "memories") == []


@pytest.mark.usefixtures("umask")
def test_a_shared_place_of_memories_stays_shared(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o750)
    open_backend(f"file://{shared}").write({b"key": b"data"})
    own = os.umask(0)
    os.umask(own)
    (made,) = shared.rglob(b"key".hex())
    assert mode(made) == 0o640 & ~own
    assert mode(shared) == 0o750


@pytest.mark.usefixtures("umask")
def test_what_is_there_stays_as_its_owner_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    for name in ("one", "two"):
        collection = NodeCollection(folder, name=name, embedding=FakeEmbedding())
        collection.add([TextNode(id_="a", text="Bees make honey.")])
        collection.close()
        if name == "one":  # its owner shares it with a group
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o750 if path.is_dir() else 0o640)
    assert mode(folder) == mode(folder / "edge") == 0o750
    assert mode(folder / "edge" / "one" / "collection.json") == 0o640
    assert mode(folder / "memories" / FILE_NAME) == 0o640
    assert mode(folder / "edge" / "two") == 0o700


@pytest.mark.usefixtures("umask")
def test_a_folder_that_is_there_is_not_closed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o755)
    collection = NodeCollection(folder, embedding=FakeEmbedding())
    collection.add([TextNode(id_="a", text="Bees make honey.")])
    collection.close()
    assert mode(folder) == 0o755
    assert open_to_others(folder) == ["."]  # but what is new in it is private


@pytest.mark.usefixtures("umask")
def test_a_temporary_index_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_library("", "rnx"):
        (made,) = tmp_path.glob("rnx-*")
        assert open_to_others(made) == []


def test_another_process_opens_it(tmp_path: Path) -> None:
    collection = NodeCollection(tmp_path / "index", embedding=FakeEmbedding())
    collection.add([TextNode(id_="a", text="Bees make honey.")])
    collection.close()
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from fakes import FakeEmbedding
from llama_index_rnx import NodeCollection
print(len(NodeCollection(sys.argv[1], embedding=FakeEmbedding())))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("1\n", 0), run.stderr


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises((FileExistsError, NotADirectoryError)):
            make_folder(path)
