"""Stage 0: the image-caption bi-encoder of rnx-mini, with late interaction. Feature maps and token
states are cached.

    RNX_DATA=... python -m training.train_retriever --tower LITE2.pth --text GTE_FOLDER --cache
    CACHE --out OUT

Resumes from OUT/state.pt; the pointwise convolutions of the image tower's last blocks are tuned,
its depthwise filters and the text tower are not (a step costs a third so, and 6,000 pictures have
nothing to teach filters).
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.bi_encoder import BiEncoder, BiEncoderSettings, sources, train_bi_encoder
from training.weights import fold


def main() -> None:
    """The command line; every setting has a flag."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tower", "text", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--init", type=Path, help="model.safetensors of an earlier run to start from"
    )
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(BiEncoderSettings()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help="%(default)s"
        )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RNX_DATA" not in os.environ:
        parser.error("RNX_DATA is not set; it names the folder of the development data")
    settings = BiEncoderSettings(
        **{name: getattr(args, name) for name in asdict(BiEncoderSettings())}
    )
    torch.manual_seed(settings.seed)
    args.cache.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    data = sources(Path(os.environ["RNX_DATA"]), args.cache, args.tower, args.text)
    model = BiEncoder(fold(torch.load(args.tower, map_location="cpu", weights_only=True)), settings)
    if args.init:
        model.load_state_dict(load_file(args.init))
    average = train_bi_encoder(model, data, settings, args.out)
    save_file(
        {k: v.contiguous() for k, v in average.state_dict().items()}, args.out / "model.safetensors"
    )
    (args.out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))


if __name__ == "__main__":
    main()
