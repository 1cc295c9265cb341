"""Print the oldest versions that pyproject.toml allows, as constraints for pip.

    python .ci/minimum.py > constraints.txt

`MINIMUM_TORCH=2.13.0` in the environment replaces one floor: an old PyTorch may not be at hand.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

FLOOR = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)")


def floors(requirements: list[str]) -> dict[str, str]:
    """Return name -> version of the requirements that have a floor."""
    matches = (FLOOR.match(requirement) for requirement in requirements)
    return {match[1]: match[2] for match in matches if match}


def main() -> None:
    """Print one constraint a line."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    vlm = project["optional-dependencies"]["vlm"]
    versions = floors([*project["dependencies"], *vlm])
    for name, version in sorted(versions.items()):
        chosen = os.environ.get(f"MINIMUM_{name.upper().replace('-', '_')}", version)
        print(f"{name}=={chosen if '.' in chosen else f'{chosen}.0'}.*")


if __name__ == "__main__":
    main()
