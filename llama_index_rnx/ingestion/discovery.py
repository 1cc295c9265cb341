"""Which files lie below the named paths. It opens none of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_index_rnx.errors import RNXError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown"})


PDF_SUFFIX = ".pdf"


KNOWN_SUFFIXES = IMAGE_SUFFIXES | TEXT_SUFFIXES | {PDF_SUFFIX}


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to index. `docid` is its path relative to the folder that was named."""

    path: Path
    docid: str


@dataclass(kw_only=True)
class Survey:
    """What lies below the named paths: files of known kinds, how many others, links that were not
    followed.
    """

    files: list[SourceFile] = field(default_factory=list)
    ignored: int = 0
    outside: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A path below one that was named, and its name relative to that."""

    path: Path
    docid: str


def discover(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[SourceFile], int]:
    """The files of known kinds below the paths, in a fixed order, and how many others there were;
    hidden ones are passed by.
    """
    found = survey(paths, follow_links)
    return found.files, found.ignored


def survey(paths: Sequence[Path], follow_links: bool = False) -> Survey:
    """Looks through the named paths: each real folder once, each real file once, by its plain name
    where it has one.

    A link is followed if it leads to something below the named paths, or always with
    `follow_links`.

    Raises:
        RNXError: a path does not exist, or there is no file of a known kind in any of them.
    """
    for path in paths:
        if not os.path.exists(path):
            raise RNXError(f"{path} does not exist; give files or folders with {_kinds()}.")

    found, roots = Survey(), [real_path(path) for path in paths]
    files, walked, links = dict[Path, SourceFile](), set[Path](), deque[_Entry]()
    for path in paths:
        named = _Entry(path=path, docid="" if os.path.isdir(path) else path.name)
        links.extend(_take_in(named, files, walked, found))
    while links:
        link = links.popleft()
        if not follow_links and _leads_out(link.path, roots):
            found.outside.append(str(link.path))
        else:
            links.extend(_take_in(link, files, walked, found))

    found.files = list(files.values())
    if not found.files:
        raise _nothing(paths, found)
    return found


def _take_in(
    entry: _Entry, files: dict[Path, SourceFile], walked: set[Path], found: Survey
) -> list[_Entry]:
    """Takes in a file, or all plain files below a folder; the links in it are for later, when all
    plain names are known.
    """
    plain, links = _walk(entry, walked) if os.path.isdir(entry.path) else ([entry], [])
    found.ignored += sum(not _add(files, one) for one in plain)
    return links


def _walk(start: _Entry, walked: set[Path]) -> tuple[list[_Entry], list[_Entry]]:
    """The files and folders below a folder that are no links, and the links; what was walked
    through before is left out.
    """
    plain, links = list[_Entry](), list[_Entry]()
    for folder, folders, names in os.walk(start.path):
        real = real_path(Path(folder))
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        below = Path(start.docid) / Path(folder).relative_to(start.path)
        shown = [name for name in sorted(names) + sorted(folders) if not name.startswith(".")]
        linked = {name for name in shown if _is_link(Path(folder) / name)}
        folders[:] = sorted(name for name in folders if name in shown and name not in linked)
        for name in shown:
            entry = _Entry(path=Path(folder) / name, docid=(below / name).as_posix())
            if name in linked:
                links.append(entry)
            elif name not in folders:
                plain.append(entry)
    return plain, links


def _add(files: dict[Path, SourceFile], entry: _Entry) -> bool:
    """Takes a file in, unless it is there by another name; whether it is one of a known kind.

    A device, a pipe or a socket is none: to read it might never end. A link to nothing is taken in,
    so that it is listed with the reason.
    """
    real = real_path(entry.path)
    if real.suffix.lower() in KNOWN_SUFFIXES:
        path = real
    elif (
        entry.path.suffix.lower() in KNOWN_SUFFIXES
    ):  # a store of contents knows no suffixes, its links have them
        path = real_path(entry.path.parent) / entry.path.name
    else:
        return False
    if not os.path.isfile(real) and os.path.exists(real):
        return False
    files.setdefault(real, SourceFile(path=path, docid=entry.docid))
    return True


def _leads_out(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a link leads to a folder, or a file of a known kind, that is not below the named
    paths.
    """
    real = real_path(path)
    if is_inside(real, roots):
        return False
    readable = {path.suffix.lower(), real.suffix.lower()} & KNOWN_SUFFIXES
    return os.path.isdir(real) or (bool(readable) and os.path.isfile(real))


def is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _is_link(path: Path) -> bool:
    """Also a junction of Windows, which Python knows from 3.12 on."""
    return os.path.islink(path) or (hasattr(path, "is_junction") and path.is_junction())


def real_path(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))  # Path.resolve() raises where a link names itself
    except OSError:  # a link that may not be read, as some of /proc
        return Path(os.path.abspath(path))


def _nothing(paths: Sequence[Path], found: Survey) -> RNXError:
    names = ", ".join(str(path) for path in paths)
    links = (
        f", {len(found.outside)} links that lead out: --follow-links follows them"
        if found.outside
        else ""
    )
    return RNXError(
        f"no file to index in {names} ({found.ignored} of other kinds{links}); known are {_kinds()}."
    )


def _kinds() -> str:
    return " ".join(sorted(KNOWN_SUFFIXES))
