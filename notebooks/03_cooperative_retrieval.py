# %% [markdown]
# # Why two stages: retrieve fast, rerank smart
#
# A **retriever** must look at millions of nodes, so each was squeezed into a vector before anybody
# asked anything. A **reranker** reads query and candidates together, which is better and slower, so
# it gets a few. How few is the number `k`, and this notebook is about choosing it. The idea is that
# of *Retrieve Fast, Rerank Smart* ([arXiv 2103.11920](https://arxiv.org/abs/2103.11920)).
#
# We ask 49 questions with known answers and plot quality and time over `k`. One of the two curves
# will not look as you expect.
#
#     pip install "llama-index-rnx[demo,notebooks]"
#
# > **The one line that changes for a 2B vision-language model on a GPU:** >
# `RNXRerank(model="Qwen/Qwen2-VL-2B-Instruct", top_n=200)` in place of `RNXRerank(model="rnx-mini",
# top_n=200)`.

# %%
import json
import time
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.demo import QUESTIONS, build_corpus
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.results import compare, hits_of

# %config InlineBackend.figure_formats = ["svg"]
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
plt.rcParams |= {"axes.grid": True, "grid.alpha": 0.25, "font.size": 9}

# %% [markdown]
# ## A collection and questions
#
# The demo's corpus: notes, PDF pages, photographs, paintings, charts. Its questions were written by
# people who knew the corpus, and one number of `rnx-mini` was chosen on them (how images compare
# with texts), so they flatter it; every second one is asked, for time. With 114 nodes this shows
# *how things behave*; how good the model is stands in the benchmarks, on collections that others
# made.

# %%
work = Path("work")
build_corpus(work)
collection = NodeCollection(work / "index")
index_paths(collection, [work / "corpus"])
questions = [json.loads(line) for line in (work / QUESTIONS).read_text().splitlines()][::2]
print(len(collection), "nodes,", len(questions), "questions; for instance:")
for row in questions[::12]:
    print(f"  {row['query']}  ->  {', '.join(row['answers'])}")

# %% [markdown]
# ## The ceiling
#
# A reranker orders what it is given. If the answer is not among the first `k`, no model on earth
# puts it on top. So the first curve to know is the retriever's **recall at k**: how often an answer
# is among the first `k` at all.

# %%
retriever = RNXRetriever(collection, top_k=len(collection))
lists = [retriever.retrieve(row["query"]) for row in questions]


def place(row, final, retrieved):
    """The rank of the first right answer, or None."""
    return next(
        (hit.rank for hit in hits_of(final, retrieved) if hit.docid in row["answers"]), None
    )


retrieved = [place(row, found, found) for row, found in zip(questions, lists, strict=True)]
for k in (1, 3, 8, 20, 40):
    print(f"recall at {k:3}: {sum(rank <= k for rank in retrieved) / len(questions):.2f}")

# %% [markdown]
# ## Quality and time over k
#
# For every `k` the first `k` of each list are reranked, and we count how often a right answer is
# now first.

# %%
reranker = RNXRerank(model="rnx-mini", top_n=200)
reranker.postprocess_nodes(lists[0], query_str="warming up: opens the model")
depths = [1, 3, 8, 20, 40, len(collection)]
ranks, seconds = {}, {}
for k in depths:
    ranks[k], taken = [], []
    for row, found in zip(questions, lists, strict=True):
        start = time.perf_counter()
        final = reranker.postprocess_nodes(found[:k], query_str=row["query"])
        taken.append(time.perf_counter() - start)
        ranks[k].append(place(row, final, found))
    seconds[k] = median(taken)


def share(ranks, best=1, only=None):
    """How often a right answer is among the best, of all questions or of those marked in `only`."""
    kept = [rank for i, rank in enumerate(ranks) if only is None or only[i]]
    return sum(rank is not None and rank <= best for rank in kept) / len(kept)


# %%
figure, (quality, cost) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
ceiling = [share(retrieved, k) for k in depths]
quality.plot(depths, ceiling, "--", color="#888", label="ceiling: an answer is among the k")
quality.plot(
    depths, [share(ranks[k]) for k in depths], "o-", color="#2f5f8a", label="reranked: first"
)
quality.axhline(share(retrieved), color="#b06a2c", label="retriever: first")
quality.set(
    xscale="log",
    xlabel="k",
    ylabel="share of questions",
    ylim=(0, 1.02),
    xticks=[1, 3, 10, 30, 100],
)
quality.set_xticklabels([1, 3, 10, 30, 100])
quality.legend(frameon=False)
cost.plot(depths, [1000 * seconds[k] for k in depths], "o-", color="#2f5f8a")
cost.set(xlabel="k", ylabel="ms, median, on the machine that ran this", ylim=(0, None))
plt.show()

