"""Find the files below the named paths. It opens none of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama_index_rnx.errors import SettingsError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
TEXT_SUFFIXES = frozenset({".txt", ".md", ".markdown"})
PDF_SUFFIX = ".pdf"
KNOWN_SUFFIXES = IMAGE_SUFFIXES | TEXT_SUFFIXES | {PDF_SUFFIX}


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file to index. `docid` is its path relative to the folder that the user named."""

    path: Path
    docid: str


@dataclass(kw_only=True)
class Survey:
    """The files below the named paths.

    Attributes:
        files: of known kinds, in a fixed order.
        ignored: how many files of other kinds there are; hidden ones are not counted.
        outside: links that lead out of the named paths and were not followed.
    """

    files: list[SourceFile] = field(default_factory=list)
    ignored: int = 0
    outside: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A path below one of the named paths, and its name relative to that. `real` is the path with
    all links resolved.
    """

    path: Path
    real: Path
    docid: str


def discover(paths: Sequence[Path], follow_links: bool = False) -> tuple[list[SourceFile], int]:
    """Return the files of known kinds below the paths, in a fixed order, and the number of files of
    other kinds. Hidden files are passed over.

    Raises:
        SettingsError: as `survey`.
    """
    surveyed = survey(paths, follow_links)
    return surveyed.files, surveyed.ignored


def survey(paths: Sequence[Path], follow_links: bool = False) -> Survey:
    """Walk through the named paths: each real folder once, each real file once, by its plain name
    where it has one.

    A link is followed if it leads to something below the named paths, or always with
    `follow_links`.

    Raises:
        SettingsError: a path does not exist, or there is no file of a known kind in any of them.
    """
    for path in paths:
        if not os.path.exists(path):
            raise SettingsError(f"{path} does not exist; give files or folders with {_kinds()}.")

    result = Survey()
    roots = [real_path(path) for path in paths]
    files: dict[Path, SourceFile] = {}
    walked: set[Path] = set()
    links: deque[_Entry] = deque()

    for path in paths:
        docid = "" if os.path.isdir(path) else path.name
        root = _Entry(path=path, real=real_path(path), docid=docid)
        links.extend(_take_in(root, files, walked, result))
    while links:
        link = links.popleft()
        if not follow_links and _leads_out(link, roots):
            result.outside.append(str(link.path))
        else:
            links.extend(_take_in(link, files, walked, result))

    result.files = list(files.values())
    if not result.files:
        raise _nothing_to_index(paths, result)
    return result


def _take_in(
    entry: _Entry, files: dict[Path, SourceFile], walked: set[Path], result: Survey
) -> list[_Entry]:
    """Take in a file, or all plain files below a folder. Return the links in the folder: they are
    followed later, when all plain names are known.
    """
    plain = [entry]
    links: list[_Entry] = []
    if os.path.isdir(entry.path):
        plain, links = _walk(entry, walked)
    for file in plain:
        if not _add(files, file):
            result.ignored += 1
    return links


def _walk(start: _Entry, walked: set[Path]) -> tuple[list[_Entry], list[_Entry]]:
    """Return the plain files below a folder, and the links. Folders that were walked through before
    are left out.
    """
    plain: list[_Entry] = []
    links: list[_Entry] = []
    for folder, folders, names in os.walk(start.path):
        real = real_path(Path(folder))
        if real in walked:
            folders.clear()
            continue
        walked.add(real)

        below = Path(start.docid) / Path(folder).relative_to(start.path)
        visible = [name for name in sorted(names) + sorted(folders) if not name.startswith(".")]
        linked = {name for name in visible if _is_link(os.path.join(folder, name))}
        # `os.walk` goes on with what is left in this list.
        folders[:] = sorted(name for name in folders if name in visible and name not in linked)

        prefix = "" if below == Path() else f"{below.as_posix()}/"
        for name in visible:
            docid = prefix + name
            if name in linked:
                path = Path(folder, name)
                links.append(_Entry(path=path, real=real_path(path), docid=docid))
            elif name not in folders:
                # What is no link is where its folder is: resolving each took half of the walk.
                file = real / name
                plain.append(_Entry(path=file, real=file, docid=docid))
    return plain, links


def _add(files: dict[Path, SourceFile], entry: _Entry) -> bool:
    """Take a file in, unless it is there by another name. Return whether it is of a known kind.

    A device, a pipe or a socket is not: reading it might never end. A link to nothing is taken in,
    so that it is listed with the reason.
    """
    real = entry.real
    if real.suffix.lower() in KNOWN_SUFFIXES:
        path = real
    # A content-addressed store knows no suffixes; the links to it have them.
    elif entry.path.suffix.lower() in KNOWN_SUFFIXES:
        path = real_path(entry.path.parent) / entry.path.name
    else:
        return False

    if not os.path.isfile(real) and os.path.exists(real):
        return False
    files.setdefault(real, SourceFile(path=path, docid=entry.docid))
    return True


def _leads_out(link: _Entry, roots: Sequence[Path]) -> bool:
    """Return whether a link leads to a folder, or a file of a known kind, that is not below the
    named paths.
    """
    real = link.real
    if is_inside(real, roots):
        return False
    readable = {link.path.suffix.lower(), real.suffix.lower()} & KNOWN_SUFFIXES
    return os.path.isdir(real) or (bool(readable) and os.path.isfile(real))


def is_inside(path: str | Path, roots: Sequence[Path]) -> bool:
    """Return whether a path is one of the roots, or below one; of paths without links and dots."""
    # As strings: a whole index is looked through, and a `Path` takes three times as long.
    name = os.path.normcase(path)
    names = [os.path.normcase(root) for root in roots]
    return any(name == root or name.startswith(os.path.join(root, "")) for root in names)


def real_path(path: Path) -> Path:
    """Return the path with all links resolved, or the absolute path where that is not possible."""
    try:
        # Path.resolve() raises where a link names itself.
        return Path(os.path.realpath(path))
    except OSError:
        # A link that may not be read, as some of /proc.
        return Path(os.path.abspath(path))


def _is_link(path: str) -> bool:
    """Return whether a path is a link, or a junction of Windows (known from Python 3.12 on)."""
    return os.path.islink(path) or (hasattr(os.path, "isjunction") and os.path.isjunction(path))


def _nothing_to_index(paths: Sequence[Path], result: Survey) -> SettingsError:
    names = ", ".join(str(path) for path in paths)
    links = ""
    if result.outside:
        links = f", {len(result.outside)} links that lead out: --follow-links follows them"
    return SettingsError(
        f"no file to index in {names} ({result.ignored} of other kinds{links}); "
        f"known are {_kinds()}."
    )


def _kinds() -> str:
    return " ".join(sorted(KNOWN_SUFFIXES))
