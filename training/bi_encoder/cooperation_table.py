"""The rows of the table: how well bi-encoder and cross-encoder do together. It trains nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from training.bi_encoder.cooperation import WORDS, CooperationSettings, encode_split
from training.bi_encoder.model import owners
from training.bi_encoder.shared_encoder import SharedEncoder
from training.bi_encoder.source import CachedPairs

# The cross-encoder orders the bi-encoder's first k.
CUTS = (10, 20, 50)

PAIRS_AT_ONCE = 1_000


@torch.inference_mode()
def cross_scores(
    encoder: SharedEncoder, source: CachedPairs, candidates: Tensor, texts: list[int]
) -> Tensor:
    """Score the images at positions `candidates` [Q, K] of the split's rows for each of the texts:
    [Q, K].
    """
    cells = source.image_maps(source.rows).float()  # [B, 16, 1280]
    count = candidates.shape[1]
    step = max(1, PAIRS_AT_ONCE // count)

    chunks = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(texts), step):
            states, mask, _ = source.caption_states(texts[start : start + step], WORDS)
            positions = candidates[start : start + step].flatten()
            scores = encoder.together(
                cells[positions],
                states.repeat_interleave(count, 0),
                mask.repeat_interleave(count, 0),
            )
            chunks.append(scores.view(-1, count))
    return torch.cat(chunks)


def format_recall(order: Tensor, owner: Tensor) -> str:
    """Return R@1 / 5 / 10 in percent of images in order [Q, K], best first.

    Example:
        >>> format_recall(torch.tensor([[2, 0], [1, 3]]), torch.tensor([0, 1]))
        '50.0 / 100.0 / 100.0'
    """
    is_owner = order == owner[:, None]  # [Q, K]
    values = [100 * float(is_owner[:, :k].any(1).float().mean()) for k in (1, 5, 10)]
    return " / ".join(f"{value:.1f}" for value in values)


def result_rows(
    name: str,
    retriever: SharedEncoder,
    reranker: SharedEncoder,
    source: CachedPairs,
    settings: CooperationSettings,
) -> list[str]:
    """Return the rows of one pair of models: the bi-encoder, its top k in the order of the
    cross-encoder, and the cross-encoder over all images.
    """
    texts, _ = owners(source)
    captions, images, owner = encode_split(retriever, source)
    depth = min(max(CUTS), len(images))
    order = (captions @ images.T).topk(depth, dim=1).indices  # [Q, 50]
    scores = cross_scores(reranker, source, order, texts)

    rows = [f"| {name}: bi-encoder | {format_recall(order, owner)} |"]
    for k in CUTS:
        by_score = scores[:, :k].argsort(1, descending=True)
        reranked = order[:, :k].gather(1, by_score)
        rows.append(f"| {name}: k = {k} | {format_recall(reranked, owner)} |")

    sample = torch.linspace(0, len(texts) - 1, settings.queries).long().tolist()
    everything = torch.arange(len(source.rows)).expand(len(sample), -1)
    sampled_texts = [texts[position] for position in sample]
    over_all = cross_scores(reranker, source, everything, sampled_texts)
    order = over_all.argsort(1, descending=True)
    title = f"{name}: cross-encoder over all, {len(sample)} captions"
    rows.append(f"| {title} | {format_recall(order, owner[sample])} |")
    return rows