# %% [markdown]
# Left, three regimes:
#
# * **small k**: the reranker is locked in. It can only permute a handful, and where the retriever
#   was right it has nothing
#   to win and something to lose: below about five it is as likely to *cost* quality;
# * **the middle**: the ceiling rises, answers come within reach, and the reranked curve climbs with
#   it;
# * **large k**: the ceiling still rises, but every further candidate is also one more that may be
#   taken for the answer. The
#   curve flattens, and may turn down. Reading *everything* is not the best a reranker can do.
#
# Right: what that costs. With everything query-free done at index time, a candidate costs about a
# millisecond, and the attention across candidates a little more than that as the list grows. So the
# sensible `k` is where the left curve flattens, 20 to 40 here, and hundreds on a large collection.
#
# ## Two kinds of questions, two stories
#
# Averages hide who gains. Let us part the questions by what answers them.

# %%
pictorial = [
    row["answers"][0].startswith(("photographs", "artworks", "charts", "drawings"))
    for row in questions
]
textual = [not one for one in pictorial]

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
parts = (textual, "answered by a text or a page"), (pictorial, "answered by an image")
for axis, (only, name) in zip(axes, parts, strict=True):
    axis.plot(
        depths, [share(retrieved, k, only) for k in depths], "--", color="#888", label="ceiling"
    )
    axis.plot(
        depths,
        [share(ranks[k], 1, only) for k in depths],
        "o-",
        color="#2f5f8a",
        label="reranked: first",
    )
    axis.axhline(share(retrieved, 1, only), color="#b06a2c", label="retriever: first")
    axis.set(
        title=f"{name} ({sum(only)})",
        xscale="log",
        xlabel="k",
        ylim=(0, 1.02),
        xticks=[1, 3, 10, 30, 100],
    )
    axis.set_xticklabels([1, 3, 10, 30, 100])
axes[0].set_ylabel("share of questions")
axes[1].legend(frameon=False)
plt.show()
for name, only in (("texts and pages", textual), ("images", pictorial)):
    print(
        f"{name}: retriever {share(retrieved, 1, only):.2f}, "
        f"first 40 reranked {share(ranks[40], 1, only):.2f}"
    )

# %% [markdown]
# **Images** are where the second stage earns its keep. An image's cosine and a text's cannot be
# compared, so a retriever merges the kinds by rank and puts images below any text that shares a
# word. Only a model that reads texts and images *in one list* can say that this time the
# photograph is the answer.
#
# **Texts** tell another story, and you should hear it: here the retriever was right almost nine
# times in ten, because these questions share their rare words with the one note that answers them,
# and the reranker wins one and loses one. A strong first stage on an easy collection needs no
# second one. Where the first stage is weak it is another matter: over BM25's top 100 on TREC DL19
# the same model lifts nDCG@10 from .506 to .717 (development split, `python -m benchmarks.quality
# dl19`, 2026-11-23). **Measure on your own questions before you deploy either.**
#
# One that was won, and one that was lost, of the texts:

# %%
pairs = [
    (row, a, b)
    for row, a, b, text in zip(questions, retrieved, ranks[40], textual, strict=True)
    if text
]
won = [row["query"] for row, a, b in pairs if a > 1 and b == 1]
lost = [row["query"] for row, a, b in pairs if a == 1 and b != 1]
print(f"won {len(won)}: {won}\nlost {len(lost)}: {lost}")

# %%
compare(RNXRetriever(collection, top_k=40), RNXRerank(model="rnx-mini", top_n=3), lost[0], n=3)

# %% [markdown]
# ## What would it cost to do without the first stage?
#
# Reading the whole collection for every question is linear in its size. From the slope above:

# %%
slope = (seconds[depths[-1]] - seconds[40]) / (depths[-1] - 40)
print(f"the first 40: {1000 * seconds[40]:.0f} ms a question")
for size in (10_000, 1_000_000):
    print(f"all of {size:,} nodes: about {slope * size:,.0f} s a question, extrapolated")

# %% [markdown]
# That is the whole argument. The vectors make the haystack small; the reader finds the needle.
#
# The paper asks one question more: may both stages share their weights (JOINT), or should they be
# apart (SEP)? `rnx-mini` shares its towers, so that a node is read once for both. `training/` can
# train either (`python -m training.cooperation`); a small table of the two stands in
# `training/LOG.md` and `training/README.md`.

# %%
collection.close()
