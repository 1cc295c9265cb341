"""The channels of a search, and how they become one score. It sends nothing."""

from __future__ import annotations

from typing import Any

from llama_index.core.embeddings import MultiModalEmbedding
from qdrant_client import models

from llama_index_rnx.candidates import Query
from llama_index_rnx.collection.points import IMAGE, SPARSE, TEXT
from llama_index_rnx.embed import RNXEmbedding, embed_query
from llama_index_rnx.text import bm25

RRF_K = 60  # Cormack et al. 2009

# Weight of the channel of images without text. By its rank alone the best image then stands among
# the first 25 texts, so that some images reach the reranker.
IMAGE_FLOOR = 0.75

# How many points each channel gives to the fusion at least: ranks agree where lists are long enough
# to overlap.
DEPTH = 50

RRF = models.RrfQuery(rrf=models.Rrf(k=RRF_K))

# The scores of a node that is not in a channel.
ABSENT = {"$score[0]": 0.0, "$score[1]": -1.0, "$score[2]": 0.0}

_IS_IMAGE_ONLY = models.FieldCondition(key="kind", match=models.MatchValue(value="image"))


def build_channels(
    embedding: MultiModalEmbedding,
    query: Query,
    depth: int,
    condition: models.Filter | None,
    params: models.SearchParams | None,
) -> list[models.Prefetch]:
    """Return the channels of a search, for the places that `fusion_query` numbers.

    0: what nodes say, dense and BM25 fused by reciprocal rank. 1: what they show, by cosine. 2, for
    an `RNXEmbedding`: the images of nodes without text, by rank.

    Args:
        depth: how many points each channel gives at most.
        condition: the user's filter, met by every point.
        params: of the dense search.
    """
    dense = embed_query(embedding, query)

    def nearest(vector_name: str, filter_: models.Filter | None) -> models.Prefetch:
        return models.Prefetch(
            query=dense, using=vector_name, limit=depth, filter=filter_, params=params
        )

    text_channels = [nearest(TEXT, condition)]
    indices, values = bm25.query_vector(query.text)
    if indices:
        sparse = models.SparseVector(indices=indices, values=values)
        text_channels.append(
            models.Prefetch(query=sparse, using=SPARSE, limit=depth, filter=condition)
        )
    channels = [
        models.Prefetch(prefetch=text_channels, query=RRF, limit=depth),
        nearest(IMAGE, condition),
    ]

    if isinstance(embedding, RNXEmbedding):
        conditions: list[Any] = [_IS_IMAGE_ONLY, *([condition] if condition else [])]
        images = nearest(IMAGE, models.Filter(must=conditions))
        channels.append(models.Prefetch(prefetch=[images], query=RRF, limit=depth))
    return channels


def fusion_query(
    embedding: MultiModalEmbedding, query: Query
) -> models.RrfQuery | models.FormulaQuery:
    """Return how the channels become one score: the texts by their own, the images by the logistic
    of their cosine.

    Images that an image asks for count with the cosine itself: its likelihood would be near 1 for
    all of them.
    """
    if not isinstance(embedding, RNXEmbedding):
        return RRF
    if query.image is not None:
        return _sum_of_channels("$score[1]")

    scale, bias = embedding.image_calibration
    odds = models.SumExpression(sum=[-bias, models.MultExpression(mult=[-scale, "$score[1]"])])
    likelihood = models.DivExpression(
        div=models.DivParams(
            left=1.0, right=models.SumExpression(sum=[1.0, models.ExpExpression(exp=odds)])
        )
    )
    return _sum_of_channels(likelihood)


def search_params(oversampling: float | None) -> models.SearchParams | None:
    """Return how a quantized collection is searched: `oversampling` times as many points as asked
    for by single bytes, then ordered by the full vectors. None: it is not quantized.
    """
    if oversampling is None:
        return None
    rescored = models.QuantizationSearchParams(rescore=True, oversampling=oversampling)
    return models.SearchParams(quantization=rescored)


def _sum_of_channels(image_score: str | models.DivExpression) -> models.FormulaQuery:
    # An image score of 1 weighs as much as being first in two lists.
    weighted = models.MultExpression(mult=[2 / (RRF_K + 1), image_score])
    floor = models.MultExpression(mult=[IMAGE_FLOOR, "$score[2]"])
    total = models.SumExpression(sum=["$score[0]", weighted, floor])
    return models.FormulaQuery(formula=total, defaults=ABSENT)
