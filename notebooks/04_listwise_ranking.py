# %% [markdown]
# # Listwise ranking: windows, order bias, scores
#
# A listwise ranker reads candidates *together*. That is its strength, since "best" is a comparison,
# and it brings three questions with it that a pointwise ranker never has: how many candidates fit
# in one reading (a **window**), whether the order they are listed in sways the result (**order
# bias**), and what a **score** means that depends on its neighbours.
#
# We answer each by experiment, with the embedded `rnx-mini` and with toy rankers that are small
# enough to see through.
#
#     pip install "llama-index-rnx[demo,notebooks,vlm]"
#
# > **The one line that changes for a 2B vision-language model on a GPU:** >
# `RNXRerank(model="Qwen/Qwen2-VL-2B-Instruct", top_n=30)` in place of `RNXRerank(model="rnx-mini",
# top_n=30)`. Ask > `rnx doctor --model ...` first whether it may read whole lists; you will see
# below why.

# %%
import json
import random
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.demo import QUESTIONS, build_corpus
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.rankers.vlm import kendall_tau
from llama_index_rnx.ranking import Calibration, parallel_windows, run_plan, sliding_windows
from llama_index_rnx.results import hits_of

# %config InlineBackend.figure_formats = ["svg"]
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}

# %% [markdown]
# ## A ranker is two verbs
#
# `remember` sees candidates and no query; what it returns is kept for good. `score` sees a query
# and memories, all of one window at once, and gives each a number. This toy one knows the true
# worth of every candidate, which is its text:

# %%


class Oracle:
    """Scores a candidate by the number that it is."""

    name, fingerprint, window = "oracle", "oracle/1", 20

    def __init__(self):
        self.reads = []

    def remember(self, candidates):
        return [{"worth": torch.tensor(float(candidate.text))} for candidate in candidates]

    def score(self, query, memories):
        self.reads.append(len(memories))
        return [float(memory["worth"]) for memory in memories]


numbers = random.Random(0).sample(range(100), 100)
candidates = [Candidate(id=str(number), text=str(number)) for number in numbers]

# %% [markdown]
# ## When the list is longer than the window
#
# A hundred candidates, twenty at a time. Two ways through:
#
# * **sliding**: from the tail to the head, each window overlapping half of the one before. The best
#   of the tail is carried
#   up like a bubble. Nine readings, one after the other;
# * **parallel**: deal the list out into five windows, read them side by side, send the best of each
#   into a final. Six
#   readings, but only *two steps*: on a GPU the five run at once.
#
# Both are pure functions that ask for windows and know no model, so we can watch what they read.

# %%
oracle = Oracle()
memories = oracle.remember(candidates)


def watched(plan):
    """The order, and every window that was read."""
    seen = []

    def read(window):
        seen.append(window)
        return oracle.score(Query(text="which is the greatest?"), [memories[i] for i in window])

    return run_plan(plan(100, 20, 10), read), seen


figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharex=True)
for axis, plan in zip(axes, (sliding_windows, parallel_windows), strict=True):
    ranking, seen = watched(plan)
    for row, window in enumerate(seen):
        axis.scatter(window, [row + 1] * len(window), s=7, color="#2f5f8a")
    best = [int(candidates[i].text) for i in ranking.order[:10]]
    right = sum(number in range(90, 100) for number in best)
    axis.set(
        title=f"{plan.__name__}: {len(seen)} readings, {right} of the true best ten among its ten"
    )
    axis.set(xlabel="place in the given list", ylabel="reading", yticks=range(1, len(seen) + 1))
    axis.invert_yaxis()
plt.show()

# %% [markdown]
# The left image is a staircase: each reading waits for the one before. On the right the first
# five wait for nothing. Note what each guarantees: sliding with half-window steps certainly finds
# the best *ten* if the scores are consistent; `parallel_windows` sends four of every window on, so
# it may drop a fifth good one that was dealt to a strong group. That is the price of two steps
# instead of nine.
#
# `rnx-mini` reads 128 at once, so this hardly concerns it. Held to windows of 20 over BM25's top
# 100 of TREC DL19 it has nDCG@10 .7115 sliding, .7120 parallel, .7169 reading the list whole
# (development split, `python -m benchmarks.quality dl19 --window 20`, 2026-11-23): little is lost
# either way.
#
# In a query engine: `RNXRerank(model=..., window=20, stride=10, windows="parallel")`.
#
# ## Order bias
#
# A language model that is asked "which of A, B, C ... answers best?" has likes and dislikes among
# *letters*. Here is the oracle again with such a prejudice: whatever stands early in the prompt
# gets a bonus.

# %%


class Prejudiced(Oracle):
    """Its scores are the truth (spread 1) and a bonus for the slot (spread 2)."""

    name, fingerprint = "prejudiced", "prejudiced/1"

    def score(self, query, memories):
        bonus = torch.linspace(3.5, -3.5, len(memories))
        truth = (torch.stack([memory["worth"] for memory in memories]) - 50) / 30
        return (truth + bonus).tolist()


prejudiced = Prejudiced()
list_of_10 = candidates[:10]
truth = torch.tensor([float(candidate.text) for candidate in list_of_10])


def read_in(order, ranker, calibration=None):
    """The scores of the ten, read in some order, given back by candidate."""
    raw = torch.tensor(
        ranker.score(Query(text="?"), ranker.remember([list_of_10[i] for i in order]))
    )
    raw = raw if calibration is None else calibration.logits(raw)
    return torch.empty(len(order), dtype=raw.dtype).index_copy(0, torch.tensor(order), raw)


