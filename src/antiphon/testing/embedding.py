"""A tiny embedding model: words are hashed into a few dimensions, so texts that share words are near each other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy

from antiphon.core.errors import SetupError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.embedding.vectors import EmbeddingResult

_WORD = re.compile(r"\w+")


def hashed_words(name: str = "hashed-words", dimensions: int = 64, tokens: int = 32) -> EmbeddingModel:
    """The description of a :class:`HashedWords`; another name is another model."""
    return EmbeddingModel(name, hashlib.sha256(name.encode()).hexdigest(), dimensions, tokens)


class HashedWords:
    """Each word adds a direction of its own, drawn from its hash. ``embedded`` counts the texts it was given."""

    def __init__(self, model: EmbeddingModel | None = None) -> None:
        self.model = model or hashed_words()
        self.embedded = 0

    def embed(self, texts: Sequence[str]) -> EmbeddingResult:
        """See :class:`Embedder`."""
        self.embedded += len(texts)
        words = [_WORD.findall(text.lower()) or [text] for text in texts]
        vectors = numpy.array([self._vector(listed[: self.model.tokens]) for listed in words], dtype=numpy.float32)
        return EmbeddingResult(vectors, tuple(len(listed) > self.model.tokens for listed in words))

    def _vector(self, words: Sequence[str]) -> numpy.ndarray:
        total = numpy.zeros(self.model.dimensions)
        for word in words:
            seed = int.from_bytes(hashlib.sha256(f"{self.model.name} {word}".encode()).digest()[:8], "big")
            total += numpy.random.default_rng(seed).normal(size=self.model.dimensions)
        return total


class GivenEmbedders:
    """Embedders by model, as they are given."""

    def __init__(self, *embedders: HashedWords) -> None:
        self._embedders = {embedder.model: embedder for embedder in embedders}

    def get(self, model: EmbeddingModel) -> HashedWords:
        """See :class:`Embedders`."""
        try:
            return self._embedders[model]
        except KeyError:
            raise SetupError(f"The model {model} is not here.", where="embedding") from None

    def close(self) -> None:
        """There is nothing to close."""
