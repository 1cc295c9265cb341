# %% [markdown]
# # Bring your own model
#
# Three places take a model, and each takes yours: the **embedding** of a collection, the
# **ranker**, and a **`/rerank` service** somewhere else. This notebook puts another one into each,
# without a download: what stands in for the real thing is a toy, and the line for the real one is
# beside it.
#
#     pip install "llama-index-rnx[demo,notebooks,serve,vlm]"
#
# > **The one line that changes for a 2B vision-language model on a GPU:** `model =
# "Qwen/Qwen2-VL-2B-Instruct"` in the > section on vision-language models below.

# %%
import warnings
from pathlib import Path

import numpy as np
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import QueryBundle
from PIL import Image

from llama_index_rnx import NodeCollection, Ranker, RNXError, RNXRerank, RNXRetriever, load_ranker
from llama_index_rnx.demo import build_corpus
from llama_index_rnx.ingestion import index_paths
from llama_index_rnx.rankers.vlm import save_tiny
from llama_index_rnx.results import compare
from llama_index_rnx.server import serving

work = Path("work")
build_corpus(work)

# %% [markdown]
# ## An embedding of your own
#
# A collection takes any LlamaIndex `MultiModalEmbedding`: CLIP, Cohere, Voyage, your own. For
# instance
#
# ```python
# from llama_index.embeddings.clip import ClipEmbedding
# collection = NodeCollection("./clip-index", embedding=ClipEmbedding())
# ```
#
# The toy here has two methods that matter. An image is its colours; a text is the colours that it
# names. It is as poor as it sounds, and it shows the contract: **texts and images in one space,
# one vector each**.

# %%
COLOURS = {
    "red": (190, 45, 40), "orange": (225, 130, 40), "yellow": (230, 200, 70),
    "green": (70, 120, 60), "blue": (60, 95, 170),
    "purple": (150, 90, 160), "brown": (110, 75, 45), "black": (20, 20, 20),
    "grey": (128, 128, 128), "white": (240, 240, 235),
}  # fmt: skip


class ColourEmbedding(MultiModalEmbedding):
    """How much of each of ten colours."""

    model_name: str = "colours"

    def _get_text_embedding(self, text):
        words = text.lower().split()
        return [0.05 + sum(word.startswith(name) for word in words) for name in COLOURS]

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    def _get_image_embedding(self, img_file_path):
        pixels = np.asarray(
            Image.open(img_file_path).convert("RGB").resize((24, 24)), float
        ).reshape(-1, 1, 3)
        nearest = ((pixels - np.array(list(COLOURS.values()))) ** 2).sum(2).argmin(1)
        return (0.05 + np.bincount(nearest, minlength=len(COLOURS)) / 60).tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)

    async def _aget_text_embedding(self, text):
        return self._get_text_embedding(text)

    async def _aget_image_embedding(self, img_file_path):
        return self._get_image_embedding(img_file_path)


# %%
folders = [work / "corpus" / name for name in ("artworks", "photographs")]
colours = NodeCollection(":memory:", embedding=ColourEmbedding())
index_paths(colours, folders)
mini = RNXRerank(model="rnx-mini", top_n=5)
question = "a black sky full of white stars"
compare(RNXRetriever(colours, top_k=40), mini, question, n=3)

# %% [markdown]
# Ask for black and white, and you get black and white; that it should be stars, the first stage
# cannot know. The second stage needs nothing of the first one's model: `rnx-mini` makes its own
# memories of whatever comes, at first sight. (So the first answer is slow: the model is opened, and
# forty images are looked at.)
#
# It cannot save what is not there, nor see what it never learned to see. The irises are blue
# flowers, and are not found:

# %%
compare(RNXRetriever(colours, top_k=40), mini, "blue flowers", n=3)

# %% [markdown]
# (`NodeCollection(..., ranker=load_ranker("rnx-mini"))` makes those memories when nodes are added,
# as it does by itself with its own embedding.) An index remembers whose vectors it holds; opened
# with another embedding it refuses, in one line, instead of returning nonsense.
#
# ## A vision-language model, by folder or hub id
#
# `RNXRerank(model=...)` takes checkpoints of the Qwen2-VL, Qwen2.5-VL and Qwen3-VL families. To run
# it here we write a checkpoint of the true class with *tiny random weights*: every step is the real
# one, and the order is worth nothing.

