"""The embedding models of this machine: each is fetched and opened when it is first needed, and once in a process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from antiphon.core.errors import SetupError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.engine import weights
from antiphon.engine.backends.llamacpp.encoder import LlamaCppEmbedding
from antiphon.features.embedding.vectors import Embedder, EmbeddingResult

logger = logging.getLogger(__name__)


class LocalEmbedders:
    """Models of the engine's cache, a folder, which is the user's own by default. Safe to share between threads."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._opened: dict[EmbeddingModel, _LocalEmbedder] = {}

    def get(self, model: EmbeddingModel) -> Embedder:
        """The embedder of a model; raises ``SetupError`` when it is not known, cannot be fetched, or has other weights
        than the definition says."""
        with self._lock:
            found = self._opened.get(model)
            if found is None:
                found = self._opened[model] = self._open(model)
            return found

    def _open(self, model: EmbeddingModel) -> _LocalEmbedder:
        package = weights.REGISTRY.get(model.name)
        if package is None or package.encoder is None:
            known = ", ".join(sorted(name for name, one in weights.REGISTRY.items() if one.encoder is not None))
            raise SetupError(
                f"The embedding model {model.name!r} is not known here.", where="model", next_step=f"Known: {known}."
            )
        if package.encoder.weights_sha256 != model.sha256:
            raise SetupError(
                f"{model.name} has the weights {package.encoder.weights_sha256[:8]} here, and the definition says "
                f"{model.sha256[:8]}.",
                where="model",
                next_step="Use the version of Antiphon that the view was defined with, or apply the definition anew.",
            )
        if not weights.is_cached(model.name, self._cache):
            logger.info("Fetching the embedding model %s (%d MB).", model.name, package.download_size // 1_000_000)
            weights.pull(model.name, self._cache)
        opened = LlamaCppEmbedding(weights.resolve(model.name, self._cache), tokens=model.tokens)
        if opened.dimensions != model.dimensions:
            opened.close()
            raise SetupError(
                f"{model.name} makes vectors of {opened.dimensions} numbers, and the definition says "
                f"{model.dimensions}.",
                where="model",
            )
        return _LocalEmbedder(model, opened)

    def close(self) -> None:
        """Close what was opened."""
        with self._lock:
            for embedder in self._opened.values():
                embedder.opened.close()
            self._opened.clear()


@dataclass(frozen=True)
class _LocalEmbedder:
    model: EmbeddingModel
    opened: LlamaCppEmbedding

    def embed(self, texts: Sequence[str]) -> EmbeddingResult:
        return EmbeddingResult(*self.opened.embed(texts))
