"""The reader: a query's token states against what is remembered of every candidate, then the
candidates among themselves.

It knows neither words nor pictures nor towers: token states, vectors and one image logit come in, a
score each goes out. Axes: N candidates, C chunks, S memory tokens, Q query tokens, L distinct word
pieces, D memory width, W reader width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

LAST_SPECIAL = (
    998  # BERT's vocabulary: [PAD], [CLS], [SEP] and unused ids come before its first sign, "!"
)
BASE_FEATURES = 8
MODALITIES = 3  # text alone, image alone, both


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """The shape of the reader. At the defaults a text costs at most 19.1 kB in int8: 112 x 128 + 8
    x 384 + 384 x 3.
    """

    vocabulary: int = 30_522
    state_width: int = 384
    memory_width: int = 128
    slots: int = 112
    lexicon: int = 384
    query_tokens: int = 32
    width: int = 192
    heads: int = 6
    layers: int = 2
    list_width: int = 128
    list_heads: int = 4
    list_layers: int = 2
    # On the logit of a picture without text; fitted after training, when the image part has
    # changed.
    picture_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TextMemory:
    """All that is kept of one text. Rows of `tokens` and `chunks` have unit length, so int8 with
    the scale 1/127 fits.

    tokens: [S, D]; chunks: [C, 384]; pieces: [L] distinct word pieces; counts: [L] how often each
    occurs (at most 255).
    """

    tokens: Tensor
    chunks: Tensor
    pieces: Tensor
    counts: Tensor


@dataclass(frozen=True, kw_only=True)
class QueryStates:
    """One query. states: [Q, 384] of its word pieces; pieces: [Q]; vector: [384], unit length."""

    states: Tensor
    pieces: Tensor
    vector: Tensor


@dataclass(frozen=True, kw_only=True)
class CandidateBatch:
    """N candidates, padded. tokens: [N, S, D]; token_mask: [N, S]; chunks: [N, C, 384]; chunk_mask:
    [N, C]; pieces, counts: [N, L] (0 = none); has_text, has_image: [N] bool; image_logit: [N], zero
    without an image."""

    tokens: Tensor
    token_mask: Tensor
    chunks: Tensor
    chunk_mask: Tensor
    pieces: Tensor
    counts: Tensor
    has_text: Tensor
    has_image: Tensor
    image_logit: Tensor

    @property
    def long(self) -> Tensor:
        """Which texts have several chunks, as most pages do: [N] bool."""
        return self.chunk_mask.sum(1) > 1

    def to(self, device: str) -> CandidateBatch:
        """The same on another device."""
        return CandidateBatch(
            **{field.name: getattr(self, field.name).to(device) for field in fields(self)}
        )

    def take(self, index: Tensor) -> CandidateBatch:
        """The candidates at `index`, in that order."""
        return CandidateBatch(
            **{field.name: getattr(self, field.name)[index] for field in fields(self)}
        )


@dataclass(frozen=True, kw_only=True)
class ScorerOutput:
    """What the reader makes of N candidates, each by itself, before they are compared with one
    another.

    features: [N, F]; vectors: [N, W]; text_logit: [N]; occurrences: [N, Q] of each query piece;
    length: [N] in pieces; long, has_text, has_image: [N] bool; image_logit: [N].
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
    def join(cls, readings: Sequence[ScorerOutput]) -> ScorerOutput:
        """Those of several parts of a list, in their order."""
        names = [field.name for field in fields(cls)]
        return cls(
            **{name: torch.cat([getattr(reading, name) for reading in readings]) for name in names}
        )


