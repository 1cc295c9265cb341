# %% [markdown]
# # Train on your data
#
# Two things, both short. First the **curriculum** behind a multimodal ranker, stage by stage on a
# small made-up set, with a plot of what each stage gives *and takes*. Then **your own lists**: from
# questions and an index to a tuned ranker, with the one number that tells you whether it was worth
# it.
#
# Training lives in the checkout, beside the package, not in it:
#
#     git clone ... && pip install -e ".[demo,notebooks,train]" -c constraints.txt
#
# > **The one line that changes for a 2B vision-language model on a GPU:** add > `"--base",
# "Qwen/Qwen2-VL-2B-Instruct"` to the arguments of `train_ranker.main` at the end (LoRA; it needs
# the extra `vlm`).

# %%
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from IPython.display import SVG

from llama_index_rnx import NodeCollection, RNXRerank, RNXRetriever
from llama_index_rnx.demo import QUESTIONS, build_corpus
from llama_index_rnx.ingestion import index_paths
from training import make_lists, train_ranker
from training.evaluation import draw, rows_of, table
from training.stages import SMOKE, SyntheticData
from training.stages import run_stages as run

torch.set_num_threads(1)  # small matrices: more threads wait for each other
work = Path("work")

# %% [markdown]
# ## The idea of a curriculum
#
# Texts have graded data, images have captions, and mixed lists have hardly anything. So a ranker
# learns in that order (Rank-Nexus, [arXiv 2601.20623](https://arxiv.org/abs/2601.20623)): what
# relevance *is* from texts, then what images show, graded through their captions by the model
# that has just learned it from texts, and at last how both compare in one list.
#
# A stage is data, not code. These four are run in a minute by `make smoke`; we take them at half
# their length.

# %%
stages = [
    replace(stage, steps=stage.steps // 2, evaluate_every=stage.steps // 2) for stage in SMOKE
]
for stage in stages:
    about = f"{stage.negatives} negatives, graded by {stage.teacher}"
    print(f"{stage.name:12} {stage.steps:3} steps  {stage.loss:10}  {about}")

# %% [markdown]
# ## Run it
#
# `SyntheticData` makes up questions and answers that share *no* words (which belong together is
# written in the grades alone), traps that repeat the question's words, and images of coloured
# shapes. Its ranker has random towers and is so small that a CPU trains it while you read this.
# Kill it and call it again: it goes on where it was, to the same weights.

# %%
# %%capture
learner = run(stages, SyntheticData(work / "curriculum" / "data", 0), work / "curriculum", seed=0)

# %%
rows = rows_of(work / "curriculum" / "results.jsonl")
draw(rows, work / "curriculum" / "progress.svg")
SVG(filename=work / "curriculum" / "progress.svg")

# %% [markdown]
# Three development sets, before training and after each stage. Read it from left to right:
#
# * the **retriever** lifts everything, as it should;
# * **text lists** make texts much better, and mixed lists *worse*: scores of texts have moved,
#   those of images have not, and
#   the two no longer compare;
# * **image lists** are too short here to show a gain;
# * **joint lists** repair the comparison, and pay for it with some of the texts' gain.
#
# This see-saw is no accident of the toy. Training the attention across candidates of the real
# `rnx-mini` on joint lists gained on those and cost SciFact .819 -> .741 (held-out claims, nDCG@10;
# `training/LOG.md`, 2026-11-22), so the joint stage now trains three numbers and nothing else.
# Watch *all* your sets after *every* stage; a mean would have hidden it.

# %%
for line in table(rows):
    name, figures = line.split(": ", 1)
    print(f"{name.split(' / ')[-1]:12} {figures.split('  loss')[0]}")

# %% [markdown]
# Whether a stage is needed at all is asked by leaving it out: `python -m training.curriculum --data
# generated --work w --without each`.
#
# ## Your own lists
#
# Now what you came for. The order of things is always the same:
#
# 1. **questions** with the names of the documents that answer them;
# 2. **lists**: what your retriever finds for each. Its mistakes are the wrong candidates worth
#    learning from;
# 3. **training**, which holds a fifth of the lists out to measure and a fifth of the rest to choose
#    the weights by.
#
# Here: the demo's corpus and its questions, half of which are answered by an image.

# %%
build_corpus(work)
collection = NodeCollection(work / "index")
index_paths(collection, [work / "corpus"])
collection.close()  # the next step opens it itself
print((work / QUESTIONS).read_text().splitlines()[45])

# %%
lists = f"{work}/lists.jsonl"
make_lists.main(
    ["--from", f"{work}/index", "--queries", f"{work / QUESTIONS}", "--to", lists, "-k", "12"]
)

# %% [markdown]
# That line says how many answers the retriever found at all among its first twelve. What it missed,
# no reranker can learn to put on top, and lists without a right answer are dropped below: raise
# `-k` before you train for longer.
#
# Training starts from `rnx-mini`. What the ranker *remembers* of a node is not trained, so an index
# made before stays good.

# %%
with redirect_stdout(StringIO()) as log:
    train_ranker.main(
        ["--lists", lists, "--work", f"{work}/tuning", "--to", f"{work}/my-ranker", "--steps", "24"]
    )
print(
    "\n".join(
        line
        for line in log.getvalue().splitlines()
        if "texts," not in line and "images," not in line
    )
)

# %% [markdown]
# The lines with `==` are the selection lists: they choose the weights, so whatever they gain proves
# nothing. The line that counts is the one before the last. It is measured on lists that neither
# trained nor chose anything, and it comes with an interval: **if that holds zero, it is no gain**.
# In the run that is kept here there was nothing left to learn: the selection lists began at .96, no
# step was better, and the weights stayed as they were, so `my-ranker` *is* `rnx-mini`. That is what
# a tuner should do with three dozen easy lists. Fifty to train on are a start, a few hundred change
# something, and most where the untuned model is often wrong.
#
# ## Use it

# %%
collection = NodeCollection(work / "index")
question = "a rocket ready for launch"
hits = RNXRetriever(collection, top_k=12).retrieve(question)
for model in ("rnx-mini", f"{work}/my-ranker"):
    best = RNXRerank(model=model, top_n=3).postprocess_nodes(hits, query_str=question)
    print(f"{model:16}", "  ".join(f"{hit.node_id} {hit.score:.3f}" for hit in best))
collection.close()

# %% [markdown]
# (This question was among the lists, so it shows that the folder loads and answers, and no more.)
#
# The folder also says where its weights come from, `training.json`: seed, commit, settings,
# machine, and the sha256 of every file that was read. `training/README.md` goes on: grades from
# other rankers where nobody has graded, choosing the lists worth reading, a vision-language model.
