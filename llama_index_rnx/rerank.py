"""Door 1, RNXRerank: the whole rerank flow on one screen. nodes -> candidates -> memories -> windows -> scores -> order."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from llama_index_rnx.candidates import Candidate, Query, candidate_of, query_of
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.ordering import Ranking, drive, sliding
from llama_index_rnx.rankers import Ranker, load_ranker
from llama_index_rnx.rankers.base import recall

RETRIEVAL_SCORE = "retrieval_score"
dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]


class RNXRerank(BaseNodePostprocessor):
    """Reads a mixed list of retrieved text and image nodes together and returns them best first.

    What comes out is a permutation of what went in, cut to `top_n`, in new `NodeWithScore` objects; the nodes and the
    caller's list stay as they were. Scores lie in [0, 1] for `rnx-mini`, fall with rank, and are the same at every call.

    Raises:
        RNXError: the query is empty, a node holds neither text nor image, an image cannot be read, a model is unknown.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> nodes = [NodeWithScore(node=TextNode(text=t)) for t in ("Bees make honey.", "Rust is iron oxide.")]
        >>> RNXRerank(top_n=1).postprocess_nodes(nodes, query_str="What is rust?")[0].text
        'Rust is iron oxide.'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    model: str = Field(default="rnx-mini", description="rnx-mini, a local folder, a hub id, or the URL of a /rerank service.")
    top_n: int = Field(default=5, ge=1, description="How many nodes come out at most.")
    window: int | None = Field(default=None, ge=1, description="Candidates read at once; default: what the model can.")
    stride: int | None = Field(default=None, ge=1, description="How far a window moves; default: half a window.")
    min_score: float | None = Field(default=None, description="Nodes that score less are left out.")
    adapter: str | None = Field(default=None, description="A LoRA adapter for `model`: a folder or a hub id.")
    device: str | None = Field(default=None, description="cpu, cuda, mps; default: what is there.")
    dtype: str | None = Field(default=None, description="float32, bfloat16, float16; default: what is fast and exact.")
    max_pixels: int | None = Field(default=None, ge=1, description="An image is shrunk to this many pixels.")
    max_text_tokens: int | None = Field(default=None, ge=1, description="A text is cut to this many tokens.")
    keep_retrieval_score: bool = Field(default=False, description="Copy the retriever's score into the metadata.")
    on_error: Literal["raise", "keep_order"] = Field(default="raise", description="keep_order: the retriever's order instead.")
    memory_path: str | None = Field(default=None, description="A folder that keeps memories; default: see MemoryStore.")
    allow_urls: bool = Field(default=False, description="Fetch the images of nodes that hold a URL only.")
    ranker: Any = Field(default=None, exclude=True, repr=False, description="A ready Ranker, instead of `model`.")

    _lock: Any = PrivateAttr()
    _ranker: Ranker | None = PrivateAttr(default=None)
    _memories: MemoryStore | None = PrivateAttr(default=None)
    _failures: int = PrivateAttr(default=0)

    def __init__(self, model: str = "rnx-mini", top_n: int = 5, **options: Any) -> None:
        ranker = options.get("ranker")
        if ranker is not None and not isinstance(ranker, Ranker):
            raise RNXError(f"ranker= got {type(ranker).__name__}; it needs name, fingerprint, window, remember and score.")
        if isinstance(options.get("memory_path"), Path):
            options["memory_path"] = str(options["memory_path"])
        settings: dict[str, Any] = {"model": ranker.name if ranker is not None else model, "top_n": top_n, **options}
        super().__init__(**settings)
        self._lock = threading.RLock()

    @classmethod
    def class_name(cls) -> str:
        return "RNXRerank"

    @property
    def failures(self) -> int:
        """How many calls fell back to the retriever's order (`on_error="keep_order"`)."""
        return self._failures

    def unload(self) -> None:
        """Lets go of the model; the next call loads it again."""
        with self._lock:
            self._ranker = None

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        query = query_of(query_bundle)
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self.model))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.text,
            EventPayload.TOP_K: self.top_n,
        }
        best: list[NodeWithScore] = []
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                best = self._rerank(query, nodes)
                event.on_end(payload={EventPayload.NODES: best})
        finally:  # an End for every Start, whatever happened between
            dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _rerank(self, query: Query, nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
        if not nodes:
            return []
        try:
            ranking = self._rank(query, nodes)
        except Exception:
            if self.on_error == "raise":
                raise
            self._failures += 1
            return [self._copy(hit, hit.score) for hit in nodes[: self.top_n]]
        return self._cut(nodes, ranking)

    def _rank(self, query: Query, nodes: Sequence[NodeWithScore]) -> Ranking:
        candidates = [candidate_of(hit.node, self.allow_urls) for hit in nodes]
        with self._lock:  # one model, one caller at a time: the engine's async calls come from many threads
            return rank(self._loaded(), self._store(), query, candidates, self.window, self.stride)

    def _loaded(self) -> Ranker:
        if self._ranker is None:
            self._ranker = self.ranker or load_ranker(
                self.model,
                adapter=self.adapter,
                device=self.device,
                dtype=self.dtype,
                max_pixels=self.max_pixels,
                max_text_tokens=self.max_text_tokens,
            )
        return self._ranker

    def _store(self) -> MemoryStore:
        if self._memories is None:
            self._memories = MemoryStore(self.memory_path)
        return self._memories

    def _cut(self, nodes: Sequence[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
        ranked = zip(ranking.order, ranking.scores, strict=True)
        kept = [(i, score) for i, score in ranked if self.min_score is None or score >= self.min_score]
        return [self._copy(nodes[i], score) for i, score in kept[: self.top_n]]

    def _copy(self, hit: NodeWithScore, score: float | None) -> NodeWithScore:
        if not self.keep_retrieval_score:
            return NodeWithScore(node=hit.node, score=score)
        node = hit.node.model_copy()
        node.metadata = {**hit.node.metadata, RETRIEVAL_SCORE: hit.score}
        node.excluded_embed_metadata_keys = [*hit.node.excluded_embed_metadata_keys, RETRIEVAL_SCORE]
        node.excluded_llm_metadata_keys = [*hit.node.excluded_llm_metadata_keys, RETRIEVAL_SCORE]
        return NodeWithScore(node=node, score=score)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RNXRerank:
        """The same settings under a lock of its own; a ready ranker is shared, a loaded model found again."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the loaded model: a copy loads its own when it is asked."""
        names = [name for name in type(self).model_fields if name != "callback_manager"]
        return {"__dict__": {name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]


def rank(
    ranker: Ranker,
    store: MemoryStore,
    query: Query,
    candidates: Sequence[Candidate],
    window: int | None = None,
    stride: int | None = None,
) -> Ranking:
    """The flow itself: candidates -> memories -> windows -> scores -> order. RNXRerank and `rnx rerank` both call it."""
    memories = recall(ranker, candidates, store)
    size = min(window or ranker.window, ranker.window)
    reads = sliding(len(candidates), size, min(stride or max(1, size // 2), size))
    return drive(reads, lambda places: _finite(ranker, ranker.score(query, [memories[i] for i in places])))


def _finite(ranker: Ranker, scores: Sequence[float]) -> list[float]:
    if not all(math.isfinite(score) for score in scores):
        raise RNXError(f"{ranker.name} gave a score that is no number; try dtype='float32', or another checkpoint.")
    return [float(score) for score in scores]
