"""The rules of imports: rooms, floors and faces, and the rules of single rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "llama_index_rnx"
FILES = sorted(PACKAGE.rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))

# The floors of the package, from the ground: a room imports from lower floors only.
# A room is a folder with a face (`__init__.py`), or a single file at the root.
FLOORS = (
    {"errors", "moved", "defaults"},
    {"text", "system", "network", "validation"},
    {"console", "memory", "pdf"},
    {"candidates", "collection.edge"},
    {"ranking"},
    {"rankers.mini", "rankers.vlm"},
    {"rankers"},
    {"embed", "rerank", "batch", "server"},
    {"collection"},
    {"retrieve", "ingestion"},
    {"results"},
    {"chat", "demo"},
    {"ui"},
    {"cli"},
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# The same inside `training`; its scripts stand above all of its rooms.
TRAINING_FLOORS = (
    {"losses", "data", "mini"},
    {"evaluation", "features"},
    {"engine", "teachers"},
    {"weights"},
    {"learners", "bi_encoder"},
    {"stages"},
)
TRAINING_ROOMS = {room: floor for floor, rooms in enumerate(TRAINING_FLOORS) for room in rooms}


def imports(path: Path) -> set[str]:
    """The modules that a file names, wherever in it, dotted."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            modules.add(node.module)
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def importers(*packages: str) -> set[str]:
    """The files of the package that import one of these, as paths inside it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name.split(".")[0] in packages for name in imports(path))
    }


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str, rooms: dict[str, int]) -> str | None:
    """The room that a module of the package, or of `training`, is in; None for the top itself and
    for scripts.
    """
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in rooms), None)


def imported_modules(path: Path, top: str) -> set[str]:
    """The modules and rooms of `top` that a file imports from: of `from a.b import c` it is a.b, or
    a.b.c if that is one.
    """
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names if alias.name.split(".")[0] == top)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == top:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                modules.add(
                    inner
                    if is_module(inner) and not is_handed_out(node.module, alias.name)
                    else node.module
                )
    return modules


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_handed_out(module: str, name: str) -> bool:
    """Whether a face names this one of its modules in `__all__`, as a namespace for others."""
    face = ROOT / module.replace(".", "/") / "__init__.py"
    return face.is_file() and name in face_names(face)


def face_names(face: Path) -> list[str]:
    """`__all__` of a face."""
    for node in ast.parse(face.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def arrows(files: list[Path], top: str, rooms: dict[str, int]) -> list[tuple[str, str, str]]:
    """(file, its room, a module of another room that it imports from)"""
    crossings: list[tuple[str, str, str]] = []
    for path in files:
        own = room_of(module_of(path), rooms)
        others = (
            module
            for module in sorted(imported_modules(path, top))
            if room_of(module, rooms) not in (own, None)
        )
        crossings += [
            (path.relative_to(ROOT).as_posix(), own, module) for module in others if own is not None
        ]
    return crossings


PACKAGE_ARROWS = arrows(FILES, "llama_index_rnx", ROOMS)
TRAINING_ARROWS = arrows(TRAINING, "training", TRAINING_ROOMS)


def test_every_file_of_the_package_is_in_a_room() -> None:
    homeless = [path for path in FILES if room_of(module_of(path), ROOMS) is None]
    assert homeless == [PACKAGE / "__init__.py"]
    assert (PACKAGE / "py.typed").is_file()


def test_arrows_run_down_only() -> None:
    up = [
        arrow for arrow in PACKAGE_ARROWS if ROOMS[arrow[1]] <= ROOMS[str(room_of(arrow[2], ROOMS))]
    ]
    assert up == []


def test_arrows_of_training_run_down_only() -> None:
    rooms = TRAINING_ROOMS
    up = [
        arrow
        for arrow in TRAINING_ARROWS
        if rooms[arrow[1]] <= rooms[str(room_of(arrow[2], rooms))]
    ]
    assert up == []


def test_a_room_is_entered_by_its_face() -> None:
    """Nobody reaches past `__init__.py`; a room inside another one has a face of its own."""
    package = [
        (path, module)
        for path, _, module in PACKAGE_ARROWS
        if module.removeprefix("llama_index_rnx.") not in ROOMS
    ]
    training = [
        (path, module)
        for path, _, module in TRAINING_ARROWS
        if module.removeprefix("training.") not in TRAINING_ROOMS
    ]
    assert package + training == []


@pytest.mark.parametrize("folder", ["training", "benchmarks", "notebooks", "docs"])
def test_those_outside_enter_rooms_by_their_faces(folder: str) -> None:
    past = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in imported_modules(path, "llama_index_rnx"):
            name = module.removeprefix("llama_index_rnx.")
            if name not in ROOMS and module != "llama_index_rnx":
                past.append((path.relative_to(ROOT).as_posix(), module))
    assert past == []


@pytest.mark.parametrize(
    "face",
    [*PACKAGE.rglob("*/__init__.py"), *(ROOT / "training").rglob("*/__init__.py")],
    ids=module_of,
)
def test_a_face_lists_its_names_and_has_them(face: Path) -> None:
    names = face_names(face)
    assert names, "a face names what it hands out in `__all__`"
    source = ast.parse(face.read_text(encoding="utf-8"))
    brought = {
        alias.asname or alias.name
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(names) <= brought


def test_no_circle_of_imports() -> None:
    files = {module_of(path): path for path in [*FILES, *TRAINING]}
    graph = {
        module: {
            target
            for target in imported_modules(path, "llama_index_rnx")
            | imported_modules(path, "training")
            if target in files and files[target].name != "__init__.py"
        }
        for module, path in files.items()
        if path.name != "__init__.py"
    }
    state: dict[str, str] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert state.get(module) != "open", f"a circle: {' -> '.join([*trail, module])}"
        if module in state:
            return
        state[module] = "open"
        for target in sorted(graph.get(module, ())):
            visit(target, (*trail, module))
        state[module] = "done"

    for module in graph:
        visit(module, ())


def test_only_two_rooms_open_images_and_pdfs() -> None:
    drawing = {
        "demo/run.py",
        "demo/corpus.py",
        "results/occlusion.py",
    }
    assert importers("pypdfium2", "pypdfium2_raw") <= {"pdf/worker.py"}
    openers = {
        path
        for path in importers("PIL")
        if "Image.open" in (PACKAGE / path).read_text(encoding="utf-8")
    }
    assert {path.split("/")[0] for path in openers} == {"candidates"}
    others = {path for path in importers("PIL") if path.split("/")[0] not in ("candidates", "pdf")}
    assert others <= drawing, "a type or a drawing at most; nothing else may touch images"


def test_who_reaches_into_the_network() -> None:
    assert importers("httpx") == {
        "network/download.py",
        "network/proxies.py",
        "rankers/remote.py",
        "collection/servers.py",
    }
    servers = {
        path
        for path in importers("fastapi", "uvicorn", "prometheus_client")
        if not path.startswith(("server/", "ui/"))
    }
    assert servers == {"system/shutdown.py"}


def test_only_the_collection_knows_qdrant() -> None:
    assert {path.split("/")[0] for path in importers("qdrant_client")} == {"collection"}
    assert importers("grpc") == {"collection/servers.py"}
    assert {path.rpartition("/")[0] for path in importers("qdrant_edge")} == {"collection/edge"}


@pytest.mark.parametrize("room", ["text", "system", "network", "console"])
def test_rooms_near_the_ground_know_no_model_and_no_framework(room: str) -> None:
    heavy = {"torch", "transformers", "PIL", "qdrant_client", "tokenizers", "safetensors"}
    for path in (PACKAGE / room).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & heavy, path


def test_torch_is_for_vision_language_models_and_gguf_files_only() -> None:
    """All else runs without it: `test_startup.py` tries it."""
    others = {
        path
        for path in importers("torch", "transformers", "accelerate", "peft")
        if not path.startswith("rankers/vlm/")
    }
    # Calibration has the type of a tensor in a signature.
    assert others == {"chat/gguf.py", "ranking/calibration.py"}


def test_windows_know_no_model() -> None:
    heavy = {"torch", "transformers", "llama_index", "PIL", "qdrant_client", "llama_index_rnx"}
    assert not {name.split(".")[0] for name in imports(PACKAGE / "ranking" / "windows.py")} & heavy


def calls(path: Path) -> set[str]:
    """The plain names that a file calls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in functions if isinstance(function, ast.Name)}


