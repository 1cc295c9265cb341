# %% [markdown]
# # Questions to a folder of PDFs, answered by a page
#
# Manuals and reports say half of what they know in charts. Here three PDF booklets are indexed
# **page by page**, each page as its text *and* its image; a question finds the page, and you see
# it. Then we take the text layer away, as in a scan, and look at what is left: the most important
# thing to know before you trust any such system with your documents.
#
#     pip install "llama-index-rnx[demo,notebooks]"
#
# > **The one line that changes for a 2B vision-language model on a GPU:** >
# `RNXRerank(model="Qwen/Qwen2-VL-2B-Instruct")` in place of `RNXRerank(model="rnx-mini")`. Only
# such a model *reads* what > is drawn on a page.

# %%
import json
from pathlib import Path

from llama_index.core.llms.mock import MockLLMWithChatMemoryOfLastCall
from llama_index.core.query_engine import RetrieverQueryEngine
from PIL import Image, ImageOps

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever, load_ranker
from llama_index_rnx.demo import QUESTIONS, build_corpus
from llama_index_rnx.ingestion import discover, index_paths, nodes_of
from llama_index_rnx.results import compare, search, why

# %% [markdown]
# ## From files to pages
#
# `index_paths` opens each PDF, takes the text layer of every page, renders the page, and writes one
# node that holds both. The PDF stays where it is: the node knows file and page number and draws the
# page again when somebody wants to see it.

# %%
work = Path("work")
build_corpus(work)
folder = work / "corpus" / "booklets"
collection = NodeCollection(":memory:")
report = index_paths(collection, [folder])
print(f"{report.files} PDFs, {report.written} pages")

# %% [markdown]
# ## Ask

# %%
retriever, reranker = RNXRetriever(collection, top_k=13), RNXRerank(model="rnx-mini", top_n=5)
compare(retriever, reranker, "what was the money spent on", n=4)

# %% [markdown]
# The bicycle manual has a chart of what wearing parts *cost*, and the retriever fell for it. The
# page on finances has a chart of what was *invested*; it never says "money spent". Retrieval
# compares one vector with one vector, and both pages are about money. The reranker reads query and
# candidates together, and this time that is enough.
#
# Barely: the scores are tiny. `rnx-mini` takes the finances for *more likely* than the rest, not
# for an answer it would bet on. An order is a weaker claim than a score, and it is good to look at
# both.
#
# ## See the page
#
# `resolve_image` is what every LlamaIndex image node has; of a page it gives the rendered page.

# %%
best = search(retriever, reranker, "what was the money spent on", n=1)[0]
page = Image.open(best.node.resolve_image())
page.thumbnail((620, 620))
print(best.docid)
ImageOps.expand(page.convert("RGB"), 1, "silver").quantize(48)

# %% [markdown]
# ## Why this page?
#
# `why` leaves pieces out, one by one: a sentence of the text, a field of the page's image. What
# costs the page its lead over another one spoke for it (green); what the page would be better
# without speaks against it (orange). It asks the ranker some dozens of times, which the small model
# does in seconds.
#
# Take it as a hint and not as a proof: two sentences that say the same cover for each other.

# %%
question = "what was the money spent on"
hits = reranker.postprocess_nodes(retriever.retrieve(question), query_str=question)
why(load_ranker("rnx-mini"), question, hits, better=0, worse=1, pieces=9)

# %% [markdown]
# ## Hand the page to a language model
#
# With `multimodal=True` LlamaIndex puts text *and* page image into the prompt. A mock stands where
# your model goes; it remembers what it was asked, so we can look at what a real one would be shown.

# %%
llm = MockLLMWithChatMemoryOfLastCall(is_chat_model=True)
one = RNXRerank(model="rnx-mini", top_n=1)
engine = RetrieverQueryEngine.from_args(
    retriever, llm=llm, node_postprocessors=[one], multimodal=True
)
answer = engine.query("which month was best for solar")
print("source:", *(hit.node_id for hit in answer.source_nodes))
for message in llm.last_chat_messages:
    print(message.role.value, [block.block_type for block in message.blocks])

# %% [markdown]
# ## How often is the right page first?
#
# The demo's corpus comes with questions and the files that answer them. Some are answered by a page
# of these booklets. They were written by the authors, who knew the pages, and there are thirteen
# pages in all: this is an illustration that you can check by eye, **not a benchmark**.

# %%
rows = [json.loads(line) for line in (work / QUESTIONS).read_text().splitlines()]
asked = [
    (row["query"], {name.removeprefix("booklets/") for name in row["answers"]})
    for row in rows
    if any(name.startswith("booklets/") for name in row["answers"])
]


def first(retriever, reranker):
    """For each question, whether the first page is a right one."""
    return [search(retriever, reranker, query, n=1)[0].docid in answers for query, answers in asked]


found = {"pages with a text layer": (first(retriever, None), first(retriever, reranker))}
for name, (before, after) in found.items():
    print(
        f"{name}: first page right for {sum(before)} retrieved, "
        f"{sum(after)} reranked of {len(asked)}"
    )
for (query, _), before, after in zip(asked, *found["pages with a text layer"], strict=True):
    if before != after:
        print("  won: " if after else "  lost:", query)

# %% [markdown]
# On a handful of pages whose words differ this much, BM25 and dense vectors leave little to gain,
# and a reranker can lose what was right. On mmdocir, 157 questions to pages of 26 PDFs, the first
# page was right for 43.9 % of the retriever's lists and 47.8 % of the reranked ones, a gain within
# noise (+3.8 [-2.6, +10.2]; development split, `python -m benchmarks.quality mmdocir`, 2026-11-23).
#
# ## Now without the text layer
#
# A scan is a PDF whose pages are images. Let us make scans of the same booklets and index those.

# %%
scans = work / "scans"
scans.mkdir(exist_ok=True)
for source in discover([folder])[0]:
    pages = [Image.open(node.resolve_image()).convert("RGB") for node in nodes_of(source)]
    pages[0].save(scans / source.docid, save_all=True, append_images=pages[1:])

scanned = NodeCollection(":memory:")
index_paths(scanned, [scans])
blind = RNXRetriever(scanned, top_k=13)
found["scans"] = first(blind, None), first(blind, reranker)
for name, (before, after) in found.items():
    print(
        f"{name}: first page right for {sum(before)} retrieved, "
        f"{sum(after)} reranked of {len(asked)}"
    )

# %% [markdown]
# One in thirteen would be right by throwing dice. `rnx-mini` looks at images through networks
# that learned from photographs, at 256 by 256 pixels: it knows a cup from a cat, and has never
# learned to read. So with this model
#
# * documents with a text layer: good;
# * scans: **run OCR first**, or use a vision-language model that reads (the one line at the top);
# * the page's image adds nothing to its text layer yet. On mmdocir the retriever finds pages
#   *better* by their text alone
#   (47.8 % against 43.9 %, the same command and date).
#
# Why keep the images, then? Because the language model that answers wants to see the chart, and
# you want to see the page.
#
# What the image half does see is shape. Ask the scans for one:

# %%
compare(blind, reranker, "a line chart that rises and then falls", n=3)

# %% [markdown]
# ## On the command line
#
#     rnx index ./manuals --to ./idx                                   # again for what changed
#     rnx search "what was the money spent on" --from ./idx            # a table
#     rnx search "what was the money spent on" --from ./idx --format html > answer.html
