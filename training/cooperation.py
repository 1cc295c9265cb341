"""Bi-encoder and cross-encoder together, apart (SEP) or with shared weights (JOINT): the second
paper's main table, small.

    RNX_DATA=... python -m training.cooperation --tower LITE2.pth --text GTE_FOLDER
        --cache CACHE [--loss hard_triplet]

One small encoder takes the cells of an image and the words of a caption from frozen, cached towers:
each alone it turns into a vector (bi-encoder), both together into a score (cross-encoder). Source:
Retrieve Fast, Rerank Smart, arXiv 2103.11920.
"""

from __future__ import annotations

import time

import torch

from training.bi_encoder import (
    CooperationSettings,
    compare_cooperation,
    encoder_parser,
    inputs_from,
    settings_from,
)

HEADER = "Flickr8k dev, text to image, {settings}\n| | R@1 / 5 / 10 |\n|---|---|"


def main() -> None:
    """Train the three models and print the table."""
    parser = encoder_parser(__doc__, CooperationSettings, out=False)
    parser.add_argument("--models", nargs="+", choices=("SEP", "JOINT"), default=["SEP", "JOINT"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    settings = settings_from(args, CooperationSettings)
    rows = compare_cooperation(inputs_from(parser, args), settings, args.models)
    seconds = f"{time.process_time() - started:.0f} s of one core"
    print("\n".join([HEADER.format(settings=settings), *rows, seconds]))


if __name__ == "__main__":
    main()