def test_all_that_goes_to_a_terminal_leaves_by_an_exit_that_cleans_it() -> None:
    printing = {path.name for path in FILES if calls(path) & {"print", "Console", "echo", "secho"}}
    assert printing == {"streams.py"}
    assert importers("click") == set()


def test_the_package_never_imports_training_tests_or_benchmarks() -> None:
    assert importers("training", "tests", "benchmarks", "notebooks", "fakes") == set()


def test_nobody_imports_requests() -> None:
    assert importers("requests", "urllib3", "aiohttp") == set()


def test_only_memory_knows_fsspec() -> None:
    assert {path.split("/")[0] for path in importers("fsspec")} == {"memory"}


def test_rankers_know_no_nodes() -> None:
    for room in ("ranking", "rankers", "memory"):
        for path in (PACKAGE / room).rglob("*.py"):
            assert not {name for name in imports(path) if name.split(".")[0] == "llama_index"}, path


def test_files_and_the_command_line_know_no_model() -> None:
    for room in ("ingestion", "cli", "results"):
        for path in (PACKAGE / room).rglob("*.py"):
            # One runs a ranker, the other shares out its threads.
            if path.name not in (
                "occlusion_scorer.py",
                "workers.py",
            ):
                assert not {name.split(".")[0] for name in imports(path)} & {
                    "torch",
                    "transformers",
                    "tokenizers",
                }, path


def test_every_file_says_in_its_first_line_what_it_does() -> None:
    for path in [*FILES, *TRAINING]:
        line = path.read_text(encoding="utf-8").splitlines()[0]
        assert line.startswith('"""'), path
        assert len(line) > 20, path


def test_no_exception_is_swallowed_bare() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"
                assert not (len(node.body) == 1 and isinstance(node.body[0], ast.Pass)), (
                    f"{path}:{node.lineno}: except: pass"
                )
