"""Door 2, RNXRetriever: a query in, the nearest nodes out, texts and images in one list."""

from __future__ import annotations

from functools import partial

from llama_index.core.callbacks import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import MetadataFilters

from llama_index_rnx.candidates import query_of
from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.defaults import TOP_K
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.ranking import run_in_executor
from llama_index_rnx.validation import checked_callbacks, checked_count


class RNXRetriever(BaseRetriever):
    """Dense and BM25 search fused by reciprocal rank; the query may be a text, an image
    (`QueryBundle.image_path`), or both.

    `QueryBundle.custom_embedding_strs` (of HyDE, for one) and `embedding` change what the dense
    search looks for: the mean of those texts, or that vector as it is. BM25 goes on with
    `query_str`, and so does the reranker.

    Texts and images come out in one list, best first. Scores are those of the fusion: they order
    this list and mean nothing between queries (`RNXRerank` gives scores that do). How the list is
    made: `NodeCollection.search`.

    Args:
        collection: where the nodes are.
        top_k: how many nodes come out at most. A reranker reads 100 at once; more cost time, fewer
            cost recall.
        filters: LlamaIndex metadata filters, applied before the search.
        callback_manager: of LlamaIndex; by default an empty one.

    Raises:
        SettingsError: `top_k` is below 1, the query is empty, or its `embedding` does not fit the
            collection's vectors.
        ConnectionFailedError: Qdrant does not answer.
        ImageError: the image of a query is none.

    Example:
        >>> from llama_index.core.schema import TextNode
        >>> from llama_index.core.vector_stores import ExactMatchFilter
        >>> collection = NodeCollection(":memory:")
        >>> texts = {"bees": "Bees make honey.", "rust": "Rust is iron oxide."}
        >>> collection.add(
        ...     [
        ...         TextNode(id_=name, text=text, metadata={"kind": name})
        ...         for name, text in texts.items()
        ...     ]
        ... )
        2
        >>> retriever = RNXRetriever(collection, top_k=2)
        >>> [hit.node_id for hit in retriever.retrieve("what do bees make?")]
        ['bees', 'rust']
        >>> filters = MetadataFilters(filters=[ExactMatchFilter(key="kind", value="rust")])
        >>> retriever = RNXRetriever(collection, filters=filters)
        >>> [hit.node_id for hit in retriever.retrieve("what do bees make?")]
        ['rust']
    """

    def __init__(
        self,
        collection: NodeCollection,
        top_k: int = TOP_K,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        top_k = checked_count(top_k, "top_k")
        if not isinstance(collection, NodeCollection):
            raise SettingsError(
                f"collection= got a {type(collection).__name__}; a NodeCollection is needed."
            )
        if filters is not None and not isinstance(filters, MetadataFilters):
            raise SettingsError(
                f"filters= got a {type(filters).__name__}; "
                "MetadataFilters(filters=[...]) is needed."
            )
        super().__init__(callback_manager=checked_callbacks(callback_manager))
        self.collection = collection
        self.top_k = top_k
        self.filters = filters

    def retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """Return the nearest nodes, best first. A query that is none is refused before LlamaIndex's
        observers see it.

        Raises:
            as the class says.
        """
        query_of(str_or_query_bundle, dense=True)
        return super().retrieve(str_or_query_bundle)

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        """Return the same as `retrieve`, without blocking the event loop."""
        query_of(str_or_query_bundle, dense=True)
        return await super().aretrieve(str_or_query_bundle)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self.collection.search(
            query_of(query_bundle, dense=True), k=self.top_k, filters=self.filters
        )

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await run_in_executor(partial(self._retrieve, query_bundle))
