"""Multimodal listwise reranking for LlamaIndex: texts and images in one list, best first."""

from llama_index_rnx.collection import NodeCollection
from llama_index_rnx.embed import RNXEmbedding
from llama_index_rnx.errors import RNXError
from llama_index_rnx.rankers import Ranker, load_ranker
from llama_index_rnx.rerank import RNXRerank
from llama_index_rnx.retrieve import RNXRetriever
from llama_index_rnx.storage import Storage

__all__ = ["NodeCollection", "RNXEmbedding", "RNXError", "RNXRerank", "RNXRetriever", "Ranker", "Storage", "load_ranker"]
__version__ = "0.1.0"
