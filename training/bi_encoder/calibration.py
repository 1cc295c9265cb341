"""After stage 0: heads joined, hub correction, and the calibration of the image score."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import (
    CAPTION_SHARE,
    CaptionVectors,
    ImageConfig,
    ImageEncoder,
    ImageScorer,
    ImageTower,
    ImageVectors,
)
from training.bi_encoder.model import BiEncoder as Model
from training.bi_encoder.model import captions_of, chunks, late_matrix, owners, recalls
from training.bi_encoder.source import Source

LIST = 20


@dataclass(frozen=True, kw_only=True)
class ImageSplit:
    """One set of pictures, as every head has it cached."""

    first: Source
    others: tuple[Source, ...]

    @property
    def everything(self) -> list[int]:
        return list(range(len(self.first.items)))


class Chain:
    """All heads together: the tuned tower with its part, and what the other heads read."""

    def __init__(self, model: Model, towers: Sequence[ImageTower], heads: Sequence[Path]) -> None:
        names = tuple(
            "lite2" if tower.end.head.conv.in_channels == 352 else "lite1" for tower in towers
        )
        self.first, self.towers = model, towers
        self.part = ImageScorer(ImageConfig(others=names)).eval()
        trained = {
            name: tensor
            for name, tensor in model.part.state_dict().items()
            if name not in ("basis", "bank")
        }
        self.part.load_state_dict(trained, strict=False)
        for head, folder in zip(self.part.heads, heads, strict=True):
            head.load_state_dict(load_file(folder / "head.safetensors"))

    @torch.inference_mode()
    def images(self, split: ImageSplit, rows: list[int]) -> ImageVectors:
        """The whole pictures (first view) of `rows`."""
        parts = [
            self._images(split, chunk, np.zeros(len(chunk), int)) for chunk in chunks(rows, 128)
        ]
        return ImageVectors(
            vector=torch.cat([p.vector for p in parts]),
            regions=torch.cat([p.regions for p in parts]),
        )

    def _images(self, split: ImageSplit, rows: list[int], view: np.ndarray) -> ImageVectors:
        cells = [source.pictures(rows, view).float() for source in split.others]
        return self.part.joined_images(self.first.images(split.first.pictures(rows, view)), cells)

    def captions(self, split: ImageSplit, texts: list[int]) -> CaptionVectors:
        """Of any texts of a split."""
        return captions_of(self.part.captions, split.first, texts)

    @torch.no_grad()
    def join(
        self, split: ImageSplit, texts: list[int], figures: ImageSplit, figure_texts: list[int]
    ) -> None:
        """The basis: principal directions of the captions' vectors, all heads behind one another."""
        found = [self._apart(of, some) for of, some in ((split, texts), (figures, figure_texts))]
        directions = torch.linalg.svd(torch.cat(found), full_matrices=False).Vh  # one a row
        self.part.basis.copy_(directions[: self.part.config.dim].T)

    def _apart(self, split: ImageSplit, texts: list[int]) -> Tensor:
        pooled = torch.from_numpy(split.first.pooled[texts]).float()
        first = captions_of(self.part.caption, split.first, texts).vector
        return torch.cat(
            [first, *(head.captions(pooled) for head in self.part.heads)], -1
        )  # [Q, D + E * 384]

    def eyes(self) -> ImageEncoder:
        """The towers as they ship."""
        eyes = ImageEncoder(self.part.config.others)
        eyes.tower.load_state_dict(self.first.tower.state_dict())
        for other, tower in zip(eyes.others, self.towers, strict=True):
            source: nn.Module = tower if isinstance(other, ImageTower) else tower.end
            other.load_state_dict(source.state_dict())
        return eyes


def drawn_texts(split: ImageSplit, count: int, seed: int = 0) -> list[int]:
    """One text each of some training pictures."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(split.first.rows, size=count, replace=False)
    return [int(rng.choice(split.first.texts[row])) for row in rows]


def quantised(regions: Tensor) -> Tensor:
    """Regions as int8 with one scale a vector, and back: what an index keeps."""
    scale = regions.abs().amax(-1, keepdim=True) / 127
    return F.normalize((regions / scale).round() * scale, dim=-1)


def lists_of(scores: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The best LIST pictures of every query [Q, L], and which place holds the right one (-1: none)
    [Q].
    """
    top = scores.topk(LIST, dim=1).indices
    hit = top == owner[:, None]
    return top, torch.where(hit.any(1), hit.int().argmax(1), torch.tensor(-1))


