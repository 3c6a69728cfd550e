"""The vector spaces that a process holds, and vectors of texts read online: known ones from the snapshot, others made.

Invariant: the vector of a text is the same whether it was found in the snapshot or made here, and never another
model's: a process without the model answers for known texts and says so for others.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from antiphon.core.errors import AntiphonError, FeatureUnavailableError, SetupError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.embedding.index import NeighborIndex
from antiphon.features.embedding.snapshot_embedding import write_index
from antiphon.features.embedding.space import VectorSpace, checked_content
from antiphon.features.embedding.vectors import Embedders, embedded, has_vector, require_same, text_hash

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_log = logging.getLogger("antiphon.features")
_HELD = 4
_REMEMBERED = 1_024


class VectorSpaces:
    """Spaces of one scope's snapshots, each read from the lake once while it is held. Safe to share between threads."""

    def __init__(self, catalog: FeatureCatalog, embedders: Embedders) -> None:
        self._catalog = catalog
        self._embedders = embedders
        self._lock = threading.Lock()
        self._spaces: OrderedDict[tuple[str, str], VectorSpace] = OrderedDict()
        self._made: OrderedDict[tuple[EmbeddingModel, bytes], NDArray[numpy.float32]] = OrderedDict()
        self._mending: list[threading.Thread] = []

    def open(self, snapshot: str, feature: str) -> VectorSpace:
        """The vectors of a feature in a snapshot; raises ``NotFoundError`` when there is no such snapshot, or it has no
        such vectors, ``CorruptionError`` when its values file is gone or changed."""
        with self._lock:
            found = self._spaces.get((snapshot, feature))
            if found is None:
                manifest = self._catalog.snapshots.get(self._catalog.scope, snapshot)
                found = VectorSpace.read(self._catalog.lake, manifest, feature)
                if not found.open_index(self._catalog.lake) and found.facts.index is not None:
                    self._mend(found)
                self._spaces[snapshot, feature] = found
                while len(self._spaces) > _HELD:
                    self._spaces.popitem(last=False)
            self._spaces.move_to_end((snapshot, feature))
            return found

    def vectors(
        self, snapshot: str, feature: str, model: EmbeddingModel, texts: Sequence[str | None]
    ) -> list[NDArray[numpy.float32] | None]:
        """The vector of each text; ``None`` where there is no text. Raises ``EmbeddingModelMismatchError`` when the
        snapshot's vectors are another model's, ``FeatureUnavailableError`` when a text is not in the snapshot and the
        model not on this machine."""
        space = self.open(snapshot, feature)
        require_same(space.facts.model, model, f"{snapshot}.{feature}")
        return [self._vector(space, text) if text is not None and has_vector(text) else None for text in texts]

    def _vector(self, space: VectorSpace, text: str) -> NDArray[numpy.float32]:
        hashed, model = text_hash(text), space.facts.model
        found = space.vector_of_text(hashed)
        if found is None:
            found = self._made.get((model, hashed))
        if found is None:
            try:
                embedder = self._embedders.get(model)
            except SetupError as error:
                raise FeatureUnavailableError(
                    f"A text is newer than the snapshot, and its vector cannot be made here: {error.what}",
                    where=error.where,
                    next_step=error.next_step,
                ) from error
            found = embedded(embedder, [text])[0][0]
            with self._lock:
                self._made[model, hashed] = found
                while len(self._made) > _REMEMBERED:
                    self._made.popitem(last=False)
        return found

    def _mend(self, space: VectorSpace) -> None:
        """Build a lost index again beside the requests; until it is there, every vector is compared."""
        thread = threading.Thread(target=self._put_back, args=(space,), name="antiphon-index", daemon=True)
        self._mending.append(thread)
        thread.start()

    def _put_back(self, space: VectorSpace) -> None:
        assert space.facts.index is not None
        try:
            file = write_index(self._catalog.lake, self._catalog.scope, space.vectors)
            content = checked_content(self._catalog.lake, file)
            space.index = NeighborIndex(content, len(space.vectors), space.facts.model.dimensions)
            _log.warning("The index %s was lost and is built again as %s.", space.facts.index.path, file.path)
        except (AntiphonError, OSError) as error:
            _log.warning("The index %s is lost and cannot be built again: %s", space.facts.index.path, error)

    def close(self) -> None:
        """Wait for an index that is being built."""
        for thread in self._mending:
            thread.join()
