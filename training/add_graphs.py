"""Writes the graphs that inference runs beside the weights of an rnx-mini that was trained before
there were any. It trains nothing.

    python -m training.add_graphs FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.mini import read_mini, write_graphs


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    try:
        write_graphs(read_mini(args.folder)[0], args.folder)
    except RNXError as error:
        raise SystemExit(str(error)) from error
    print(f"{args.folder}: has its graphs now")


if __name__ == "__main__":
    main()
