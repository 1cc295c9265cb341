"""A file is written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llama_index_rnx.system import atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with atomic_write(path) as part:
        part.write_text("new")
        assert not path.exists()
        assert part.parent == tmp_path
    assert path.read_text() == "new"
    assert names(tmp_path) == ["scores.json"]


def test_after_an_error_the_old_file_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as part:
        part.write_text("half a pair: \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["scores.json"]


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path):
        pass
    assert path.read_text() == "old"


def test_the_part_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    (tmp_path / ".scores.json.part").write_text("left behind by a killed process")
    with atomic_write(path, mode=0o600) as part, part.open("a") as stream:
        stream.write("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["scores.json"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_new_file_has_the_permissions_asked_for(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.json"
    path.write_text("old")
    path.chmod(0o666)
    with atomic_write(path, mode=mode) as part:
        assert stat.S_IMODE(part.stat().st_mode) == mode
        part.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_concurrent_writers_write_part_files_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "object"
    with atomic_write(path, concurrent=True) as part:
        assert str(os.getpid()) in part.name
        part.write_text("mine")
        path.write_text("another writer's")
    assert path.read_text() == "mine"


def test_an_unusable_folder_is_told_by_the_error_of_the_write(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(NotADirectoryError), atomic_write(file / "scores.json") as part:
        part.write_text("new")
