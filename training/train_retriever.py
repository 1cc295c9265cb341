"""Stage 0: the image-caption bi-encoder of rnx-mini, with late interaction. Feature maps and token
states are cached.

    RNX_DATA=... python -m training.train_retriever --tower LITE2.pth --text GTE_FOLDER
        --cache CACHE --out OUT

Resumes from OUT/checkpoint.safetensors. The pointwise convolutions of the image tower's last blocks
are tuned; its depthwise filters and the text tower are not (a step costs a third so, and 6,000
images have nothing to teach filters).
"""

from __future__ import annotations

from pathlib import Path

import torch

from llama_index_rnx.errors import RNXError
from training.bi_encoder import (
    BiEncoderSettings,
    encoder_parser,
    inputs_from,
    settings_from,
    train_retriever,
)


def main() -> None:
    """Run the command line; every setting has an option."""
    parser = encoder_parser(__doc__, BiEncoderSettings)
    parser.add_argument(
        "--init", type=Path, help="model.safetensors of an earlier run to start from"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = settings_from(args, BiEncoderSettings)
    try:
        losses = train_retriever(inputs_from(parser, args), settings, args.out, args.init)
    except RNXError as error:
        parser.exit(2, f"{error}\n")
    print(f"{args.out}: {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
