"""Teachers: a sentence embedder, a cross-encoder, or any ranker, by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from llama_index_rnx.candidates import Candidate, Query
from llama_index_rnx.errors import RNXError
from llama_index_rnx.memory import Memory
from llama_index_rnx.rankers import load_ranker
from llama_index_rnx.ranking import Ranker

AT_ONCE = 100_000  # candidates a window: an embedder compares nothing between them


class EmbedderTeacher:
    """A sentence-transformers embedder as a ranker: a memory is a text's unit vector, a score the
    cosine.
    """

    window = AT_ONCE

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self.name, self.fingerprint = folder.name, f"embedder {folder.resolve()}"
        self.model = SentenceTransformer(
            str(folder), device=_device(), model_kwargs={"torch_dtype": torch.bfloat16}
        )

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors, [texts, D]."""
        found = self.model.encode(
            list(texts), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        return found.float().cpu()

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return [
            {"vector": vector.half()}
            for vector in self.vectors([_text(one, self.name) for one in candidates])
        ]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        asked = self.vectors([query.text])[0]
        found: list[float] = (
            torch.stack([memory["vector"].float() for memory in memories]) @ asked
        ).tolist()
        return found


class CrossEncoderTeacher:
    """A sentence-transformers cross-encoder as a ranker. It reads query and text together, so a
    memory is the text.
    """

    window = AT_ONCE

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import CrossEncoder

        self.name, self.fingerprint = folder.name, f"cross-encoder {folder.resolve()}"
        self.model = CrossEncoder(str(folder), device=_device())

    def remember(self, candidates: Sequence[Candidate]) -> list[Memory]:
        return [
            {"text": torch.tensor(list(_text(one, self.name).encode()), dtype=torch.uint8)}
            for one in candidates
        ]

    def score(self, query: Query, memories: Sequence[Memory]) -> list[float]:
        texts = [bytes(memory["text"].tolist()).decode() for memory in memories]
        found = self.model.predict([(query.text, text) for text in texts], show_progress_bar=False)
        return [float(score) for score in found]


def load_teacher(name: str) -> Ranker:
    """A folder of a sentence-transformers model, or whatever `load_ranker` knows."""
    folder = Path(name)
    if (folder / "modules.json").is_file():
        return EmbedderTeacher(folder)
    config = folder / "config.json"
    made_of = (
        json.loads(config.read_text()).get("architectures") or [""] if config.is_file() else [""]
    )
    return (
        CrossEncoderTeacher(folder)
        if made_of[0].endswith("ForSequenceClassification")
        else load_ranker(name)
    )


def _text(candidate: Candidate, teacher: str) -> str:
    if not candidate.text:
        raise RNXError(
            f"candidate {candidate.id!r} has no text and {teacher} reads nothing else; give a text or a caption."
        )
    return candidate.text


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
