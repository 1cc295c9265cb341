"""Stage 0, more heads: pairs of vectors on frozen maps and pooled captions, in minutes; several
heads err in several ways.

    RNX_DATA=... python -m training.train_heads --tower LITE.pth --text GTE_FOLDER
        --cache CACHE --out OUT

Writes OUT/head.safetensors, an `AuxiliaryHead` whose map is the tower's last one as ImageNet left
it. Resumes from OUT/checkpoint.safetensors.
"""

from __future__ import annotations

import torch

from llama_index_rnx.errors import RNXError
from training.bi_encoder import (
    HeadSettings,
    encoder_parser,
    inputs_from,
    settings_from,
    train_head,
)


def main() -> None:
    """Run the command line; every setting has an option."""
    parser = encoder_parser(__doc__, HeadSettings)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    inputs = inputs_from(parser, args)
    try:
        losses = train_head(inputs, settings_from(args, HeadSettings), args.out)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    print(f"{args.out}: {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
