"""The results of a curriculum as a table, and a plot of what each stage gave.

python -m training.progress DIR/results.jsonl --to progress.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_rnx.errors import RNXError
from training.evaluation import ablations, draw, rows_of, table


def main() -> None:
    """Print the table from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--to", type=Path, help="a .png or .svg")
    options = parser.parse_args()
    rows = rows_of(options.results)
    print("\n".join([*table(rows), *ablations(rows)]))
    try:
        if options.to:
            draw(rows, options.to)
    except RNXError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