forward, backward = list(range(10)), list(range(9, -1, -1))
there, back = read_in(forward, prejudiced), read_in(backward, prejudiced)
print(
    f"a list against its reverse: {kendall_tau(there, back):+.2f}   "
    "(1: only content counts, -1: only positions do)"
)
print(f"against the truth:          {kendall_tau(there, truth):+.2f}")

# %% [markdown]
# Turn the list round, and the order turns round with it. This is no caricature: a 1.5B instruct
# model that was never trained for it, read by labels, agrees with its own reverse by -.47
# (docstring of `load_vlm`); with its prejudice taken away, what was left ranked worse than BM25 on
# TREC DL19 (.4231 against .5058, `benchmarks.hybrid`, `training/LOG.md`, 2026-11-23). Untrained
# label ranking can look fine merely because the list came in a good order.
#
# ### How it is removed
#
# Shuffle. Over many shuffles every candidate has stood in every slot, so whatever is left **of a
# slot** is prejudice. That mean is the slot's bias, and `Calibration` subtracts it, here and on
# every later list.

# %%
dice = random.Random(1)
shuffles = [dice.sample(range(10), 10) for _ in range(40)]
by_slot = torch.stack(
    [read_in(order, prejudiced)[torch.tensor(order)] for order in shuffles]
)  # [shuffle, slot]
bias = (by_slot - by_slot.mean(1, keepdim=True)).mean(0)
calibration = Calibration(slot_bias=[bias.tolist()])

there, back = read_in(forward, prejudiced, calibration), read_in(backward, prejudiced, calibration)
print("fitted bias of the slots:", " ".join(f"{value:+.1f}" for value in bias))
print(f"a list against its reverse: {kendall_tau(there, back):+.2f}")
print(f"against the truth:          {kendall_tau(there, truth):+.2f}")

# %% [markdown]
# For a vision-language model `rnx calibrate lists.jsonl --model ./my-vlm` does this on your lists,
# one row of biases for each length of list, and writes it beside the checkpoint. Where it is not
# enough, `both_orders=True` reads the list twice.
#
# A better cure is a model that *cannot* see slots. In `rnx-mini` candidates attend to one another
# without positions, so there is no "first". Let us not believe that but try it, on a real retrieved
# list:

# %%
work = Path("work")
build_corpus(work)
collection = NodeCollection(work / "index")
index_paths(collection, [work / "corpus"])
retriever = RNXRetriever(collection, top_k=30)
reranker = RNXRerank(model="rnx-mini", top_n=30)

question = "is our tap water soft or hard"
hits = retriever.retrieve(question)
given = [hit.node_id for hit in reranker.postprocess_nodes(hits, query_str=question)]
for seed in range(3):
    mixed = random.Random(seed).sample(hits, len(hits))
    again = [hit.node_id for hit in reranker.postprocess_nodes(mixed, query_str=question)]
    print("shuffled list, same order out:", again == given)

# %% [markdown]
# ## Do the neighbours matter?
#
# Listwise means that a score may depend on the company. Remove the best candidate, and see what the
# others get:

# %%
whole = reranker.postprocess_nodes(hits, query_str=question)
rest = reranker.postprocess_nodes(
    [hit for hit in hits if hit.node_id != whole[0].node_id], query_str=question
)
alone = {hit.node_id: hit.score for hit in rest}
for hit in whole[:5]:
    print(f"{hit.node_id:38} {hit.score:.3f} -> {alone.get(hit.node_id, float('nan')):.3f}")

# %% [markdown]
# Hardly, with this model: `rnx-mini` first judges each candidate against the query, and attention
# across the list is a correction on top. So its scores compare roughly between lists, too. Of a
# model that is read by labels they do not: there a score is what is left of one cake, and a
# candidate's share grows when a rival leaves.
#
# ## What `min_score` can and cannot do
#
# `min_score` leaves out what scores less. To choose one, plot the scores of right and wrong
# candidates over questions of your own. Here are every fifth of the demo's.

# %%
rows = [json.loads(line) for line in (work / QUESTIONS).read_text().splitlines()][::5]
right, wrong = [], []
for row in rows:
    found = retriever.retrieve(row["query"])
    final = hits_of(reranker.postprocess_nodes(found, query_str=row["query"]), found)
    right += [hit.score for hit in final if hit.docid in row["answers"]]
    wrong += [hit.score for hit in final if hit.docid not in row["answers"]]

figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
bins = torch.logspace(-4, 0, 33).tolist()
axis.hist(
    wrong, bins, weights=[1 / len(wrong)] * len(wrong), color="#bbb", label=f"wrong ({len(wrong)})"
)
axis.hist(
    right,
    bins,
    weights=[1 / len(right)] * len(right),
    color="#2b7d5b",
    alpha=0.7,
    label=f"right ({len(right)})",
)
axis.set(xscale="log", xlabel="score", ylabel="share")
axis.legend(frameon=False)
plt.show()
for least in (0.01, 0.1, 0.5):
    kept = sum(score >= least for score in right), sum(score >= least for score in wrong)
    print(
        f"min_score={least}: keeps {kept[0]} of {len(right)} right "
        f"and {kept[1]} of {len(wrong)} wrong candidates"
    )

# %% [markdown]
# The two hills overlap. A high threshold gives a clean context and loses answers, above all
# images, whose scores are low for all that they are first in their list; a low one still throws
# out most of the noise. **Order is what a listwise ranker is good at; take `top_n` from the order,
# and use `min_score` only to keep the hopeless away.**
#
# If you need probabilities, grade some lists: `rnx calibrate` fits a temperature and an offset to
# them (for models that are read by labels).

# %%
collection.close()
