"""Vectors on both sides of a comparison: as they are read online, and as batch makes them of the text that it finds.

The batch side embeds the text anew. Where the model is not on this machine, it takes what the snapshot's own file in
the lake has for that text, which batch wrote before anything was sealed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from antiphon.core.errors import SetupError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.embedding.space_cache import VectorSpaces
from antiphon.features.embedding.vector_reader import VectorReader
from antiphon.features.embedding.vectors import Embedders, embedded, has_vector, text_hash

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

ABSENT = "its model is not on this machine, and its text is newer than the snapshot"

Vector = tuple[float, ...]


@dataclass
class SkewVectors:
    """Both sides, of one scope."""

    reader: VectorReader
    spaces: VectorSpaces
    embedders: Embedders
    _made: dict[tuple[EmbeddingModel, bytes], Vector | None] = field(default_factory=dict, init=False)

    def batch(self, snapshot: str, feature: str, model: EmbeddingModel, text: object) -> Vector | str | None:
        """The vector of a text; ``None`` of none, and in words why it cannot be made. Raises ``CorruptionError`` when
        the snapshot's file is gone or changed, ``EngineError`` when the model made no vector."""
        if not isinstance(text, str) or not has_vector(text):
            return None
        hashed = text_hash(text)
        if (model, hashed) not in self._made:
            found: NDArray[numpy.float32] | None
            try:
                found = embedded(self.embedders.get(model), [text])[0][0]
            except SetupError:
                found = self.spaces.open(snapshot, feature).vector_of_text(hashed)
                if found is None:
                    return ABSENT
            self._made[model, hashed] = tuple(found.tolist())
        return self._made[model, hashed]

    def forget(self) -> None:
        """Let go of what was made for one comparison."""
        self._made = {}


def shown(value: Vector) -> str:
    """A vector in a report: how many numbers, and the beginning of the hash of their bytes."""
    import numpy

    digest = hashlib.sha256(numpy.array(value, dtype="<f4").tobytes()).hexdigest()
    return f"vector of {len(value)} numbers {digest[:16]}"
