"""Door 1, RNXRerank: the whole rerank flow on one screen. nodes -> candidates -> memories ->
windows -> scores -> order.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixin
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from pydantic import ValidationError

from llama_index_rnx.candidates import Candidate, Query, query_of, usable_candidate
from llama_index_rnx.defaults import RANKER_NAME, TOP_N
from llama_index_rnx.errors import ImageError, RNXError
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
from llama_index_rnx.validation import checked_asks, checked_callbacks, checked_hits, one_line

RETRIEVAL_SCORE = "retrieval_score"
dispatcher = instrument.get_dispatcher(__name__)  # type: ignore[attr-defined]


class RNXRerank(BaseNodePostprocessor, PromptMixin):
    """Reads a mixed list of retrieved text and image nodes together and returns them best first.

    What comes out is a permutation of what went in, cut to `top_n`, in new `NodeWithScore` objects;
    the nodes and the caller's list stay as they were. The same call gives the same answer.

    Scores are numbers in [0, 1] that never rise with rank. A list that fits into the model's window
    (128 nodes for `rnx-mini`, 20 for a model that is read by labels, all for one that is read
    pointwise) is read at once, and its scores are as the model gave them. In a longer list a node
    has the score of the last window that read it, or that of the node before it where this is
    lower. Between calls, and so for `min_score`, scores mean what the model's do: of a pointwise
    model the probability that the node answers the query; of `rnx-mini` roughly the same; by labels
    the node's odds against the others of its window (`rnx calibrate` turns them into probabilities
    on lists like yours); of a written order its place, which compares with nothing.

    `windows` says how a longer list is read: `sliding` from tail to head, each half a window after
    the other, or `parallel`, side by side with a final among the best of each: fewer reads in two
    steps, faster on a GPU.

    It is called as every LlamaIndex postprocessor: by an engine (`node_postprocessors=[...]`), or
    `postprocess_nodes(nodes, query_bundle=...)`, `postprocess_nodes(nodes, query_str=...)` and
    their `apostprocess_nodes`. The model is loaded at the first call, once, under a lock. One
    object serves any number of threads and async callers; those that wait are read together
    (`llama_index_rnx.ranking.scheduler`).

    A node is ranked by what can be read of it: by its text where its picture is gone. One with
    nothing left (a blank text, a broken picture) comes last with score 0, and one `RuntimeWarning`
    a call says how many there were, and why.

    Raises:
        RNXError: the query is empty or its picture cannot be read, a model is unknown. What a model
            or a service raises comes out, too, unless `on_error="keep_order"` gives the retriever's
            order instead.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> nodes = [NodeWithScore(node=TextNode(text=t), score=0.5) for t in ("Bees make honey.", "Rust is iron oxide.")]
        >>> best = RNXRerank(top_n=1, keep_retrieval_score=True).postprocess_nodes(nodes, query_str="What is rust?")
        >>> best[0].text, best[0].node.metadata["retrieval_score"]
        ('Rust is iron oxide.', 0.5)
        >>> RNXRerank(min_score=1.0).postprocess_nodes(nodes, query_str="What is rust?")  # nothing is that good
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
    _ranker: Ranker | None = PrivateAttr(default=None)
    _shared: Ranker | None = PrivateAttr(default=None)
    _memories: MemoryStore | None = PrivateAttr(default=None)
    _failures: int = PrivateAttr(default=0)

    def __init__(self, model: str = RANKER_NAME, top_n: int = TOP_N, **options: Any) -> None:
        ranker = options.get("ranker")
        if ranker is not None and not isinstance(ranker, Ranker):
            raise RNXError(
                f"ranker= got {type(ranker).__name__}; it needs name, fingerprint, window, remember and score."
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
            raise RNXError(one_line(error, "RNXRerank")) from error
        self._lock = threading.RLock()

    @classmethod
    def class_name(cls) -> str:
        return "RNXRerank"

    @property
    def failures(self) -> int:
        """How many calls fell back to the retriever's order (`on_error="keep_order"`)."""
        return self._failures

    def unload(self) -> None:
        """Lets go of the model and its memory; the next call loads it again."""
        with self._lock:
            self._ranker = self._shared = None
        release_memory()

    def postprocess_many(
        self, asks: Sequence[tuple[QueryBundle | None, list[NodeWithScore]]]
    ) -> list[list[NodeWithScore]]:
        """What `postprocess_nodes` gives for each query and its nodes; windows of all lists share
        forwards where they can.

        The memories of all lists are held at once: `LISTS_AT_ONCE` lists a call are plenty.

        Args:
            asks: (query, its nodes), one for each list. With `on_error="keep_order"` one bad list
                costs the others nothing.
        """
        asks = checked_asks(asks)
        queries = [query_of(bundle) for bundle, _ in asks]
        parts = [
            [usable_candidate(hit.node, self.allow_urls) for hit in nodes] for _, nodes in asks
        ]

        with ExitStack() as events:
            tell = [events.enter_context(self._event(*ask)) for ask in asks]
            rankings = self._rankings(
                [
                    (query, [one for one, _ in row])
                    for query, row in zip(queries, parts, strict=True)
                ]
            )
            found = [
                self._cut(nodes, ranking)
                for (_, nodes), ranking in zip(asks, rankings, strict=True)
            ]
            for told, best in zip(tell, found, strict=True):
                told(best)

        _warn_of_faults([_faults(*pair) for pair in zip(rankings, parts, strict=True)], parts)
        return found

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self.postprocess_many([(query_bundle, checked_hits(nodes))])[0]

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Concurrent calls share forwards where the model can; a cancelled one is read no further."""
        return await run_in_executor(partial(self._postprocess_nodes, nodes, query_bundle))

    @contextmanager
    def _event(
        self, bundle: QueryBundle | None, nodes: list[NodeWithScore]
    ) -> Iterator[Callable[[list[NodeWithScore]], None]]:
        """What LlamaIndex's observers see: a Start, and an End with the nodes it is told, whatever
        happened between.
        """
        dispatcher.event(
            ReRankStartEvent(query=bundle, nodes=nodes, top_n=self.top_n, model_name=self.model)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query_of(bundle).text,
            EventPayload.TOP_K: self.top_n,
        }
        told: list[NodeWithScore] = []
        try:
            with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
                yield told.extend
                event.on_end(payload={EventPayload.NODES: told})
        finally:
            dispatcher.event(ReRankEndEvent(nodes=told))

    def _rankings(self, lists: Sequence[tuple[Query, Sequence[Candidate]]]) -> list[Ranking | None]:
        """The order of each list; None where the model failed and the given order is kept."""
        try:
            return list(self._rank(lists))
        except ImageError:  # of a query: those of candidates cost nobody anything
            raise
        except Exception:
            if self.on_error == "raise":
                raise
        if len(lists) > 1:  # one bad list costs the others nothing
            return [ranking for one in lists for ranking in self._rankings([one])]
        self._failures += 1
        return [None]

    def _rank(self, lists: Sequence[tuple[Query, Sequence[Candidate]]]) -> list[Ranking]:
        if all(
            one.is_empty for _, candidates in lists for one in candidates
        ):  # this loads no model
            return [_of_nothing(len(candidates)) for _, candidates in lists]
        with self._lock:
            ranker, store = self._open(), self._store()
        return rank_many(ranker, store, lists, self.window, self.stride, self.windows)

    def _open(self) -> Ranker:
        """The loaded model for many threads: the engine's async calls come from as many as there
        are queries.
        """
        if self._shared is None:
            self._shared = with_dynamic_batching(self._loaded())
        return self._shared

    def _loaded(self) -> Ranker:
        if self._ranker is None:
            ranker = self.ranker if self.ranker is not None else self._load()
            self._ranker = prompted(ranker, self.prompts)
        return self._ranker

    def _load(self) -> Ranker:
        return load_ranker(
            self.model,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            max_pixels=self.max_pixels,
            max_text_tokens=self.max_text_tokens,
        )

    def _get_prompts(self) -> PromptDictType:
        """The templates of the model's prompt, by name: `list_prompt` (`{candidates}`, `{query}`)
        and `candidate_prompt` (`{label}`, `{content}`), or `pair_prompt` (`{query}`, `{content}`);
        none for `rnx-mini`. This loads the model."""
        with self._lock:
            return {
                name: PromptTemplate(template)
                for name, template in prompts_of(self._loaded()).items()
            }

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        """Other templates, for this reranker and its copies; a ready ranker that was handed in
        stays as it is.
        """
        templates = {name: prompt.get_template() for name, prompt in prompts_dict.items()}
        with self._lock:
            self._ranker, self._shared = prompted(self._loaded(), templates), None
            self.prompts = {**self.prompts, **templates}

    def _store(self) -> MemoryStore:
        if self._memories is None:
            self._memories = MemoryStore(self.memory_path)
        return self._memories

    def _cut(self, nodes: Sequence[NodeWithScore], ranking: Ranking | None) -> list[NodeWithScore]:
        if ranking is None:
            return [self._copy(hit, hit.score) for hit in nodes[: self.top_n]]
        ranked = zip(ranking.order, ranking.scores, strict=True)
        kept = [
            (i, score) for i, score in ranked if self.min_score is None or score >= self.min_score
        ]
        return [self._copy(nodes[i], score) for i, score in kept[: self.top_n]]

    def _copy(self, hit: NodeWithScore, score: float | None) -> NodeWithScore:
        if not isinstance(hit.node, BaseNode):
            return NodeWithScore.model_construct(node=hit.node, score=score)
        if not self.keep_retrieval_score:
            return NodeWithScore(node=hit.node, score=score)
        node = hit.node.model_copy()
        node.metadata = {**hit.node.metadata, RETRIEVAL_SCORE: hit.score}
        node.excluded_embed_metadata_keys = [
            *hit.node.excluded_embed_metadata_keys,
            RETRIEVAL_SCORE,
        ]
        node.excluded_llm_metadata_keys = [*hit.node.excluded_llm_metadata_keys, RETRIEVAL_SCORE]
        return NodeWithScore(node=node, score=score)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> RNXRerank:
        """The same settings under a lock of its own; a ready ranker is shared, a loaded model found
        again.
        """
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields})

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the loaded model: a copy loads its own when it is asked."""
        names = [name for name in type(self).model_fields if name != "callback_manager"]
        return {"__dict__": {name: getattr(self, name) for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]


def _of_nothing(count: int) -> Ranking:
    """The ranking of candidates that are all empty; their faults are known to whoever made them."""
    return with_last(Ranking(order=[], scores=[]), [], range(count))


def _faults(ranking: Ranking | None, parts: Sequence[tuple[Candidate, str]]) -> dict[int, str]:
    """By index, what of a node could not be read, and why; nothing of a list that was not ranked."""
    if ranking is None:
        return {}
    own = {i: fault for i, (_, fault) in enumerate(parts) if fault}
    return dict(sorted((ranking.faults | own).items()))


def _warn_of_faults(
    faults: Sequence[Mapping[int, str]], parts: Sequence[Sequence[tuple[Candidate, str]]]
) -> None:
    """One warning for all lists of a call."""
    reasons = [reason for row in faults for reason in row.values()]
    if not reasons:
        return
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    warnings.warn(
        f"{len(reasons)} of {sum(map(len, parts))} nodes cannot be read whole; each is ranked by what is left of it, and "
        f"comes last with score 0 where nothing is: {reasons[0]}{more}",
        RuntimeWarning,
        stacklevel=3,
    )
