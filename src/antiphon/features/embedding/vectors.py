"""Vectors as this project keeps them: float32, of length 1, each with the model that made it.

Invariants: two vectors are compared only when the same model made them, weights included; a vector is a pure function
of (model, text), so one that is known need not be made again, and where it is made does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from antiphon.core.errors import EmbeddingModelMismatchError, EngineError, InvalidInputError
from antiphon.definitions.embedding import EmbeddingModel

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class EmbeddingResult(msgspec.Struct, frozen=True):
    """Vectors of a batch of texts, float32, one row a text in their order, of any length; and for each text whether
    only its beginning was read."""

    vectors: NDArray[numpy.float32]
    truncated: tuple[bool, ...]


class Embedder(Protocol):
    """A loaded embedding model. Safe to share between threads. Implemented above, by ``services.features.embedders``.

    A text gets the same bytes whatever texts it is embedded with.
    """

    @property
    def model(self) -> EmbeddingModel:
        """The model."""
        ...

    def embed(self, texts: Sequence[str]) -> EmbeddingResult:
        """Vectors of texts, none of which is empty; raises ``EngineError``."""
        ...


class Embedders(Protocol):
    """Embedding models on this machine. Implemented above, by ``services.features.embedders``."""

    def get(self, model: EmbeddingModel) -> Embedder:
        """The embedder of a model; raises ``SetupError`` when it is not here or of other weights."""
        ...


_BATCH = 256


def text_hash(text: str) -> bytes:
    """SHA-256 of a text, under which its vector is remembered."""
    return hashlib.sha256(text.encode()).digest()


def has_vector(text: object) -> bool:
    """Tell whether a feature's text has a vector: an absent or a blank one has none."""
    return isinstance(text, str) and bool(text.strip())


def require_same(model: EmbeddingModel, other: EmbeddingModel, where: str) -> None:
    """Refuse to let vectors of two models meet; raises ``EmbeddingModelMismatchError`` when they are two."""
    if model != other:
        raise EmbeddingModelMismatchError(
            f"Vectors of {other} cannot be compared with those of {model}.",
            where=where,
            next_step=f"Embed with {model.name}, or declare the feature with the other model and refresh it.",
        )


def unit(vector: Sequence[float] | NDArray[Any], model: EmbeddingModel, where: str) -> NDArray[numpy.float32]:
    """A caller's vector with length 1; raises ``InvalidInputError`` when it is of another dimension, or zero, or has a
    NaN or an infinity in it."""
    import numpy

    try:
        given = numpy.asarray(vector, dtype=numpy.float64)
    except (TypeError, ValueError):
        raise InvalidInputError("A vector is a list of numbers.", where=where) from None
    if given.shape != (model.dimensions,):
        found = "×".join(str(size) for size in given.shape) or "no"
        raise InvalidInputError(f"A vector of {model} has {model.dimensions} numbers, not {found}.", where=where)
    made: NDArray[numpy.float32] = _units(given[None], where, InvalidInputError)[0]
    return made


def embedded(
    embedder: Embedder, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[numpy.float32], list[bool]]:
    """Vectors of texts with length 1, and whether each text was cut; ``progress`` is given the number of texts done and
    that of all. Raises ``EngineError`` when the model gave something else than one finite vector a text."""
    import numpy

    model = embedder.model
    vectors = numpy.empty((len(texts), model.dimensions), dtype=numpy.float32)
    truncated: list[bool] = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        if progress is not None:
            progress(start, len(texts))
        made = embedder.embed(batch)
        if made.vectors.shape != (len(batch), model.dimensions) or len(made.truncated) != len(batch):
            raise EngineError(
                f"{model} made {made.vectors.shape} numbers of {len(batch)} texts instead of "
                f"{(len(batch), model.dimensions)}.",
                where="embedding",
                next_step="Its definition and its weights do not belong together.",
            )
        vectors[start : start + len(batch)] = _units(made.vectors.astype(numpy.float64), str(model), EngineError)
        truncated += made.truncated
    return vectors, truncated


def required_text(text: str | None, where: str) -> str:
    """Check the text of a query; raises ``InvalidInputError`` when it is blank, or no Unicode text."""
    if text is None or not has_vector(text):
        raise InvalidInputError("An empty text has no neighbors.", where=where, next_step="Write what to look for.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("The text is no Unicode text.", where=where) from None
    return text


def _units(
    vectors: NDArray[numpy.float64], where: str, error: type[InvalidInputError | EngineError]
) -> NDArray[numpy.float32]:
    import numpy

    # In float64 and with a sum in a fixed order, so that a row's bytes do not depend on its neighbors.
    lengths = numpy.sqrt(numpy.array([float((row * row).sum()) for row in vectors]))
    if not numpy.isfinite(lengths).all() or (lengths == 0).any():
        raise error("A vector has a NaN or an infinity in it, or is zero.", where=where)
    units: NDArray[numpy.float32] = (vectors / lengths[:, None]).astype(numpy.float32)
    return units
