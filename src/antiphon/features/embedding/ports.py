"""What this folder needs from others, something that embeds texts, and what a lookup needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from antiphon.definitions.embedding import EmbeddingModel

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class Embedded(msgspec.Struct, frozen=True):
    """What an embedder made of texts.

    Attributes:
        vectors: float32, one row a text; of any length, and in the order of the texts.
        truncated: for each text whether only its beginning was read.
    """

    vectors: NDArray[numpy.float32]
    truncated: tuple[bool, ...]


class Embedder(Protocol):
    """An embedding model that is ready. Safe to share between threads.

    A text gets the same bytes whatever texts it is embedded with.
    """

    @property
    def model(self) -> EmbeddingModel:
        """Which model it is."""
        ...

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Vectors of texts, none of which is empty; raises ``EngineError``."""
        ...


class Embedders(Protocol):
    """The models that are on this machine."""

    def get(self, model: EmbeddingModel) -> Embedder:
        """The embedder of a model; raises ``SetupError`` when it is not here or of other weights."""
        ...


class VectorSource(Protocol):
    """Vectors of texts that were read online."""

    def vectors(
        self, snapshot: str, feature: str, model: EmbeddingModel, texts: Sequence[str | None]
    ) -> Sequence[NDArray[numpy.float32] | None]:
        """The vector of each text, ``None`` where there is none; raises ``EmbeddingModelMismatchError`` and
        ``FeatureUnavailableError``."""
        ...
