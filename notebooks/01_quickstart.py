# %% [markdown]
# # Quickstart: reranking in a query engine, before and after
#
# You have a LlamaIndex query engine. It finds passages, photographs, charts and PDF pages that
# *might* answer a question, and hands the first few of them to a language model. This notebook adds
# one object to it, `RNXRerank`, which reads what was found **as one list** and puts the best on
# top.
#
# Everything runs on a laptop with the embedded model `rnx-mini`: no GPU, no download, no key.
#
#     pip install "llama-index-rnx[demo,notebooks]"
#
# > **The one line that changes for a 2B vision-language model on a GPU:**
# > `RNXRerank(model="Qwen/Qwen2-VL-2B-Instruct")` in place of `RNXRerank(model="rnx-mini")`.

# %%
import time
from pathlib import Path

from llama_index.core import Settings
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.demo import IMAGE_QUERY, build_corpus
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.results import compare

# %% [markdown]
# ## Something to search
#
# `build_corpus` writes a small household archive: notes, three PDF booklets with charts,
# photographs from scikit-image, paintings from the Metropolitan Museum, drawings. `index_paths`
# does what `rnx index` does on the command line: a text file becomes passages, an image one node,
# a PDF one node **per page**, which holds both the page's text and its image.
#
# With nodes of your own, it is `collection.add(nodes)`; with files, this.

# %%
work = Path("work")
build_corpus(work)
collection = NodeCollection(
    work / "index"
)  # a folder; ":memory:" and the URL of a Qdrant server work as well
index_paths(collection, [work / "corpus"])
print(len(collection), "nodes: texts, images, and pages that are both")

# %% [markdown]
# ## Before
#
# A retriever alone. `RNXRetriever` asks three times at once: dense vectors and BM25 for what nodes
# *say*, image vectors for what they *show*, and fuses the answers by rank.
# `response_mode="no_text"` leaves the language model out, so that we see what it would be given.

# %%
Settings.llm = MockLLM()  # put your language model here
retriever = RNXRetriever(collection, top_k=30)
before = RetrieverQueryEngine.from_args(retriever, response_mode="no_text")


def sources(engine, question):
    for place, hit in enumerate(engine.query(question).source_nodes[:5], start=1):
        print(f"{place}.  {hit.score:.3f}  {hit.node_id}")


question = "a rocket ready for launch"
sources(before, question)

# %% [markdown]
# A note on the stages of rockets shares a word with the question; that is all a retriever can go
# by, and after it come bread and coffee. Its scores say so, too: a fused rank is .033, .032, .031
# whatever was found. They order, they do not judge.
#
# ## After
#
# One more argument:

# %%
reranker = RNXRerank(model="rnx-mini", top_n=5)
after = RetrieverQueryEngine.from_args(
    retriever, response_mode="no_text", node_postprocessors=[reranker]
)
sources(after, question)

# %% [markdown]
# The photograph came from eleventh place. No text of it was ever read; it has none. The note on
# rockets stays second, and what has nothing to do with the question has a score that says so.
#
# ## See it
#
# `compare` asks the same retriever and reranker and shows both lists side by side. Any LlamaIndex
# retriever and any reranker may stand there.

# %%
compare(retriever, reranker, question)

# %% [markdown]
# A question that texts answer. Here the retriever's first was right already; what the reranker adds
# is *distance*: two notes on heat pumps and the page on district heating, which has one, stand
# apart from everything else, and the tyres have left the second place.

# %%
compare(retriever, reranker, "Why does our heat pump use so much electricity on damp winter days?")

# %% [markdown]
# The query may be an image, too: here a part of a painting as somebody's telephone might have it,
# askew and too bright. `QueryBundle` is LlamaIndex's own.

# %%
compare(retriever, reranker, QueryBundle("", image_path=str(work / IMAGE_QUERY)), n=3)

# %% [markdown]
# ## When it goes wrong
#
# A reranker is a model, and a small one. The corpus has a drawing of the metro lines,
# `drawings/metro-map.png`, with the names of lines and stations on it. `rnx-mini` cannot read
# letters in an image and has hardly seen drawings: a brick wall comes first.

# %%
compare(retriever, reranker, "map of the metro lines", n=4)

# %% [markdown]
# Look at the scores, though. With `rnx-mini` they lie between 0 and 1, and here the *best* has less
# than .1, where the heat pump had .99. The list tells you that the model found nothing it is sure
# of. `min_score` turns that into behaviour: what scores less is left out, and an engine may rather
# say "I do not know" than guess.

# %%
strict = RNXRerank(model="rnx-mini", top_n=5, min_score=0.3)
for asked in (
    "Why does our heat pump use so much electricity on damp winter days?",
    "map of the metro lines",
):
    kept = strict.postprocess_nodes(retriever.retrieve(asked), query_str=asked)
    print(f"{len(kept)} kept: {[hit.node_id for hit in kept]}")

# %% [markdown]
# (Which threshold is right depends on your data; notebook 04 looks at that.)
#
# ## What the language model is given
#
# This is why it matters. `MockLLM` repeats its prompt instead of answering, so we can read what a
# real one would read. With the five best of the retriever, the context of the heat pump question
# holds tyres and an annual report; reranked and cut at .3, it holds what is about heat pumps. Fewer
# tokens, and no distraction.

# %%
asked = "Why does our heat pump use so much electricity on damp winter days?"
for name, found in (("retrieved", RNXRetriever(collection, top_k=5)), ("reranked", retriever)):
    steps = [strict] if name == "reranked" else []
    engine = RetrieverQueryEngine.from_args(found, node_postprocessors=steps)
    prompt = str(engine.query(asked))
    print(f"{name}: {len(prompt.split())} words in the prompt")

# %% [markdown]
# Put your own model where `MockLLM()` stands, or hand it over as `llm=`. With `multimodal=True` the
# *images* of the best nodes reach its prompt as well, so a vision-language model sees the chart
# and not only its page's text:
#
# ```python
# engine = RetrieverQueryEngine.from_args(
#     retriever, llm=llm, node_postprocessors=[reranker], multimodal=True
# )
# ```
#
# ## What it costs
#
# What needs no query was done when the nodes were indexed: each has a *memory*, kept beside the
# vectors. A query pays only for reading thirty memories together.

# %%
hits = retriever.retrieve(question)
start = time.perf_counter()
for _ in range(5):
    reranker.postprocess_nodes(hits, query_str=question)
print(
    f"{len(hits)} nodes, images among them: {(time.perf_counter() - start) / 5 * 1000:.0f} ms "
    "on the machine that ran this"
)

# %%
collection.close()  # the folder is free for other processes

# %% [markdown]
# **Where next.** 02 asks a folder of PDFs and shows the page. 03 measures why two stages are better
# than either. 04 opens the list: windows, order bias, scores. 05 trains on your own data. 06 puts
# other models in each place.
