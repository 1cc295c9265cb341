"""After stage 0: the bank and the hub correction, calibration of the image score, the table, and the export.

    RNX_DATA=... python -m training.evaluate_images --tower LITE2.pth --text GTE --cache CACHE --out OUT --final FINAL

Four scalars (scale, late, hub, bias) are fitted on Flickr8k dev lists of 20; the figures given are cross-fitted, each
half of the pictures by the scalars of the other half.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import CAPTION_SHARE
from training.images import fold
from training.train_retriever import Model, Settings, Source, embed, embed_images, late_matrix, recalls, sources

LIST = 20


def bank_of(model: Model, data: dict[str, Source], flickr: int, openstax: int, seed: int = 0) -> Tensor:
    """Caption vectors of training pictures, one a picture: [flickr + openstax, D]."""
    rng = np.random.default_rng(seed)
    found = []
    for name, count in (("flickr_train", flickr), ("openstax", openstax)):
        source = data[name]
        rows = rng.choice(source.rows, size=count, replace=False)
        texts = [int(rng.choice(source.texts[r])) for r in rows]
        with torch.inference_mode():
            found.append(model.captions(*source.captions(texts)).vector)
    return torch.cat(found).half().float()


def quantised(regions: Tensor) -> Tensor:
    """Regions as int8 with one scale a vector, and back: what an index keeps."""
    scale = regions.abs().amax(-1, keepdim=True) / 127
    return F.normalize((regions / scale).round() * scale, dim=-1)


def lists_of(scores: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The best LIST pictures of every query [Q, L], and which place holds the right one (-1: none) [Q]."""
    top = scores.topk(LIST, dim=1).indices
    hit = top == owner[:, None]
    return top, torch.where(hit.any(1), hit.int().argmax(1), torch.tensor(-1))


def fit(features: Tensor, place: Tensor) -> Tensor:
    """Scale, late and hub weights by softmax, bias by sigmoid. features: [Q, L, 3] -> [4]."""
    found = place >= 0
    x, y = features[found], place[found]
    weights = torch.tensor([20.0, 10.0, -10.0], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], lr=0.5, max_iter=100, line_search_fn="strong_wolfe")

    def listwise() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weights, y)
        loss.backward()
        return loss

    optimizer.step(listwise)
    second = torch.optim.LBFGS([bias], lr=0.5, max_iter=100, line_search_fn="strong_wolfe")
    logits = (features @ weights).detach()
    right = F.one_hot(place.clamp_min(0), LIST) * found[:, None]

    def pointwise() -> Tensor:
        second.zero_grad()
        loss = F.binary_cross_entropy_with_logits(logits + bias, right.float())
        loss.backward()
        return loss

    second.step(pointwise)
    return torch.cat([weights.detach(), bias.detach()])


def reranked(base: Tensor, scores: Tensor) -> Tensor:
    """A score matrix whose first LIST of each row are those of `base`, in the order of `scores`."""
    top = base.topk(LIST, dim=1).indices
    lifted = scores.gather(1, top).double() + 1e3
    return base.double().scatter(1, top, lifted)


def gain(before: Tensor, after: Tensor, owner: Tensor, rounds: int = 2000) -> str:
    """What `after` adds to R@1 in points, with its 95 % bootstrap interval over pictures (not captions)."""
    hits = [(scores.argmax(1) == owner).double() for scores in (before, after)]
    count = torch.zeros(before.shape[1], dtype=torch.double).index_add(0, owner, torch.ones_like(hits[0]))
    won = torch.zeros_like(count).index_add(0, owner, hits[1] - hits[0])  # [B]
    drawn = torch.randint(len(count), (rounds, len(count)), generator=torch.Generator().manual_seed(0))
    share = 100 * won[drawn].sum(1) / count[drawn].sum(1)  # [rounds]
    low, high = share.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return f"{100 * float(won.sum() / count.sum()):+.1f} [{low:+.1f}, {high:+.1f}]"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The parts of the image score on one split. cosine, late: [Q, B]; hub: [B]; owner: [Q]."""

    cosine: Tensor
    late: Tensor
    hub: Tensor
    owner: Tensor


def scores_of(model: Model, source: Source) -> Scores:
    """Every text of a split with every picture, by the part's own bank, regions as int8."""
    images, captions, owner = embed(model, source)
    return Scores(
        cosine=captions.vector @ images.vector.T,
        late=late_matrix(captions, quantised(images.regions)),
        hub=model.part.hubness(images.vector),
        owner=owner,
    )


def table(model: Model, scores: Scores, scalars: Tensor | None = None) -> dict[str, object]:
    """The rows of the report on one split; scalars are cross-fitted on its pictures unless given."""
    cosine, late, hub, owner = scores.cosine, scores.late, scores.hub, scores.owner
    rows: dict[str, object] = {"pictures": len(hub), "texts": len(owner), "cosine": recalls(cosine, owner)}
    half = owner % 2
    with_hub, joint = torch.empty_like(cosine), torch.empty_like(cosine)
    for side in (0, 1):
        mine = half == side
        weights = scalars if scalars is not None else _fit_half(cosine, late, hub, owner, half != side)
        scale, a, hubs = weights[:3]
        with_hub[mine] = cosine[mine] + hubs / scale * (hub - model.part.hub_mean)
        joint[mine] = with_hub[mine] + a / scale * late[mine]
    rows["cosine + hub"] = recalls(with_hub, owner)
    rows["+ late, top 20 of cosine"] = recalls(reranked(cosine, joint), owner)
    rows["+ late, top 20 of cosine + hub"] = recalls(reranked(with_hub, joint), owner)
    rows["+ late, all"] = recalls(joint, owner)
    rows["gain of the hub"] = gain(cosine, with_hub, owner)
    rows["gain of late after hub"] = gain(with_hub, reranked(with_hub, joint), owner)
    rows["gain of both"] = gain(cosine, reranked(cosine, joint), owner)
    return rows