def fit_features(features: Tensor, place: Tensor) -> Tensor:
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
    """What `after` adds to R@1 in points, with its 95 % bootstrap interval over pictures (not
    captions).
    """
    hits = [(scores.argmax(1) == owner).double() for scores in (before, after)]
    count = torch.zeros(before.shape[1], dtype=torch.double).index_add(
        0, owner, torch.ones_like(hits[0])
    )
    won = torch.zeros_like(count).index_add(0, owner, hits[1] - hits[0])  # [B]
    drawn = torch.randint(
        len(count), (rounds, len(count)), generator=torch.Generator().manual_seed(0)
    )
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


def scores_of(chain: Chain, split: ImageSplit) -> Scores:
    """Every text of a split with every picture, by the part's own bank, regions as int8."""
    texts, owner = owners(split.first)
    images, captions = chain.images(split, split.first.rows), chain.captions(split, texts)
    return Scores(
        cosine=captions.vector @ images.vector.T,
        late=late_matrix(captions, quantised(images.regions)),
        hub=chain.part.hubness(images.vector),
        owner=owner,
    )


def calibration_table(
    part: ImageScorer, scores: Scores, scalars: Tensor | None = None
) -> dict[str, object]:
    """The rows of the report on one split; scalars are cross-fitted on its pictures unless given."""
    cosine, late, hub, owner = scores.cosine, scores.late, scores.hub, scores.owner
    rows: dict[str, object] = {
        "pictures": len(hub),
        "texts": len(owner),
        "cosine": recalls(cosine, owner),
    }
    half = owner % 2
    with_hub, joint = torch.empty_like(cosine), torch.empty_like(cosine)
    for side in (0, 1):
        mine = half == side
        weights = (
            scalars if scalars is not None else _fit_half(cosine, late, hub, owner, half != side)
        )
        scale, a, hubs = weights[:3]
        with_hub[mine] = cosine[mine] + hubs / scale * (hub - part.hub_mean)
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
    return fit_features(
        torch.stack([cosine[mine].gather(1, top), late[mine].gather(1, top), hub[top]], -1), place
    )


def calibrate(part: ImageScorer, scores: Scores) -> Tensor:
    """Fits the part's scalars on a split, twice: the second time on the lists that the first
    retrieves.
    """
    cosine, late, hub, owner = scores.cosine, scores.late, scores.hub, scores.owner
    part.hub_mean.fill_(hub.mean())
    base = cosine
    for _ in range(2):
        top, place = lists_of(base, owner)
        features = torch.stack(
            [cosine.gather(1, top), late.gather(1, top), (hub - part.hub_mean)[top]], -1
        )
        weights = fit_features(features, place)
        base = cosine + weights[2] / weights[0] * (hub - part.hub_mean)
    with torch.no_grad():
        part.log_scale.copy_(weights[0].log())
        part.late.copy_(weights[1] / weights[0])
        part.hub.copy_(-weights[2] / weights[0])
        part.bias.copy_(weights[3])
    return weights


def retrieval_calibration(chain: Chain, photographs: ImageSplit) -> list[float]:
    """Scale and bias that make the cosine of the index vectors the logit of being right, on lists
    of 20 (Flickr8k dev).
    """
    texts, owner = owners(photographs.first)
    part, vectors = chain.part, chain.images(photographs, photographs.first.rows).vector
    with torch.no_grad():
        indexed, asked = (
            part.index_vector(vectors, part.hubness(vectors)),
            chain.captions(photographs, texts).vector,
        )
        cosine = CAPTION_SHARE * (
            part.query_vector(asked) @ indexed.T
        )  # [Q, B], as in the collection
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


def export(chain: Chain, data: dict[str, ImageSplit], final: Path, rows: dict[str, object]) -> None:
    """image.safetensors, image.json and the vectors of all pictures for the joint stage."""
    (final / "cache").mkdir(parents=True, exist_ok=True)
    weights = {f"eyes.{k}": v for k, v in chain.eyes().state_dict().items()}
    weights.update({f"part.{k}": v for k, v in chain.part.state_dict().items()})
    save_file({k: v.float().contiguous() for k, v in weights.items()}, final / "image.safetensors")
    config = asdict(chain.part.config)
    about = {
        "config": config,
        "retrieval": retrieval_calibration(chain, data["flickr_dev"]),
        "results": rows,
    }
    (final / "image.json").write_text(json.dumps(about, indent=1))
    for name in ("flickr_train", "flickr_dev", "openstax"):
        source = data[name].first
        images = chain.images(data[name], data[name].everything)
        held = np.isin(
            data[name].everything, source.rows, invert=True
        )  # OpenStax: the development modules
        np.savez(
            final / "cache" / f"{name}.npz",
            name=np.array([item.name for item in source.items]),
            vector=images.vector.half().numpy(),
            regions=images.regions.half().numpy(),
            hub=chain.part.hubness(images.vector).numpy(),
            dev=held,
        )
