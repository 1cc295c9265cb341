"""The calibration of the image score after stage 0, and its table. It reads and writes no files.

Axes, named once: Q captions, B images, L images of a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_index_rnx.rankers.mini import CAPTION_SHARE
from training.bi_encoder.chain import Chain, ImageSplit
from training.bi_encoder.logistic import fit_logistic, minimize
from training.bi_encoder.model import late_score_matrix, owners, recalls
from training.mini import ImageScorer

LIST = 20  # images per caption that scores are calibrated and reranked on

# Scale, late and hub weights before the fit.
START = (20.0, 10.0, -10.0)


@dataclass(frozen=True, kw_only=True)
class ScoreParts:
    """The parts of the image score on one split. cosine, late: [Q, B]; hub: [B]; owner: [Q], the
    right image of every caption.
    """

    cosine: Tensor
    late: Tensor
    hub: Tensor
    owner: Tensor


def scores_of(chain: Chain, split: ImageSplit) -> ScoreParts:
    """Score every text of a split with every image, with hubness by the scorer's own bank and
    regions as an index keeps them.
    """
    texts, owner = owners(split.first)
    images = chain.images(split, split.first.rows)
    captions = chain.captions(split, texts)
    return ScoreParts(
        cosine=captions.vector @ images.vector.T,
        late=late_score_matrix(captions, quantize_regions(images.regions)),
        hub=chain.scorer.hubness(images.vector),
        owner=owner,
    )


def quantize_regions(regions: Tensor) -> Tensor:
    """Round regions to int8 with one scale per vector, and back: what an index keeps."""
    scale = regions.abs().amax(-1, keepdim=True) / 127
    return F.normalize((regions / scale).round() * scale, dim=-1)


def top_lists(scores: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best LIST images of every caption [Q, L], and the index of the right one among
    them (-1: it is not there) [Q].
    """
    top = scores.topk(LIST, dim=1).indices
    is_owner = top == owner[:, None]
    index = torch.where(is_owner.any(1), is_owner.int().argmax(1), torch.tensor(-1))
    return top, index


def fit_features(features: Tensor, index: Tensor) -> Tensor:
    """Fit scale, late and hub weights by a softmax over lists, then a bias by a sigmoid.

    features: [Q, L, 3]; index: [Q], the right image of a list, or -1. Returns [4].
    """
    has_owner = index >= 0
    with_owner = features[has_owner]
    target = index[has_owner]
    weights = torch.tensor(START, requires_grad=True)
    minimize(weights, lambda: F.cross_entropy(with_owner @ weights, target), steps=100)

    logits = (features @ weights).detach()  # [Q, L]
    labels = (F.one_hot(index.clamp_min(0), LIST) * has_owner[:, None]).float()
    bias = torch.zeros(1, requires_grad=True)
    minimize(bias, lambda: F.binary_cross_entropy_with_logits(logits + bias, labels), steps=100)
    return torch.cat([weights.detach(), bias.detach()])


def rerank_matrix(base: Tensor, scores: Tensor) -> Tensor:
    """Return scores [Q, B] whose first LIST images of each row are those of `base`, in the order of
    `scores`.
    """
    top = base.topk(LIST, dim=1).indices
    lifted = scores.gather(1, top).double() + 1e3
    return base.double().scatter(1, top, lifted)


def recall_gain(before: Tensor, after: Tensor, owner: Tensor, rounds: int = 2000) -> str:
    """Return what `after` adds to R@1 in points, with its 95 % bootstrap interval over images (not
    captions).
    """
    hits_before = (before.argmax(1) == owner).double()  # [Q]
    hits_after = (after.argmax(1) == owner).double()
    zeros = torch.zeros(before.shape[1], dtype=torch.double)
    count = zeros.index_add(0, owner, torch.ones_like(hits_before))  # [B]
    won = zeros.index_add(0, owner, hits_after - hits_before)  # [B]

    rng = torch.Generator().manual_seed(0)
    samples = torch.randint(len(count), (rounds, len(count)), generator=rng)
    share = 100 * won[samples].sum(1) / count[samples].sum(1)  # [rounds]
    low, high = share.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return f"{100 * float(won.sum() / count.sum()):+.1f} [{low:+.1f}, {high:+.1f}]"