def _fit_half(cosine: Tensor, late: Tensor, hub: Tensor, owner: Tensor, mine: Tensor) -> Tensor:
    top, place = lists_of(cosine[mine], owner[mine])
    return fit(torch.stack([cosine[mine].gather(1, top), late[mine].gather(1, top), hub[top]], -1), place)


def calibrate(model: Model, scores: Scores) -> Tensor:
    """Fits the part's scalars on a split, twice: the second time on the lists that the first retrieves."""
    cosine, late, hub, owner = scores.cosine, scores.late, scores.hub, scores.owner
    part = model.part
    part.hub_mean.fill_(hub.mean())
    base = cosine
    for _ in range(2):
        top, place = lists_of(base, owner)
        features = torch.stack([cosine.gather(1, top), late.gather(1, top), (hub - part.hub_mean)[top]], -1)
        weights = fit(features, place)
        base = cosine + weights[2] / weights[0] * (hub - part.hub_mean)
    with torch.no_grad():
        part.log_scale.copy_(weights[0].log())
        part.late.copy_(weights[1] / weights[0])
        part.hub.copy_(-weights[2] / weights[0])
        part.bias.copy_(weights[3])
    return weights


def retrieval_calibration(model: Model, data: dict[str, Source]) -> list[float]:
    """Scale and bias that make the cosine of the index vectors the logit of being right, on lists of 20 (Flickr8k dev)."""
    images, captions, owner = embed(model, data["flickr_dev"])
    indexed = model.part.index_vector(images.vector, model.part.hubness(images.vector))
    with torch.no_grad():
        cosine = CAPTION_SHARE * (model.part.query_vector(captions.vector) @ indexed.T)  # [Q, B], as in the collection
    top, place = lists_of(cosine, owner)
    near = cosine.gather(1, top).flatten()
    right = (F.one_hot(place.clamp_min(0), LIST) * (place >= 0)[:, None]).flatten().float()
    line = torch.tensor([50.0, -10.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([line], lr=0.5, max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(near * line[0] + line[1], right)
        value.backward()
        return value

    optimizer.step(loss)
    return [round(float(x), 3) for x in line]


def export(model: Model, data: dict[str, Source], final: Path, rows: dict[str, object]) -> None:
    """image.safetensors, image.json and the vectors of all pictures for the joint stage."""
    (final / "cache").mkdir(parents=True, exist_ok=True)
    weights = {f"tower.{k}": v for k, v in model.tower.state_dict().items()}
    weights.update({f"part.{k}": v for k, v in model.part.state_dict().items()})
    save_file({k: v.float().contiguous() for k, v in weights.items()}, final / "image.safetensors")
    config = asdict(model.part.config) | {"dropout": 0.0}
    about = {"config": config, "retrieval": retrieval_calibration(model, data), "results": rows}
    (final / "image.json").write_text(json.dumps(about, indent=1))
    for name in ("flickr_train", "flickr_dev", "openstax"):
        source = data[name]
        everything = list(range(len(source.items)))
        images = embed_images(model, source, everything)
        held = np.isin(everything, source.rows, invert=True)  # OpenStax: the development modules
        np.savez(
            final / "cache" / f"{name}.npz",
            name=np.array([item.name for item in source.items]),
            vector=images.vector.half().numpy(),
            regions=images.regions.half().numpy(),
            hub=model.part.hubness(images.vector).numpy(),
            dev=held,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tower", "text", "cache", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--final", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bank", type=float, default=0.75, help="the share of Flickr8k captions in the bank")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = sources(Path(os.environ["RNX_DATA"]), args.cache, args.tower, args.text)
    model = Model(fold(torch.load(args.tower, map_location="cpu")), Settings(dropout=0.0)).eval()
    trained = load_file(args.out / "model.safetensors")
    model.load_state_dict({name: tensor for name, tensor in trained.items() if name != "part.bank"}, strict=False)
    photographs = round(args.bank * model.part.config.bank)
    model.part.bank.copy_(bank_of(model, data, photographs, model.part.config.bank - photographs))
    photos = scores_of(model, data["flickr_dev"])
    weights = calibrate(model, photos)
    rows: dict[str, object] = {"scalars": [round(float(w), 3) for w in weights]}
    rows["flickr_dev"] = table(model, photos)
    rows["openstax_dev"] = table(model, scores_of(model, data["openstax_dev"]), weights)
    print(json.dumps(rows, indent=1))
    if args.final:
        export(model, data, args.final, rows)


if __name__ == "__main__":
    main()