# %%
model = save_tiny(
    work / "tiny-qwen2-vl"
)  # model = "Qwen/Qwen2-VL-2B-Instruct" where a hub and a GPU are at hand
vlm = RNXRerank(model=str(model), top_n=3, max_pixels=100 * 100)
hits = RNXRetriever(colours, top_k=4).retrieve(question)
with warnings.catch_warnings(record=True) as said:
    for hit in vlm.postprocess_nodes(hits, query_str=question):
        print(f"{hit.score:.3f}  {hit.node_id}")
print(f"\nIt warns: {said[0].message}")

# %% [markdown]
# Ask `rnx doctor` before you trust such a model with whole lists. It reads lists forwards,
# backwards and shuffled, and says whether content or position decides. A random model must fail,
# and so does, by the way, a plain instruct model that was never trained for it.

# %%
from llama_index_rnx.batch import diagnose_checkpoint

warnings.simplefilter("ignore", RuntimeWarning)  # it was said above
print(diagnose_checkpoint(str(model)))  # on the command line: rnx doctor --model PATH

# %% [markdown]
# That is why an untrained checkpoint is read *pointwise* by default, each candidate alone with a
# yes or no. To train one on your lists: `python -m training.train_vlm` (LoRA), see
# `training/README.md`; then `RNXRerank(model=..., adapter="my-adapter")`. No quality of a real 2B
# model is claimed here: its GPU table is still owed, as `benchmarks/README.md` says.
#
# Its prompt is yours, too:

# %%
for name, template in vlm.get_prompts().items():
    print(f"{name}:\n{template.get_template()}")

# %% [markdown]
# ## A ranker of your own
#
# Anything with a name, a fingerprint, a window and the two verbs is a `Ranker`. Here is one that
# prefers wide images. Its memories are kept and shared under the fingerprint, so change that
# whenever a memory would look different.

# %%
import torch


class Landscape:
    """Wide images first."""

    name, fingerprint, window = "landscape", "landscape/1", 1_000

    def remember(self, candidates):
        sizes = [
            candidate.image.load().size if candidate.image else (1, 1) for candidate in candidates
        ]
        return [{"shape": torch.tensor(size)} for size in sizes]

    def score(self, query, memories):
        return [float(width / height) for width, height in (memory["shape"] for memory in memories)]


print(isinstance(Landscape(), Ranker))
for hit in RNXRerank(ranker=Landscape(), top_n=3).postprocess_nodes(
    hits, query_bundle=QueryBundle("wide")
):
    print(f"{hit.score:.2f}  {hit.node_id}")

# %% [markdown]
# ## A service
#
# The model may live on another machine. `rnx serve` answers in the shape that Cohere, Jina and vLLM
# share, and `RNXRerank(model="http://...")` asks any of them; texts and images travel along. Here
# both sides are in one process; `serving` is for that, and for tests.

# %%
with serving(load_ranker("rnx-mini")) as url:
    remote = RNXRerank(model=url, top_n=3)
    far = remote.postprocess_nodes(hits, query_str=question)
    near = RNXRerank(model="rnx-mini", top_n=3).postprocess_nodes(hits, query_str=question)
for ours, theirs in zip(near, far, strict=True):
    print(f"here {ours.score:.3f}  there {theirs.score:.3f}  {theirs.node_id}")

# %% [markdown]
# In real life:
#
#     rnx serve --model Qwen/Qwen2-VL-2B-Instruct --port 8787        # on the machine with the GPU
#
# ```python
# RNXRerank(model="http://gpu-box:8787")
# RNXRerank(model="https://api.jina.ai/v1/rerank#jina-reranker-m0")  # the key in RNX_API_KEY
# ```
#
# Images are sent as JPEGs of limited size, so scores may differ in the third digit. And services
# die. You choose what happens then: an error that says so, or the retriever's order:

# %%
import logging

gone = "http://127.0.0.1:9"  # nobody listens there
logging.getLogger("llama_index_rnx").setLevel(logging.ERROR)  # or a warning would stand below
try:
    RNXRerank(model=gone).postprocess_nodes(hits, query_str="flowers")
except RNXError as error:
    print(error)
patient = RNXRerank(model=gone, top_n=3, on_error="keep_order")
print(
    len(patient.postprocess_nodes(hits, query_str="flowers")),
    "in the given order;",
    patient.failures,
    "failure counted",
)

# %%
colours.close()
