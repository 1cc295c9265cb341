"""Teachers by name: a sentence embedder, a cross-encoder, or any ranker. It trains nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import SettingsError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker

# Candidates a window: these models score each candidate alone, so a window may be of any length.
WINDOW = 100_000


class EmbedderTeacher:
    """A sentence-transformers embedder as a ranker.

    A memory is a text's unit vector, a score the cosine with the query's.
    """

    window = WINDOW

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = folder.name
        self.fingerprint = f"embedder {folder.resolve()}"
        self.model = SentenceTransformer(
            str(folder), device=_device(), model_kwargs={"torch_dtype": torch.bfloat16}
        )

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors, [texts, D]."""
        vectors = self.model.encode(
            list(texts), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        return vectors.float().cpu()

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return the vector of every candidate's text.

        Raises:
            SettingsError: a candidate has no text.
        """
        vectors = self.vectors([_text(candidate, self.name) for candidate in candidates])
        return [{"vector": vector.half()} for vector in vectors]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return the cosine of the query and every text, -1 to 1."""
        query_vector = self.vectors([query.text])[0]
        vectors = torch.stack([memory["vector"].float() for memory in memories])
        cosines: list[float] = (vectors @ query_vector).tolist()
        return cosines


class CrossEncoderTeacher:
    """A sentence-transformers cross-encoder as a ranker.

    It reads query and text together, so a memory is the text itself.
    """

    window = WINDOW

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import CrossEncoder

        self.name = folder.name
        self.fingerprint = f"cross-encoder {folder.resolve()}"
        self.model = CrossEncoder(str(folder), device=_device())

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        """Return the bytes of every candidate's text.

        Raises:
            SettingsError: a candidate has no text.
        """
        texts = [_text(candidate, self.name).encode() for candidate in candidates]
        return [{"text": torch.tensor(list(text), dtype=torch.uint8)} for text in texts]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        """Return the model's output for every text, on the model's own scale."""
        texts = [bytes(memory["text"].tolist()).decode() for memory in memories]
        pairs = [(query.text, text) for text in texts]
        scores = self.model.predict(pairs, show_progress_bar=False)
        return [float(score) for score in scores]


def load_teacher(name: str) -> Ranker:
    """Load a folder of a sentence-transformers model, or whatever `load_ranker` knows by the name.

    A folder with `modules.json` is an embedder; one whose config names a sequence classifier is a
    cross-encoder.
    """
    folder = Path(name)
    if (folder / "modules.json").is_file():
        return EmbedderTeacher(folder)
    if _architecture(folder / "config.json").endswith("ForSequenceClassification"):
        return CrossEncoderTeacher(folder)
    return load_ranker(name)


def _architecture(config: Path) -> str:
    """Return the first architecture that a config names; "" where there is none."""
    if not config.is_file():
        return ""
    architectures: list[str] = json.loads(config.read_text()).get("architectures") or [""]
    return architectures[0]


def _text(candidate: Candidate, teacher: str) -> str:
    if not candidate.text:
        raise SettingsError(
            f"candidate {candidate.id!r} has no text and {teacher} reads nothing else; "
            "give a text or a caption."
        )
    return candidate.text


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
