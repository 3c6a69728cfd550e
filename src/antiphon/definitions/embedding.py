"""Embedding models by name: what turns a text into a vector, pinned by the SHA-256 of its weights.

Invariant: a vector is a function of (model, text) alone. The model is part of a feature's definition version, so a view
whose model changes is another version, with snapshots and an index of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from antiphon.core.errors import InvalidInputError

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
WIDEST = 8_192
"""Most numbers of a vector."""


class EmbeddingModel(msgspec.Struct, frozen=True):
    """A model that makes vectors of texts.

    Attributes:
        name: how it is called.
        sha256: of its weights as they are published, in hex.
        dimensions: numbers of a vector.
        tokens: longest text, in tokens with those that the model adds; of a longer one the beginning is embedded.
    """

    name: str
    sha256: str
    dimensions: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.name} ({self.sha256[:8]})"


MODELS: dict[str, EmbeddingModel] = {
    "minilm-l6-v2": EmbeddingModel(
        name="minilm-l6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        dimensions=384,
        tokens=256,
    ),
}
"""Models that a definition may name."""


def named_model(model: object) -> EmbeddingModel:
    """The model of a name, or a model as it is; raises ``InvalidInputError`` when it is unknown, or its description
    cannot be."""
    if isinstance(model, EmbeddingModel):
        for mistake in _mistakes(model):
            raise InvalidInputError(f"model: {mistake}")
        return model
    found = MODELS.get(model) if isinstance(model, str) else None
    if found is None:
        raise InvalidInputError(
            f"model {model!r} is unknown; known: {', '.join(sorted(MODELS))}, or an EmbeddingModel."
        )
    return found


def _mistakes(model: EmbeddingModel) -> Iterator[str]:
    if not _NAME.fullmatch(model.name):
        yield f"{model.name!r} is no name; lower-case letters, digits, dots and dashes make one."
    if not _SHA256.fullmatch(model.sha256):
        yield f"the sha256 of {model.name} must be 64 hex digits."
    if not 1 <= model.dimensions <= WIDEST:
        yield f"{model.name} must have 1 to {WIDEST} dimensions, not {model.dimensions}."
    if not 3 <= model.tokens <= 131_072:
        yield f"{model.name} must take 3 to 131072 tokens, not {model.tokens}."
