"""Stage 0, more heads: pairs of vectors on frozen maps and pooled captions, in minutes; several
heads err in several ways.

    RNX_DATA=... python -m training.train_heads --tower LITE.pth --text GTE_FOLDER --cache CACHE
    --out OUT

Writes OUT/head.safetensors, a `MoreHead` whose map is the tower's last one as ImageNet left it.
Resumes from OUT/state.pt.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.bi_encoder import Head, HeadSettings, sources, train_heads


def main() -> None:
    """The command line; every setting has a flag."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tower", "text", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    for name, value in asdict(HeadSettings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="%(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if "RNX_DATA" not in os.environ:
        parser.error("RNX_DATA is not set; it names the folder of the development data")
    settings = HeadSettings(**{name: getattr(args, name) for name in asdict(HeadSettings())})
    torch.manual_seed(settings.seed)
    for folder in (args.cache, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    data = sources(Path(os.environ["RNX_DATA"]), args.cache, args.tower, args.text, kind="grid")
    average = train_heads(Head(settings), data, settings, args.out)
    save_file(
        {name: tensor.contiguous() for name, tensor in average.pair.state_dict().items()},
        args.out / "head.safetensors",
    )
    (args.out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))


if __name__ == "__main__":
    main()
