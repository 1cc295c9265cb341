"""`rnx.json`, beside a checkpoint's or an adapter's weights: how what was trained wants to be
asked. It knows no weights.

    {"readout": "labels", "window": 20, "max_text_tokens": 128,
     "calibration": {"temperature": 2.0, "slot_bias": [[0.1, -0.1]]},
     "list_prompt": {"template": "...", "candidate": "..."}}

Every part may be left out; what a user asks for comes before it. Training writes it, and so may a
user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers.vlm.prompts import ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.ranker import Readout
from llama_index_rnx.ranking import Calibration
from llama_index_rnx.system import atomic_write

CONFIG_NAME = "rnx.json"
PARTS = {"list_prompt": ListPrompt, "pair_prompt": PairPrompt, "calibration": Calibration}


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """What a checkpoint was trained for; None where nothing says so. The budgets are those it was
    trained with.
    """

    readout: Readout | None = None
    list_prompt: ListPrompt | None = None
    pair_prompt: PairPrompt | None = None
    calibration: Calibration | None = None
    window: int | None = None
    max_text_tokens: int | None = None
    max_pixels: int | None = None

    def save(self, folder: Path) -> None:
        """Writes `rnx.json` into a folder of weights."""
        self.write(folder / CONFIG_NAME)

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"

        with atomic_write(path) as part:
            part.write_text(text, encoding="utf-8")


def read_config(path: Path | None) -> RankerConfig:
    """The recipe in a file; an empty one where there is no file.

    Raises:
        RNXError: it is no JSON object, or names a read-out, a part or a field that is not known.
    """
    if path is None:
        return RankerConfig()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RNXError(f"{path}: is no JSON ({error}); mend it or remove it.") from error
    if not isinstance(found, dict):
        raise RNXError(f"{path}: got {type(found).__name__}; a JSON object is allowed.")
    return _recipe(path, found)


def _recipe(path: Path, found: Mapping[str, Any]) -> RankerConfig:
    allowed = [field.name for field in fields(RankerConfig)]
    strange = sorted(set(found) - set(allowed))
    if strange:
        raise RNXError(f"{path}: {', '.join(strange)} is not known; allowed: {', '.join(allowed)}.")
    readout = found.get("readout")
    if readout not in (None, *get_args(Readout)):
        raise RNXError(
            f"{path}: names the read-out {readout!r}; allowed: {', '.join(get_args(Readout))}."
        )
    for name in ("window", "max_text_tokens", "max_pixels"):
        if not isinstance(found.get(name, 1), int) or found.get(name, 1) < 1:
            raise RNXError(f"{path}: {name} is {found[name]!r}; a whole number above 0 is allowed.")
    return RankerConfig(**{name: _part(path, name, value) for name, value in found.items()})


def _part(path: Path, name: str, value: Any) -> Any:
    """A part as the dataclass it stands for."""
    if name not in PARTS or value is None:
        return value
    try:
        return PARTS[name](**value)
    except (TypeError, ValueError) as error:
        raise RNXError(f"{path}: has a mistake in {PARTS[name].__name__}: {error}") from error
