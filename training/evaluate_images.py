"""After stage 0: joins the heads, adds bank and hub correction, calibrates the image score, prints
the table, exports.

    RNX_DATA=... python -m training.evaluate_images --tower LITE2.pth --text GTE --cache CACHE
        --out OUT --final FINAL [--more HEAD LITE.pth]...

OUT holds `model.safetensors` of train_retriever, HEAD `head.safetensors` of train_heads, whose
tower is named with it. Four scalars (scale, late, hub, bias) are fitted on Flickr8k dev lists of
20; the figures given are cross-fitted, each half of the images by the scalars of the other half.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from training.bi_encoder import BANK_SHARE, calibrate_images, encoder_parser, inputs_from

BANK_HELP = "the share of Flickr8k captions in the bank"


def main() -> None:
    """Run the command line."""
    parser = encoder_parser(__doc__)
    parser.add_argument(
        "--more", type=Path, nargs=2, action="append", default=[], metavar=("HEAD", "TOWER")
    )
    parser.add_argument("--final", type=Path)
    parser.add_argument("--bank", type=float, default=BANK_SHARE, help=BANK_HELP)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    inputs = inputs_from(parser, args)
    rows = calibrate_images(inputs, args.out, args.more, args.final, args.bank)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
