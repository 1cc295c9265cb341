"""The listwise scorer: the token states of a query against what is remembered of every candidate,
then the candidates among themselves.

It knows neither words nor images nor encoders: token states, vectors and one image logit come in, a
score each goes out. Axes, named once: N candidates, C chunks, S memory tokens, Q query tokens,
L distinct word pieces, F features, D memory width, W scorer width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llama_index_rnx.rankers.mini import LAST_SPECIAL, ScorerConfig
from training.mini.candidate_batch import (
    CandidateBatch,
    QueryStates,
    TextMemory,
    compress_tokens,
    count_occurrences,
    distinct_pieces,
    heaviest,
)
from training.mini.cross_attention import CandidateCrossAttention

BASE_FEATURES = 8

# Text alone, image alone, both.
MODALITIES = 3


@dataclass(frozen=True, kw_only=True)
class ScorerOutput:
    """The scorer's output for N candidates, each by itself, before they are compared with one
    another.

    Attributes:
        features: [N, F].
        vectors: [N, W].
        text_logit, image_logit: [N].
        occurrences: [N, Q] of each query piece.
        length: [N] in word pieces.
        long, has_text, has_image: [N] bool.
    """

    features: Tensor
    vectors: Tensor
    text_logit: Tensor
    occurrences: Tensor
    length: Tensor
    long: Tensor
    has_text: Tensor
    has_image: Tensor
    image_logit: Tensor

    @classmethod
    def join(cls, outputs: Sequence[ScorerOutput]) -> ScorerOutput:
        """Join the outputs of several steps of a list, in their order."""
        names = [field.name for field in fields(cls)]
        return cls(
            **{name: torch.cat([getattr(output, name) for output in outputs]) for name in names}
        )


class ListwiseScorer(nn.Module):
    """Scores of N candidates for one query, listwise.

    * base logit: learned weights on cosine, late interaction and exact overlap, plus the image
      logit
    * joint: query tokens attend to the candidate's memory tokens -> a candidate vector and a
      residual of the logit
    * list: candidates attend to one another -> a second residual

    Both residuals start at zero and the base at the cosine alone, so an untrained scorer gives the
    retriever's order.
    """

    weights: Tensor

    def __init__(self, config: ScorerConfig = ScorerConfig()) -> None:
        super().__init__()
        self.config = config

        # The idf of every word piece, 0 to 1.
        self.register_buffer("weights", torch.ones(config.vocabulary))

        self.compress = nn.Linear(config.state_width, config.memory_width, bias=False)
        self.base = BaseLogit(config)
        self.joint = CandidateCrossAttention(config)
        self.kinds = ModalityCalibration(config)
        self.list = ListAttention(config)

    def remember(self, states: Tensor, ids: Tensor, chunks: Tensor) -> TextMemory:
        """Return what is kept of one text: states [T, 384], ids [T] (specials allowed),
        chunks [C, 384].
        """
        pieces, counts = distinct_pieces(ids, self.weights, self.config.lexicon)
        tokens = self.project(compress_tokens(states, ids, self.weights, self.config.slots))
        return TextMemory(tokens=tokens, chunks=chunks, pieces=pieces, counts=counts)

    def project(self, states: Tensor) -> Tensor:
        """[..., 384] -> [..., D], unit length."""
        return normalize(self.compress(states), dim=-1)

    def query(self, states: Tensor, ids: Tensor, vector: Tensor) -> QueryStates:
        """Return a query without specials, its heaviest word pieces only: states [T, 384], ids [T],
        vector [384].
        """
        words = (ids > LAST_SPECIAL).nonzero().squeeze(1)  # [T']
        if len(words):
            heavy = heaviest(self.weights[ids[words]], self.config.query_tokens)
            index = words[heavy.sort().values]  # [Q]
        else:
            # There are nothing but specials: take [CLS].
            index = torch.arange(1, device=ids.device)
        return QueryStates(states=states[index], pieces=ids[index], vector=vector)

    def forward(self, query: QueryStates, batch: CandidateBatch) -> Tensor:
        """-> scores [N], float; higher is better."""
        return self.compare(self.score_each(query, batch))

    def score_each(self, query: QueryStates, batch: CandidateBatch) -> ScorerOutput:
        """Score each candidate by itself, so that a list may be scored in steps, side by side."""
        projected = self.project(query.states)  # [Q, D]
        if bool(batch.has_text.any()):
            features, matches = self.base.features(query, batch, projected, self.weights)
            vectors, residual = self.joint(batch, projected, matches)  # [N, W], [N]
            text_logit = (self.base(features) + residual) * batch.has_text
        else:
            # There are images alone, and nothing to attend to.
            count = len(batch.has_text)
            features = batch.image_logit.new_zeros(count, BASE_FEATURES)
            vectors = batch.image_logit.new_zeros(count, self.config.width)
            text_logit = torch.zeros_like(batch.image_logit)

        return ScorerOutput(
            features=features,
            vectors=vectors,
            text_logit=text_logit,
            occurrences=count_occurrences(query.pieces, batch),
            length=batch.counts.sum(1),
            long=batch.long,
            has_text=batch.has_text,
            has_image=batch.has_image,
            image_logit=batch.image_logit,
        )

    def compare(self, output: ScorerOutput) -> Tensor:
        """Compare the candidates with one another: scores [N], float; higher is better."""
        logits: Tensor = self.kinds(output.text_logit, output)  # [N]
        if not bool(output.has_text.any()):
            # The residual of images is zero.
            return logits

        residual = self.list(output.vectors, logits, output.features, output)  # [N]
        scores: Tensor = logits + residual
        if not bool(output.long.any()):
            return scores

        best_chunk = output.features[:, 0] + output.features[:, 1]  # [N]
        bm25 = _bm25(output.occurrences, output.length, output.has_text)  # [N]
        return blend_long(scores, best_chunk, bm25, output.long)


class BaseLogit(nn.Module):
    """Cheap features of a text and one logit from them."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.token_weight = nn.Linear(config.state_width, 1)
        self.weigh_idf = nn.Parameter(torch.tensor(3.0))
        self.linear = nn.Linear(BASE_FEATURES, 1)

        nn.init.zeros_(self.token_weight.weight)
        nn.init.zeros_(self.token_weight.bias)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            # Features are scaled to spread about 1; 3 suits a softmax over a list.
            self.linear.weight[0, 0] = 3.0

    def features(
        self, query: QueryStates, batch: CandidateBatch, projected: Tensor, idf: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-> features [N, F]; matches [N, Q, 3]: best similarity, exact occurrence and idf of every
        query token.
        """
        similarity = torch.einsum("qd,nsd->nqs", projected, batch.tokens)  # [N, Q, S]
        best = similarity.masked_fill(~batch.token_mask.unsqueeze(1), -1.0).amax(-1)  # [N, Q]

        weight = idf[query.pieces]  # [Q]
        share = weight / weight.sum().clamp_min(1e-6)  # [Q]
        token_logit = self.token_weight(query.states).squeeze(1) + self.weigh_idf * weight
        learned = token_logit.softmax(0)  # [Q]

        # The saturation of BM25, k1 = .9, b = .67.
        counts = count_occurrences(query.pieces, batch)  # [N, Q]
        length = batch.counts.sum(1).clamp_min(1.0)  # [N]
        saturated = counts / (counts + 0.3 + 0.6 * (length / 100.0).unsqueeze(1))  # [N, Q]

        cosines = torch.einsum("d,ncd->nc", query.vector, batch.chunks)  # [N, C]
        cosines = cosines.masked_fill(~batch.chunk_mask, -1.0)
        mean = (batch.chunks * batch.chunk_mask.unsqueeze(-1)).sum(1)  # [N, 384]
        whole = normalize(mean, dim=-1) @ query.vector  # [N]

        columns = (
            # gte-small's cosines lie in .7 to .95.
            (whole - 0.85) * 20.0,
            (cosines.amax(1) - whole) * 20.0,
            best @ learned * 5.0 - 3.0,
            best @ share * 5.0 - 3.0,
            best.mean(1) * 5.0 - 3.0,
            (counts > 0).float() @ share * 2.0 - 1.0,
            saturated @ share * 2.0 - 1.0,
            length.log() - 4.0,
        )
        features = torch.stack(columns, dim=-1) * batch.has_text.unsqueeze(1)  # [N, F]
        matches = torch.stack([best * 4.0 - 2.0, saturated, weight.expand_as(best)], dim=-1)
        return features, matches

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N]."""
        logit: Tensor = self.linear(features).squeeze(-1)
        return logit


def blend_long(scores: Tensor, best_chunk: Tensor, bm25: Tensor, long: Tensor) -> Tensor:
    """Score texts of several chunks, such as pages, by the mean of three views: the scorer, the
    best chunk, exact words.

    Each view is standardised over the long texts of the list, and the mean has the scorer's own
    scale; nothing is fitted. The scorer alone learned from passages and pools a page into as many
    tokens: on 157 questions to the pages of 26 documents R@1 rose from 42.7 to 46.5 (mmdocir,
    2026-11-22). All [N]; texts of one chunk keep their scores.
    """
    if int(long.sum()) < 2:
        return scores
    views = torch.stack([scores, best_chunk, bm25])[:, long]  # [3, long]
    mean = views.mean(1, keepdim=True)
    spread = views.std(1, correction=0, keepdim=True)
    blended = ((views - mean) / (spread + 1e-6)).mean(0) * spread[0] + mean[0]  # [long]
    return scores.masked_scatter(long, blended.to(scores.dtype))


def list_bm25(pieces: Tensor, batch: CandidateBatch) -> Tensor:
    """Return BM25 (k1 = 1.2, b = .75) of each text, by the document frequencies and the mean length
    of the list: [Q] -> [N].

    It is divided by the idf of the whole query and shifted: about -1 (no word of it) to 1.
    """
    return _bm25(count_occurrences(pieces, batch), batch.counts.sum(1), batch.has_text)


def _bm25(counts: Tensor, length: Tensor, has_text: Tensor) -> Tensor:
    """counts: [N, Q]; length, has_text: [N] -> [N]."""
    texts = has_text.sum().clamp_min(1)
    frequency = (counts > 0).sum(0)  # [Q]
    idf = ((texts - frequency + 0.5) / (frequency + 0.5)).log1p()  # [Q]
    norm = 0.25 + 0.75 * length / (length.sum() / texts).clamp_min(1.0)  # [N]
    saturated = counts * 2.2 / (counts + 1.2 * norm[:, None])  # [N, Q]
    return (saturated @ idf) / idf.sum().clamp_min(1e-6) * 1.5 - 1.0


class ModalityCalibration(nn.Module):
    """One scale for texts, images and both: a weight for each side and a bias for each kind of
    candidate.

    Text alone is the measure and stays as it is, so this can be trained without touching lists of
    texts. A candidate that is both answers by its text or by its image: the log of the summed odds,
    which an image that says nothing cannot lower. (As a sum, the images of PDF pages, which look
    like no caption, put pages behind worse texts: of 15 questions to pages of the demo's corpus
    three had the right one first, 12 as retrieved; now 13. training/LOG.md, 2026-11-23.)
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.picture_bias = config.picture_bias
        self.text_weight = nn.Parameter(torch.ones(MODALITIES))
        self.image_weight = nn.Parameter(torch.ones(MODALITIES))
        self.bias = nn.Parameter(torch.zeros(MODALITIES))

    def forward(self, text_logit: Tensor, output: ScorerOutput) -> Tensor:
        """[N] -> [N]."""
        # 0 text, 1 image, 2 both.
        kind = output.has_image.long() + (output.has_image & output.has_text).long()  # [N]
        image_logit = self.image_weight[kind] * output.image_logit + self.bias[kind]  # [N]
        either = torch.logaddexp(self.text_weight[kind] * text_logit, image_logit)  # [N]

        with_image = torch.where(output.has_text, either, image_logit + self.picture_bias)
        return torch.where(output.has_image, with_image, text_logit)


class ListAttention(nn.Module):
    """Attention across the candidates. It sees no rank and no position, so the given order cannot
    matter.

    What it adds is centred on the candidates with text and zero for images: it was trained on
    texts, and moved Flickr8k dev lists of images from .66 to .59 nDCG@10 when it was let.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        width = config.list_width
        self.heads = config.list_heads
        self.enter = nn.Linear(config.width + BASE_FEATURES + 5, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.list_heads,
                2 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.list_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.residual = nn.Linear(width, 1)

        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(
        self, vectors: Tensor, logits: Tensor, features: Tensor, output: ScorerOutput
    ) -> Tensor:
        """vectors [N, W], logits [N], features [N, F] -> residuals [N]."""
        has_text = output.has_text
        spread = (logits - logits.mean()) / (logits.std(correction=0) + 1e-3)  # [N]
        flags = [logits, spread, output.image_logit, has_text, output.has_image]  # [N] each
        texts = vectors * has_text.unsqueeze(1)
        inputs = torch.cat([texts, features, torch.stack(flags, dim=-1)], dim=-1)

        hidden = self.enter(inputs).unsqueeze(0)  # [1, N, list width]
        for layer in self.layers:
            hidden = layer(hidden)
        residual = self.residual(self.norm(hidden)).view(-1) * has_text  # [N]
        centred: Tensor = (residual - residual.sum() / has_text.sum().clamp_min(1)) * has_text
        return centred
