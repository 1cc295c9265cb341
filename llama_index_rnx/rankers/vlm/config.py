"""`rnx.json`, beside the weights of a checkpoint or an adapter: how a trained model is to be
prompted and read. It knows no weights.

    {"readout": "labels", "window": 20, "max_text_tokens": 128,
     "calibration": {"temperature": 2.0, "slot_bias": [[0.1, -0.1]]},
     "list_prompt": {"template": "...", "candidate": "..."}}

Every field may be left out; what a user sets comes before it. Training writes the file, and so may
a user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from llama_index_rnx.errors import SettingsError
from llama_index_rnx.rankers.vlm.prompts import ListPrompt, PairPrompt
from llama_index_rnx.rankers.vlm.settings import Readout
from llama_index_rnx.ranking import Calibration
from llama_index_rnx.system import atomic_write

CONFIG_NAME = "rnx.json"

# The fields that are objects in the file, and the dataclasses that they become.
NESTED = {"list_prompt": ListPrompt, "pair_prompt": PairPrompt, "calibration": Calibration}
BUDGETS = ("window", "max_text_tokens", "max_pixels")


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """The read-out, the prompts and the budgets that a checkpoint was trained with; None where
    nothing says so.
    """

    readout: Readout | None = None
    list_prompt: ListPrompt | None = None
    pair_prompt: PairPrompt | None = None
    calibration: Calibration | None = None
    window: int | None = None
    max_text_tokens: int | None = None
    max_pixels: int | None = None

    def save(self, folder: Path) -> None:
        """Write `rnx.json` into a folder of weights."""
        self.write(folder / CONFIG_NAME)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
        with atomic_write(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def read_config(path: Path) -> RankerConfig:
    """Read the configuration in a file.

    Raises:
        SettingsError: the file is no JSON object, or names an unknown read-out or field.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: is no JSON ({error}); mend it or remove it.") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: got {type(values).__name__}; a JSON object is allowed.")
    _check(path, values)
    nested = {name: _nested(path, name, value) for name, value in values.items()}
    return RankerConfig(**nested)


def _check(path: Path, values: Mapping[str, Any]) -> None:
    allowed = [field.name for field in fields(RankerConfig)]
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise SettingsError(
            f"{path}: {', '.join(unknown)} is not known; allowed: {', '.join(allowed)}."
        )

    readout = values.get("readout")
    readouts = get_args(Readout)
    if readout not in (None, *readouts):
        raise SettingsError(
            f"{path}: names the read-out {readout!r}; allowed: {', '.join(readouts)}."
        )

    for name in BUDGETS:
        budget = values.get(name, 1)
        if not isinstance(budget, int) or budget < 1:
            raise SettingsError(f"{path}: {name} is {budget!r}; a whole number above 0 is allowed.")


def _nested(path: Path, name: str, value: Any) -> Any:
    """Return the value of a field; where it is an object, as the dataclass that it stands for."""
    if name not in NESTED or value is None:
        return value
    try:
        return NESTED[name](**value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{path}: has a mistake in {NESTED[name].__name__}: {error}") from error
