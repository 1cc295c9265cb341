"""Door 1, RNXRerank: nodes -> candidates -> the ranking flow -> nodes, as a LlamaIndex
postprocessor. The flow itself is in `ranking/pipeline.py`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixin
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from pydantic import ValidationError

from llama_index_rnx import moved
from llama_index_rnx.candidates import Candidate, Query, query_of, usable_candidates
from llama_index_rnx.defaults import RANKER_NAME, TOP_N
from llama_index_rnx.errors import ImageError, RNXError, SettingsError, one_line
from llama_index_rnx.memory import MemoryStore
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import (
    Ranker,
    Ranking,
    Windows,
    prompted,
    prompts_of,
    rank_many,
    release_memory,
    run_in_executor,
    with_dynamic_batching,
    with_last,
)
from llama_index_rnx.validation import (
    checked_asks,
    checked_callbacks,
    checked_hits,
    describe_refused_fields,
)

logger = logging.getLogger(__name__)
dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]

# The metadata key of the retriever's score, see `keep_retrieval_score`.
RETRIEVAL_SCORE = "retrieval_score"


@dataclass(frozen=True, kw_only=True)
class _NodeList:
    """One query with its nodes, resolved once.

    Attributes:
        bundle: the query as LlamaIndex gave it.
        candidates: one for each node.
        faults: by index, what of a node cannot be used, and why.
    """

    bundle: QueryBundle | None
    nodes: list[NodeWithScore]
    query: Query
    candidates: list[Candidate]
    faults: dict[int, str]


class RNXRerank(BaseNodePostprocessor, PromptMixin):
    """Reads a mixed list of retrieved text and image nodes together and returns them best first.

    The result is a permutation of the given nodes, cut to `top_n`, in new `NodeWithScore` objects;
    the nodes and the caller's list stay as they were. The same call gives the same answer.

    Scores are numbers in [0, 1] that never rise with rank (those of a service are passed on as they
    come). A list that fits into the model's window (128 nodes for `rnx-mini`, 20 for a model that
    is read by labels, all for one that is read pointwise) is scored at once, and its scores are as
    the model gave them. In a longer list a node has the score of the last window that held it, or
    that of the node before it where this is lower. Between calls, and so for `min_score`, scores
    mean what the model's do: of a pointwise model the probability that the node answers the query;
    of `rnx-mini` roughly the same; by labels the node's odds against the others of its window
    (`rnx calibrate` turns them into probabilities on lists like yours); of a written order its
    rank, which compares with nothing.

    `windows` says how a longer list is scored: `sliding` from tail to head, each half a window
    after the other, or `parallel`, side by side with a final among the best of each: fewer windows
    in two steps, faster on a GPU.

    It is called as every LlamaIndex postprocessor: by an engine (`node_postprocessors=[...]`), or
    `postprocess_nodes(nodes, query_bundle=...)`, `postprocess_nodes(nodes, query_str=...)` and
    their `apostprocess_nodes`. The model is loaded at the first call, once, under a lock. One
    object serves any number of threads and async callers; those that wait are scored together
    (`llama_index_rnx.ranking.scheduler`).

    A node is ranked by what can be read of it: by its text where its image is gone. One with
    nothing left (a blank text, a broken image) comes last with score 0, and one `RuntimeWarning`
    a call says how many there were, and why.

    Raises:
        RNXError: the query is empty or its image cannot be read, a model is unknown. What a model
            or a service raises comes out, too, unless `on_error="keep_order"` gives the retriever's
            order instead and logs a warning.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> texts = ("Bees make honey.", "Rust is iron oxide.")
        >>> nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]
        >>> reranker = RNXRerank(top_n=1, keep_retrieval_score=True)
        >>> best = reranker.postprocess_nodes(nodes, query_str="What is rust?")
        >>> best[0].text, best[0].node.metadata["retrieval_score"]
        ('Rust is iron oxide.', 0.5)
        >>> strict = RNXRerank(min_score=1.0)
        >>> strict.postprocess_nodes(nodes, query_str="What is rust?")  # nothing is that good
        []
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    model: str = Field(
        default=RANKER_NAME,
        description="rnx-mini, a local folder, a hub id, or the URL of a /rerank service.",
    )
    top_n: int = Field(default=TOP_N, ge=1, description="How many nodes come out at most.")
    window: int | None = Field(
        default=None, ge=1, description="Candidates read at once; default: what the model can."
    )
    stride: int | None = Field(
        default=None, ge=1, description="How far a window moves; default: half a window."
    )
    windows: Windows = Field(
        default="sliding", description="How a list longer than a window is read."
    )
    min_score: float | None = Field(
        default=None, description="Nodes that score less, in [0, 1], are left out."
    )
    adapter: str | None = Field(
        default=None, description="A LoRA adapter for `model`: a folder or a hub id."
    )
    device: str | None = Field(default=None, description="cpu, cuda, mps; default: what is there.")
    dtype: str | None = Field(
        default=None, description="float32, bfloat16, float16; default: what is fast and exact."
    )
    max_pixels: int | None = Field(
        default=None, ge=1, description="An image is shrunk to this many pixels."
    )
    max_text_tokens: int | None = Field(
        default=None, ge=1, description="A text is cut to this many tokens."
    )
    keep_retrieval_score: bool = Field(
        default=False, description="Copy the retriever's score into the metadata."
    )
    on_error: Literal["raise", "keep_order"] = Field(
        default="raise", description="keep_order: the retriever's order instead."
    )
    prompts: dict[str, str] = Field(
        default={}, description="Templates in place of the model's own; see `get_prompts()`."
    )
    memory_path: str | None = Field(
        default=None, description="A folder that keeps memories; default: see MemoryStore."
    )
    allow_urls: bool = Field(
        default=False, description="Fetch the images of nodes that hold a URL only."
    )
    ranker: Any = Field(
        default=None, exclude=True, repr=False, description="A ready Ranker, instead of `model`."
    )

    _lock: Any = PrivateAttr()
    _loaded: Ranker | None = PrivateAttr(default=None)
    _memories: MemoryStore | None = PrivateAttr(default=None)
    _failures: int = PrivateAttr(default=0)

    def __init__(self, model: str = RANKER_NAME, top_n: int = TOP_N, **options: Any) -> None:
        ranker = options.get("ranker")
        if ranker is not None and not isinstance(ranker, Ranker):
            raise SettingsError(
                f"ranker= got {type(ranker).__name__}; it needs name, fingerprint, window, "
                "remember and score."
            )

        options["callback_manager"] = checked_callbacks(options.get("callback_manager"))
        if isinstance(options.get("memory_path"), Path):
            options["memory_path"] = str(options["memory_path"])
        settings: dict[str, Any] = {
            "model": ranker.name if ranker is not None else model,
            "top_n": top_n,
            **options,
        }
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise SettingsError(describe_refused_fields(error, "RNXRerank")) from error
        self._lock = threading.RLock()

    @classmethod
    def class_name(cls) -> str:
        return "RNXRerank"

    @property
    def failures(self) -> int:
        """How many calls fell back to the retriever's order (`on_error="keep_order"`)."""
        return self._failures

    def unload(self) -> None:
        """Release the model and its memory; the next call loads it again."""
        with self._lock:
            self._loaded = None
        release_memory()

    def postprocess_many(
        self, asks: Sequence[tuple[QueryBundle | None, list[NodeWithScore]]]
    ) -> list[list[NodeWithScore]]:
        """Return what `postprocess_nodes` returns for each query and its nodes; windows of all
        lists share forwards where they can.

        The memories of all lists are held at once: `LISTS_AT_ONCE` lists a call are plenty.

        Args:
            asks: (query, its nodes), one for each list. With `on_error="keep_order"` one bad list
                costs the others nothing.
        """
        lists = [self._resolve(bundle, nodes) for bundle, nodes in checked_asks(asks)]

        with ExitStack() as events:
            report_end = [events.enter_context(self._events(each)) for each in lists]
            rankings = self._rank_or_keep_order(lists)
            results = [
                self._select(each.nodes, ranking)
                for each, ranking in zip(lists, rankings, strict=True)
            ]
            for report, hits in zip(report_end, results, strict=True):
                report(hits)

        _warn_of_faults(lists, rankings)
        return results

    def _resolve(self, bundle: QueryBundle | None, nodes: list[NodeWithScore]) -> _NodeList:
        """Resolve a query and its nodes to what a ranker reads; nothing is opened yet."""
        query = query_of(bundle)
        resolved = usable_candidates([hit.node for hit in nodes], self.allow_urls)
        candidates = [candidate for candidate, _ in resolved]
        faults = {index: fault for index, (_, fault) in enumerate(resolved) if fault}
        return _NodeList(
            bundle=bundle, nodes=nodes, query=query, candidates=candidates, faults=faults
        )

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self.postprocess_many([(query_bundle, checked_hits(nodes))])[0]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Concurrent calls share forwards where the model can; of a cancelled call nothing further
        is scored.
        """
        return await run_in_executor(partial(self._postprocess_nodes, nodes, query_bundle))

    @contextmanager
    def _events(self, nodes: _NodeList) -> Iterator[Callable[[list[NodeWithScore]], None]]:
        """Send LlamaIndex's observers a start, and an end whatever happens between. The function
        that this yields takes the nodes that the end reports.
        """
        dispatcher.event(
            ReRankStartEvent(
                query=nodes.bundle, nodes=nodes.nodes, top_n=self.top_n, model_name=self.model
            )
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes.nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: nodes.query.text,
            EventPayload.TOP_K: self.top_n,
        }
        hits: list[NodeWithScore] = []
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield hits.extend
                event.on_end(payload={EventPayload.NODES: hits})
        finally:
            dispatcher.event(ReRankEndEvent(nodes=hits))

    def _rank_or_keep_order(self, lists: Sequence[_NodeList]) -> list[Ranking | None]:
        """Return the order of each list; None where the model failed and the given order stays."""
        try:
            return list(self._rank(lists))
        except ImageError:
            # It is the image of a query: those of candidates cost nobody anything.
            raise
        except Exception as error:
            if self.on_error == "raise":
                raise
            if len(lists) == 1:
                # An RNXError says all in its line; anything else needs its traceback.
                logger.warning(
                    "%s failed (%s); the order of the retriever is kept",
                    self.model,
                    one_line(error),
                    exc_info=not isinstance(error, RNXError),
                )

        # One bad list costs the others nothing.
        if len(lists) > 1:
            return [ranking for each in lists for ranking in self._rank_or_keep_order([each])]
        self._failures += 1
        return [None]

    def _rank(self, lists: Sequence[_NodeList]) -> list[Ranking]:
        # Empty candidates need no order, and so no model.
        if all(candidate.is_empty for each in lists for candidate in each.candidates):
            return [_ranking_of_empty(len(each.candidates)) for each in lists]

        with self._lock:
            ranker = self._load()
            store = self._store()
        return rank_many(
            ranker,
            store,
            [(each.query, each.candidates) for each in lists],
            self.window,
            self.stride,
            self.windows,
        )

    def _load(self) -> Ranker:
        """Return the model for many threads, under the prompts of this reranker; load it at the
        first call. The caller holds the lock.
        """
        if self._loaded is None:
            ranker = self.ranker
            if ranker is None:
                ranker = load_ranker(
                    self.model,
                    adapter=self.adapter,
                    device=self.device,
                    dtype=self.dtype,
                    max_pixels=self.max_pixels,
                    max_text_tokens=self.max_text_tokens,
                )
            self._loaded = with_dynamic_batching(prompted(ranker, self.prompts))
        return self._loaded

    def _get_prompts(self) -> PromptDictType:
        """Return the templates of the model's prompt, by name: `list_prompt` (`{candidates}`,
        `{query}`) and `candidate_prompt` (`{label}`, `{content}`), or `pair_prompt` (`{query}`,
        `{content}`); none for `rnx-mini`. This loads the model.
        """
        with self._lock:
            templates = prompts_of(self._load())
        return {name: PromptTemplate(template) for name, template in templates.items()}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        """Replace templates, for this reranker and its copies; a ready ranker that was handed in
        stays as it is.
        """
        templates = {name: prompt.get_template() for name, prompt in prompts_dict.items()}
        with self._lock:
            self._loaded = prompted(self._load(), templates)
            self.prompts = {**self.prompts, **templates}

    def _store(self) -> MemoryStore:
        if self._memories is None:
            self._memories = MemoryStore(self.memory_path)
        return self._memories

    def _select(
        self, nodes: Sequence[NodeWithScore], ranking: Ranking | None
    ) -> list[NodeWithScore]:
        """Return copies of the best nodes, or of the first where there is no ranking."""
        if ranking is None:
            return [self._copy(hit, hit.score) for hit in nodes[: self.top_n]]

        ranked = list(zip(ranking.order, ranking.scores, strict=True))
        if self.min_score is not None:
            ranked = [(index, score) for index, score in ranked if score >= self.min_score]
        return [self._copy(nodes[index], score) for index, score in ranked[: self.top_n]]

    def _copy(self, hit: NodeWithScore, score: float | None) -> NodeWithScore:
        if not isinstance(hit.node, BaseNode):
            return NodeWithScore.model_construct(node=hit.node, score=score)
        if not self.keep_retrieval_score:
            return NodeWithScore(node=hit.node, score=score)

        node = hit.node.model_copy()
        node.metadata = {**node.metadata, RETRIEVAL_SCORE: hit.score}
        node.excluded_embed_metadata_keys = [*node.excluded_embed_metadata_keys, RETRIEVAL_SCORE]
        node.excluded_llm_metadata_keys = [*node.excluded_llm_metadata_keys, RETRIEVAL_SCORE]
        return NodeWithScore(node=node, score=score)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RNXRerank:
        """Return the same settings under a lock of their own; a ready ranker is shared, a loaded
        model is found again.
        """
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings without the loaded model: a copy loads its own when it is used."""
        names = [name for name in type(self).model_fields if name != "callback_manager"]
        return {"__dict__": {name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]


def _ranking_of_empty(count: int) -> Ranking:
    """Return the ranking of candidates that are all empty; `_NodeList.faults` says why they are."""
    return with_last(Ranking(order=[], scores=[]), [], range(count))


def _faults(nodes: _NodeList, ranking: Ranking | None) -> dict[int, str]:
    """Return by index what of a node could not be read, and why; nothing of a list that was not
    ranked.
    """
    if ranking is None:
        return {}
    return dict(sorted((ranking.faults | nodes.faults).items()))


def _warn_of_faults(lists: Sequence[_NodeList], rankings: Sequence[Ranking | None]) -> None:
    """Give one warning for all lists of a call."""
    reasons: list[str] = []
    for nodes, ranking in zip(lists, rankings, strict=True):
        reasons += _faults(nodes, ranking).values()
    if not reasons:
        return

    count = sum(len(nodes.nodes) for nodes in lists)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    warnings.warn(
        f"{len(reasons)} of {count} nodes cannot be read whole; each is ranked by what is left of "
        f"it, and comes last with score 0 where nothing is: {reasons[0]}{more}",
        RuntimeWarning,
        stacklevel=3,
    )


if not TYPE_CHECKING:  # A type checker that saw this would accept every name.

    def __getattr__(name: str) -> Any:
        """Return what an old name of this module stands for (PEP 562)."""
        return moved.old_name(__name__, name)
