"""After stage 0: joins the heads, adds bank and hub correction, calibrates the image score, prints
the table, exports.

    RNX_DATA=... python -m training.evaluate_images --tower LITE2.pth --text GTE --cache CACHE --out
        OUT --final FINAL \\ [--more HEAD LITE.pth]...

OUT holds `model.safetensors` of train_retriever, HEAD `head.safetensors` of train_heads, whose
tower is named with it. Four scalars (scale, late, hub, bias) are fitted on Flickr8k dev lists of
20; the figures given are cross-fitted, each half of the pictures by the scalars of the other half.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from training.bi_encoder import BiEncoder as Model
from training.bi_encoder import BiEncoderSettings as Settings
from training.bi_encoder import (
    Chain,
    ImageSplit,
    calibrate,
    calibration_table,
    drawn_texts,
    export,
    scores_of,
    sources,
)
from training.weights import fold


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("tower", "text", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--more", type=Path, nargs=2, action="append", default=[], metavar=("HEAD", "TOWER")
    )
    parser.add_argument("--final", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bank", type=float, default=0.75, help="the share of Flickr8k captions in the bank"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = _splits(Path(os.environ["RNX_DATA"]), args)
    chain = _chain(args)
    photographs = round(args.bank * chain.part.config.bank)
    bank = [drawn_texts(data["flickr_train"], photographs)]
    bank.append(drawn_texts(data["openstax"], chain.part.config.bank - photographs))
    with torch.inference_mode():
        if args.more:
            chain.join(data["flickr_train"], bank[0], data["openstax"], bank[1])
        both = [
            chain.captions(data[name], texts).vector
            for name, texts in zip(("flickr_train", "openstax"), bank, strict=True)
        ]
        chain.part.bank.copy_(torch.cat(both).half().float())
    photos = scores_of(chain, data["flickr_dev"])
    weights = calibrate(chain.part, photos)
    rows: dict[str, object] = {"scalars": [round(float(w), 3) for w in weights]}
    rows["flickr_dev"] = calibration_table(chain.part, photos)
    rows["openstax_dev"] = calibration_table(
        chain.part, scores_of(chain, data["openstax_dev"]), weights
    )
    print(json.dumps(rows, indent=1))
    if args.final:
        export(chain, data, args.final, rows)


def _chain(args: argparse.Namespace) -> Chain:
    model = Model(
        fold(torch.load(args.tower, map_location="cpu", weights_only=True)), Settings(dropout=0.0)
    ).eval()
    trained = load_file(args.out / "model.safetensors")
    model.load_state_dict(
        {name: tensor for name, tensor in trained.items() if name != "part.bank"}, strict=False
    )
    towers = [
        fold(torch.load(tower, map_location="cpu", weights_only=True)) for _, tower in args.more
    ]
    return Chain(model, towers, [head for head, _ in args.more])


def _splits(folder: Path, args: argparse.Namespace) -> dict[str, ImageSplit]:
    """By name, the sources of every head; towers that several heads read are cached once."""
    first = sources(folder, args.cache, args.tower, args.text)
    others = [sources(folder, args.cache, tower, args.text, kind="grid") for _, tower in args.more]
    return {
        name: ImageSplit(first=first[name], others=tuple(other[name] for other in others))
        for name in first
    }


if __name__ == "__main__":
    main()