def calibration_table(
    scorer: ImageScorer, scores: ScoreParts, scalars: Tensor | None = None
) -> dict[str, object]:
    """Return the rows of the report on one split.

    scalars: [4] of `calibrate`; without them they are cross-fitted: each half of the images is
    scored with the scalars of the other half.
    """
    cosine = scores.cosine
    owner = scores.owner
    with_hub, joint = _combined(scorer, scores, scalars)
    reranked = rerank_matrix(with_hub, joint)
    return {
        "pictures": len(scores.hub),
        "texts": len(owner),
        "cosine": recalls(cosine, owner),
        "cosine + hub": recalls(with_hub, owner),
        "+ late, top 20 of cosine": recalls(rerank_matrix(cosine, joint), owner),
        "+ late, top 20 of cosine + hub": recalls(reranked, owner),
        "+ late, all": recalls(joint, owner),
        "gain of the hub": recall_gain(cosine, with_hub, owner),
        "gain of late after hub": recall_gain(with_hub, reranked, owner),
        "gain of both": recall_gain(cosine, rerank_matrix(cosine, joint), owner),
    }


def calibrate(scorer: ImageScorer, scores: ScoreParts) -> Tensor:
    """Fit the scorer's scalars on a split, in place, and return them: scale, late, hub, bias.

    The fit runs twice, the second time on the lists that the first one retrieves.
    """
    scorer.hub_mean.fill_(scores.hub.mean())
    hub = scores.hub - scorer.hub_mean
    base = scores.cosine
    for _ in range(2):
        weights = _fit(scores.cosine, scores.late, hub, scores.owner, base)
        base = scores.cosine + weights[2] / weights[0] * hub

    with torch.no_grad():
        scorer.log_scale.copy_(weights[0].log())
        scorer.late.copy_(weights[1] / weights[0])
        scorer.hub.copy_(-weights[2] / weights[0])
        scorer.bias.copy_(weights[3])
    return weights


def retrieval_calibration(chain: Chain, photographs: ImageSplit) -> list[float]:
    """Return scale and bias that make the cosine of the index vectors the logit of being right, on
    lists of 20 (Flickr8k dev).
    """
    texts, owner = owners(photographs.first)
    scorer = chain.scorer
    vectors = chain.images(photographs, photographs.first.rows).vector
    with torch.no_grad():
        indexed = scorer.index_vector(vectors, scorer.hubness(vectors))
        queries = scorer.query_vector(chain.captions(photographs, texts).vector)
        # As the collection scores them.
        cosine = CAPTION_SHARE * (queries @ indexed.T)  # [Q, B]

    top, index = top_lists(cosine, owner)
    labels = F.one_hot(index.clamp_min(0), LIST) * (index >= 0)[:, None]  # [Q, L]
    return fit_logistic(cosine.gather(1, top).flatten(), labels.flatten().float())


def _combined(
    scorer: ImageScorer, scores: ScoreParts, scalars: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return cosine + hub correction, and that + late interaction; both [Q, B]."""
    with_hub = torch.empty_like(scores.cosine)
    joint = torch.empty_like(scores.cosine)
    half = scores.owner % 2
    for side in (0, 1):
        mine = half == side
        weights = _fit_rows(scores, half != side) if scalars is None else scalars
        scale, late, hub = weights[:3]
        with_hub[mine] = scores.cosine[mine] + hub / scale * (scores.hub - scorer.hub_mean)
        joint[mine] = with_hub[mine] + late / scale * scores.late[mine]
    return with_hub, joint


def _fit_rows(scores: ScoreParts, mine: Tensor) -> Tensor:
    """Fit on some captions; mine: bool [Q]."""
    cosine = scores.cosine[mine]
    return _fit(cosine, scores.late[mine], scores.hub, scores.owner[mine], cosine)


def _fit(cosine: Tensor, late: Tensor, hub: Tensor, owner: Tensor, base: Tensor) -> Tensor:
    """Fit on the lists that `base` [Q, B] retrieves."""
    top, index = top_lists(base, owner)
    features = torch.stack([cosine.gather(1, top), late.gather(1, top), hub[top]], -1)
    return fit_features(features, index)
