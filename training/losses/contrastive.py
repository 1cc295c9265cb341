"""Contrastive losses of a bi-encoder: a matrix of similarities in, one number out. They know no
model.

Axes, named once: Q captions, B images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def infonce(scores: Tensor, target: Tensor) -> Tensor:
    """Return InfoNCE in both directions, the mean of the two.

    scores, target: [Q, B]. A row of the target is a distribution over the images; the captions of
    an image share its column, since several are right. Source: van den Oord et al.,
    arXiv 1807.03748.
    """
    to_image = -(target * scores.log_softmax(1)).sum(1).mean()
    by_image = target / target.sum(0)
    to_text = -(by_image * scores.log_softmax(0)).sum(0).mean()
    return (to_image + to_text) / 2


def hard_triplet(scores: Tensor, owner: Tensor, margin: float = 0.2) -> Tensor:
    """Return the hinge of each caption's hardest wrong image, plus that of its image's hardest
    wrong caption; mean over the captions.

    scores: [Q, B]; owner: [Q], the right image of each caption. Source: VSE++ (Faghri et al.,
    arXiv 1707.05612).
    """
    column = owner.unsqueeze(1)  # [Q, 1]
    right = scores.gather(1, column)  # [Q, 1]
    hardest_image = scores.scatter(1, column, -torch.inf).amax(1, keepdim=True)  # [Q, 1]

    # An image's own captions are never wrong for it.
    is_own = column == torch.arange(scores.shape[1], device=scores.device)  # [Q, B]
    hardest_caption = scores.masked_fill(is_own, -torch.inf).amax(0)[owner].unsqueeze(1)  # [Q, 1]

    hardest = torch.cat([hardest_image, hardest_caption], 1)  # [Q, 2]
    hinges = (margin + hardest - right).clamp_min(0.0)
    return hinges.sum(1).mean()