def compress_tokens(states: Tensor, ids: Tensor, weights: Tensor, slots: int) -> Tensor:
    """At most `slots` vectors for a text of any length, in its order: states [T, 384], ids [T] ->
    [<= slots, 384].

    Specials go always. Beyond `slots`, the light half of the word pieces goes first (stop words and
    signs have the lowest `weights`, one for each word piece of the vocabulary), then neighbours are
    averaged.
    """
    keep = ids > LAST_SPECIAL  # [T]
    states, ids = states[keep], ids[keep]
    if len(ids) > slots:
        kept = max(slots, len(ids) // 2)
        heavy = weights[ids].topk(kept).indices.sort().values
        states = states[heavy]
    if len(states) <= slots:
        return states
    slot = (
        torch.arange(len(states), device=states.device) * slots // len(states)
    )  # [T'] -> its slot
    total = states.new_zeros(slots, states.shape[1]).index_add_(0, slot, states)
    return total / slot.bincount(minlength=slots).unsqueeze(1)  # [slots, 384]


def distinct_pieces(ids: Tensor, weights: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """ids [T] -> the distinct word pieces [<= limit], the heaviest where there are more, and their
    counts.
    """
    pieces, counts = torch.unique(ids[ids > LAST_SPECIAL], return_counts=True)
    if len(pieces) > limit:
        heavy = weights[pieces].topk(limit).indices
        pieces, counts = pieces[heavy], counts[heavy]
    return pieces, counts.clamp_max(255)


class ListwiseScorer(nn.Module):
    """Scores of N candidates for one query, listwise.

    base logit  learned weights on cosine, late interaction and exact overlap, plus the image logit
    joint       query tokens read the candidate's memory tokens -> a candidate vector and a residual of the logit
    list        candidates attend to one another -> a second residual
    Both residuals start at zero and the base at the cosine alone, so an untrained reader gives the
    retriever's order.
    """

    weights: Tensor

    def __init__(self, config: ScorerConfig = ScorerConfig()) -> None:
        super().__init__()
        self.config = config
        self.register_buffer(
            "weights", torch.ones(config.vocabulary)
        )  # idf of every word piece, 0..1
        self.compress = nn.Linear(config.state_width, config.memory_width, bias=False)
        self.base = BaseLogit(config)
        self.joint = CandidateCrossAttention(config)
        self.kinds = ModalityCalibration(config)
        self.list = ListAttention(config)

    def remember(self, states: Tensor, ids: Tensor, chunks: Tensor) -> TextMemory:
        """What is kept of one text: states [T, 384], ids [T] (specials allowed), chunks [C, 384]."""
        pieces, counts = distinct_pieces(ids, self.weights, self.config.lexicon)
        tokens = self.project(compress_tokens(states, ids, self.weights, self.config.slots))
        return TextMemory(tokens=tokens, chunks=chunks, pieces=pieces, counts=counts)

    def project(self, states: Tensor) -> Tensor:
        """[..., 384] -> [..., D], unit length."""
        return normalize(self.compress(states), dim=-1)

    def query(self, states: Tensor, ids: Tensor, vector: Tensor) -> QueryStates:
        """Query states [T, 384], ids [T], vector [384] -> the same without specials, its heaviest
        word pieces only.
        """
        keep = (ids > LAST_SPECIAL).nonzero().squeeze(1)
        heavy = (
            self.weights[ids[keep]]
            .topk(min(len(keep), self.config.query_tokens))
            .indices.sort()
            .values
        )
        keep = (
            keep[heavy] if len(keep) else torch.arange(1, device=ids.device)
        )  # nothing but specials: [CLS]
        return QueryStates(states=states[keep], pieces=ids[keep], vector=vector)

    def forward(self, query: QueryStates, batch: CandidateBatch) -> Tensor:
        """-> scores [N], float; higher is better."""
        return self.rank(self.read(query, batch))

    def read(self, query: QueryStates, batch: CandidateBatch) -> ScorerOutput:
        """Each candidate by itself, so a list may be read in parts, side by side."""
        projected = self.project(query.states)  # [Q, D]
        occurrences, length = _occurrences(query.pieces, batch), batch.counts.sum(1)  # [N, Q], [N]

        if bool(batch.has_text.any()):
            features, matches = self.base.features(query, batch, projected, self.weights)
            vectors, residual = self.joint(query, batch, projected, matches)  # [N, W], [N]
            text_logit = (self.base(features) + residual) * batch.has_text
        else:  # pictures alone: there is nothing to read
            features = batch.image_logit.new_zeros(len(length), BASE_FEATURES)
            vectors = batch.image_logit.new_zeros(len(length), self.config.width)
            text_logit = torch.zeros_like(batch.image_logit)

        return ScorerOutput(
            features=features,
            vectors=vectors,
            text_logit=text_logit,
            occurrences=occurrences,
            length=length,
            long=batch.long,
            has_text=batch.has_text,
            has_image=batch.has_image,
            image_logit=batch.image_logit,
        )

    def rank(self, reading: ScorerOutput) -> Tensor:
        """The candidates among themselves: scores [N], float; higher is better."""
        logits: Tensor = self.kinds(reading.text_logit, reading)  # [N]
        if not bool(reading.has_text.any()):  # the residual of pictures is zero
            return logits

        scores: Tensor = logits + self.list(
            reading.vectors, logits, reading.features, reading
        )  # [N]
        if not bool(reading.long.any()):
            return scores
        best_chunk = reading.features[:, 0] + reading.features[:, 1]  # [N]
        return blend_long(
            scores,
            best_chunk,
            _bm25(reading.occurrences, reading.length, reading.has_text),
            reading.long,
        )


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
            self.linear.weight[0, 0] = (
                3.0  # features are scaled to spread about 1; 3 suits a softmax over a list
            )

    def features(
        self, query: QueryStates, batch: CandidateBatch, projected: Tensor, idf: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-> features [N, F]; matches [N, Q, 3]: best similarity, exact occurrence and idf of every
        query token.
        """
        similarity = torch.einsum("qd,nsd->nqs", projected, batch.tokens)  # [N, Q, S]
        best = similarity.masked_fill(~batch.token_mask.unsqueeze(1), -1.0).amax(-1)  # [N, Q]
        counts = _occurrences(query.pieces, batch)  # [N, Q]
        weight = idf[query.pieces]  # [Q]
        learned = (self.token_weight(query.states).squeeze(1) + self.weigh_idf * weight).softmax(
            0
        )  # [Q]
        share = weight / weight.sum().clamp_min(1e-6)
        length = batch.counts.sum(1).clamp_min(1.0)  # [N]
        saturated = counts / (
            counts + 0.3 + 0.6 * (length / 100.0).unsqueeze(1)
        )  # BM25's, k1 = .9, b = .67
        cosines = torch.einsum("d,ncd->nc", query.vector, batch.chunks).masked_fill(
            ~batch.chunk_mask, -1.0
        )
        mean = (batch.chunks * batch.chunk_mask.unsqueeze(-1)).sum(1)  # [N, 384]
        whole = normalize(mean, dim=-1) @ query.vector  # [N]
        columns = (
            (whole - 0.85) * 20.0,  # gte-small's cosines lie in .7 to .95
            (cosines.amax(1) - whole) * 20.0,
            best @ learned * 5.0 - 3.0,
            best @ share * 5.0 - 3.0,
            best.mean(1) * 5.0 - 3.0,
            (counts > 0).float() @ share * 2.0 - 1.0,
            saturated @ share * 2.0 - 1.0,
            length.log() - 4.0,
        )
        matches = torch.stack(
            [best * 4.0 - 2.0, saturated, weight.expand_as(best)], dim=-1
        )  # [N, Q, 3]
        return torch.stack(columns, dim=-1) * batch.has_text.unsqueeze(1), matches

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N]."""
        logit: Tensor = self.linear(features).squeeze(-1)
        return logit


def blend_long(scores: Tensor, best_chunk: Tensor, bm25: Tensor, long: Tensor) -> Tensor:
    """Texts of several chunks, such as pages, by the mean of three views: the reader, the best
    chunk, exact words.

    Each view is standardised over the long texts of the list, and the mean has the reader's own
    scale; nothing is fitted. The reader alone learned from passages and pools a page into as many
    tokens: on 157 questions to the pages of 26 documents R@1 rose from 42.7 to 46.5 (mmdocir,
    2026-11-22). All [N]; texts of one chunk keep their scores.
    """
    if int(long.sum()) < 2:
        return scores
    views = torch.stack([scores, best_chunk, bm25])[:, long]  # [3, long]
    mean, spread = views.mean(1, keepdim=True), views.std(1, correction=0, keepdim=True)
    blended = ((views - mean) / (spread + 1e-6)).mean(0) * spread[0] + mean[0]  # [long]
    return scores.masked_scatter(long, blended.to(scores.dtype))


def list_bm25(pieces: Tensor, batch: CandidateBatch) -> Tensor:
    """BM25 (k1 = 1.2, b = .75) of each text, by the document frequencies and the mean length of the
    list: [Q] -> [N].

    Divided by the idf of the whole query and shifted: about -1 (no word of it) to 1.
    """
    return _bm25(_occurrences(pieces, batch), batch.counts.sum(1), batch.has_text)


def _bm25(counts: Tensor, length: Tensor, has_text: Tensor) -> Tensor:
    """counts: [N, Q]; length, has_text: [N] -> [N]."""
    texts = has_text.sum().clamp_min(1)
    frequency = (counts > 0).sum(0)  # [Q]
    idf = ((texts - frequency + 0.5) / (frequency + 0.5)).log1p()  # [Q]
    norm = 0.25 + 0.75 * length / (length.sum() / texts).clamp_min(1.0)
    saturated = counts * 2.2 / (counts + 1.2 * norm[:, None])
    return (saturated @ idf) / idf.sum().clamp_min(1e-6) * 1.5 - 1.0


def _occurrences(pieces: Tensor, batch: CandidateBatch) -> Tensor:
    """How often each query piece occurs in each text: [Q], [N, L] -> [N, Q]."""
    same = batch.pieces.unsqueeze(1) == pieces.view(1, -1, 1)  # [N, Q, L]
    return (same * batch.counts.unsqueeze(1)).sum(-1)


class CandidateCrossAttention(nn.Module):
    """A small transformer whose query tokens read the memory tokens; those are never updated, so
    they stay cached.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.enter = nn.Linear(config.memory_width, config.width)
        self.enter_match = nn.Linear(3, config.width)
        self.layers = nn.ModuleList(CrossAttentionLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.pool = nn.Linear(config.width, 1)
        self.residual = nn.Linear(config.width, 1)
        nn.init.orthogonal_(self.enter.weight)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)
        for layer in self.layers:
            assert isinstance(layer, CrossAttentionLayer)
            layer.start_at_similarity(self.enter.weight)

    def forward(
        self, query: QueryStates, batch: CandidateBatch, projected: Tensor, matches: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-> candidate vectors [N, W], residual logits [N]."""
        scale = math.sqrt(projected.shape[-1])  # unit vectors -> entries of about 1
        hidden = self.enter(projected * scale) + self.enter_match(matches)  # [N, Q, W]
        memory = batch.tokens * scale
        for layer in self.layers:
            hidden = layer(hidden, memory, batch.token_mask)
        hidden = self.norm(hidden)
        attention = (self.pool(hidden).squeeze(-1) + 2.0 * matches[..., 2]).softmax(1)  # [N, Q]
        vectors = torch.einsum("nq,nqw->nw", attention, hidden)  # [N, W]
        return vectors, self.residual(vectors).squeeze(-1)


class CrossAttentionLayer(nn.Module):
    """Query tokens attend to the memory, compare what they found with what they asked, and attend
    to one another.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm_read, self.norm_mix = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, width)
        self.key_value = nn.Linear(config.memory_width, 2 * width)
        self.null = nn.Parameter(
            torch.zeros(config.memory_width)
        )  # what to read when nothing fits, or no text is there
        self.compare = nn.Linear(3 * width, 2 * width)
        self.write = nn.Linear(2 * width, width)
        self.mix = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)

    @torch.no_grad()
    def start_at_similarity(self, enter: Tensor) -> None:
        """Attention starts as the tokens' similarity (queries and keys in one space) and values as
        the tokens.
        """
        width = len(enter)
        self.ask.weight.copy_(torch.eye(width) * 0.7)
        self.key_value.weight[:width].copy_(enter * 1.4)
        self.key_value.weight[width:].copy_(enter)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """hidden: [N, Q, W]; memory: [N, S, D]; mask: [N, S] -> [N, Q, W]."""
        memory = torch.cat([self.null.expand(len(memory), 1, -1), memory], dim=1).unsqueeze(
            1
        )  # [N, 1, 1 + S, D]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)[
            :, None, None
        ]  # [N, 1, 1, 1 + S]
        asked = self.norm_read(hidden)
        found = self._read(self.ask(asked), memory, mask)  # [N, Q, W]
        hidden = hidden + self.write(
            gelu(self.compare(torch.cat([asked, found, asked * found], dim=-1)))
        )
        query, key, value = self.mix(self.norm_mix(hidden)).chunk(3, dim=-1)  # [N, Q, W] each
        mixed: Tensor = hidden + self.mixed(_attend(query, key, value, self.heads))
        return mixed

    def _read(self, asks: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attention over `key_value(memory)` without making keys and values of it: [N, Q, W], [N,
        1, S, D] -> [N, Q, W].

        There are few query tokens and many memory tokens, so each head's weights go to the queries'
        side: asks meet the memory itself, and only what was found becomes a value. A key's bias
        adds the same to all that a query token sees, so it falls out of the softmax. Half the time
        of a list of 100 texts (10.8 to 5.7 ms a layer, one core).
        """
        rows, places, width = asks.shape
        keys, values = self.key_value.weight.view(
            2, self.heads, width // self.heads, -1
        )  # [H, W / H, D] each
        split = asks.view(rows, places, self.heads, -1)  # [N, Q, H, W / H]
        moved = (
            torch.einsum("nqhw,hwd->nhqd", split, keys).flatten(1, 2).unsqueeze(1)
        )  # [N, 1, H x Q, D]
        scale = (width // self.heads) ** -0.5
        seen = scaled_dot_product_attention(
            moved, memory, memory, attn_mask=mask, scale=scale
        )  # [N, 1, H x Q, D]
        seen = seen.view(rows, self.heads, places, -1)  # [N, H, Q, D]
        found: Tensor = (
            torch.einsum("nhqd,hwd->nqhw", seen, values).flatten(-2) + self.key_value.bias[width:]
        )
        return found


class ModalityCalibration(nn.Module):
    """One scale for texts, images and both: a weight for each part and a bias for each kind of
    candidate.

    Text alone is the measure and stays as it is, so this can be trained without touching lists of
    texts. What is both answers by its text or by its picture: the log of the summed odds, which a
    picture that says nothing cannot lower. (As a sum, the pictures of PDF pages, which look like no
    caption, put pages behind worse texts: of 15 questions to pages of the demo's corpus three had
    the right one first, 12 as retrieved; now 13. training/LOG.md, 2026-11-23.)
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.picture_bias = config.picture_bias
        self.text_weight = nn.Parameter(torch.ones(MODALITIES))
        self.image_weight = nn.Parameter(torch.ones(MODALITIES))
        self.bias = nn.Parameter(torch.zeros(MODALITIES))

    def forward(self, text_logit: Tensor, batch: ScorerOutput) -> Tensor:
        """[N] -> [N]."""
        kind = (
            batch.has_image.long() + (batch.has_image & batch.has_text).long()
        )  # 0 text, 1 image, 2 both
        image = self.image_weight[kind] * batch.image_logit + self.bias[kind]  # [N]
        either = torch.logaddexp(self.text_weight[kind] * text_logit, image)  # [N]
        return torch.where(
            batch.has_image,
            torch.where(batch.has_text, either, image + self.picture_bias),
            text_logit,
        )


class ListAttention(nn.Module):
    """Attention across the candidates. It sees no rank and no position, so the order that came in
    cannot matter.

    What it adds is centred on the candidates with text and zero for pictures: it was trained on
    texts, and moved Flickr8k dev lists of pictures from .66 to .59 nDCG@10 when it was let.
    """

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        width, self.heads = config.list_width, config.list_heads
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
        self, vectors: Tensor, logits: Tensor, features: Tensor, batch: ScorerOutput
    ) -> Tensor:
        """-> residuals [N]."""
        spread = (logits - logits.mean()) / (logits.std(correction=0) + 1e-3)  # [N]
        flags = torch.stack(
            [logits, spread, batch.image_logit, batch.has_text, batch.has_image], dim=-1
        )  # [N, 5]
        texts = vectors * batch.has_text.unsqueeze(1)
        hidden = self.enter(torch.cat([texts, features, flags], dim=-1)).unsqueeze(
            0
        )  # [1, N, list width]
        for layer in self.layers:
            hidden = layer(hidden)
        residual = self.residual(self.norm(hidden)).view(-1) * batch.has_text  # [N]
        centred: Tensor = (
            residual - residual.sum() / batch.has_text.sum().clamp_min(1)
        ) * batch.has_text
        return centred


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention: [N, Q, W], [N, S, W], [N, S, W] -> [N, Q, W]."""
    asks, keys, values = (
        p.view(*p.shape[:2], heads, -1).transpose(1, 2) for p in (query, key, value)
    )  # [N, H, ., W / H]
    return scaled_dot_product_attention(asks, keys, values).transpose(1, 2).flatten(-2)


def collate(
    memories: Sequence[TextMemory | None],
    config: ScorerConfig,
    has_image: Tensor | None = None,
    image_logit: Tensor | None = None,
) -> CandidateBatch:
    """Pad memories to one batch; None is a candidate without text. has_image, image_logit: [N];
    absent = no images.
    """
    count = len(memories)
    tokens, token_mask = _pad([m.tokens if m else None for m in memories], (0, config.memory_width))
    chunks, chunk_mask = _pad([m.chunks if m else None for m in memories], (0, config.state_width))
    pieces, _ = _pad([m.pieces if m else None for m in memories], (0,))
    counts, _ = _pad([m.counts if m else None for m in memories], (0,))
    return CandidateBatch(
        tokens=tokens,
        token_mask=token_mask,
        chunks=chunks,
        chunk_mask=chunk_mask,
        pieces=pieces.long(),
        counts=counts.float(),
        has_text=torch.tensor([memory is not None for memory in memories]),
        has_image=torch.zeros(count, dtype=torch.bool) if has_image is None else has_image,
        image_logit=torch.zeros(count) if image_logit is None else image_logit,
    )


def _pad(rows: Sequence[Tensor | None], none: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Tensors [*, ...] or None -> [N, longest, ...] and its mask [N, longest]; `none` is the shape
    of a missing one.
    """
    found = [torch.zeros(none) if row is None else row for row in rows]
    lengths = torch.tensor([len(row) for row in found])  # [N]
    longest = max(1, int(lengths.max()))
    padded = pad_sequence(found, batch_first=True)  # [N, longest, ...]
    if padded.shape[1] < longest:  # nobody has anything
        padded = torch.zeros(len(rows), longest, *none[1:])
    return padded, torch.arange(longest) < lengths.unsqueeze(1)
