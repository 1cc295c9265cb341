"""How the channels of a search become one score. It asks nothing."""

from __future__ import annotations

from llama_index.core.embeddings import MultiModalEmbedding
from qdrant_client import models

from llama_index_rnx.candidates import Query
from llama_index_rnx.embed import RNXEmbedding

RRF_K = 60  # Cormack et al. 2009


# By rank alone, the best picture stands among the first 25 texts: a reranker shall see some
# pictures.
IMAGE_FLOOR = 0.75


# What each source gives to the fusion at least: ranks agree where lists are long enough to overlap.
DEPTH = 50


RRF = models.RrfQuery(rrf=models.Rrf(k=RRF_K))


def fusion_query(
    embedding: MultiModalEmbedding, query: Query
) -> models.RrfQuery | models.FormulaQuery:
    """How the two channels become one score: the first by its own, the second by the logistic of
    its cosine.

    Pictures that are asked for by a picture count with the cosine itself: it is theirs, and a
    likelihood near 1 for all.
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


def _sum_of_channels(shown: str | models.DivExpression) -> models.FormulaQuery:
    weighed = models.MultExpression(
        mult=[2 / (RRF_K + 1), shown]
    )  # 1 weighs as much as being first in two lists
    floor = models.MultExpression(mult=[IMAGE_FLOOR, "$score[2]"])
    nothing = {
        "$score[0]": 0.0,
        "$score[1]": -1.0,
        "$score[2]": 0.0,
    }  # of a node that is not in that channel
    return models.FormulaQuery(
        formula=models.SumExpression(sum=["$score[0]", weighed, floor]), defaults=nothing
    )
