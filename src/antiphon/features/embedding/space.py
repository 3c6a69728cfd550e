"""The vectors of one feature in one snapshot, and which of them are nearest to one.

Invariants: the vectors are those of the snapshot's values file, all of one model; what the index proposes is compared
by its vectors, so an answer with the index differs from one without only by a neighbor that the index did not find.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest, SnapshotVectors
from antiphon.core.errors import CorruptionError, NotFoundError, SetupError
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.embedding.index import NeighborIndex
from antiphon.features.embedding.vectors import require_same
from antiphon.features.lake.content import Lake, changed

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

_log = logging.getLogger("antiphon.features")
_VALUES = 2
_SPARE = 32
"""Candidates beside those asked for: ties are resolved among them."""


class Near(msgspec.Struct, frozen=True):
    """A row of the values file, with the cosine of the angle to what was asked for: 1 is the same direction."""

    row: int
    similarity: float


class VectorSpace:
    """Vectors in memory. Safe to share between threads.

    Args:
        keys: columns of the entities' keys; null where a key is.
        hashes: of each entity's text, ``None`` without one.
        vectors: one row for each different text, in the order of the hashes.
        truncated: hashes of texts that were cut.
    """

    def __init__(
        self,
        facts: SnapshotVectors,
        keys: Sequence[Sequence[str | None]],
        hashes: Sequence[bytes | None],
        vectors: NDArray[numpy.float32],
        truncated: frozenset[bytes],
    ) -> None:
        self.facts = facts
        self.index: NeighborIndex | None = None
        self._keys = keys
        self.vectors = vectors
        self._truncated = truncated
        self._distinct = sorted({found for found in hashes if found is not None})
        self._places = {found: place for place, found in enumerate(self._distinct)}
        self._rows: list[list[int]] = [[] for _ in self._distinct]
        self._of_row = [None if found is None else self._places[found] for found in hashes]
        for row, place in enumerate(self._of_row):
            if place is not None:
                self._rows[place].append(row)
        self._by_keys: dict[tuple[str | None, ...], int] | None = None

    @classmethod
    def read(cls, lake: Lake, manifest: SnapshotManifest, feature: str) -> VectorSpace:
        """The vectors of a snapshot's feature, without its index; raises ``NotFoundError`` when the snapshot has no
        vectors of this feature, ``CorruptionError`` when its values file is gone or changed."""
        import numpy

        facts = manifest.vectors.get(feature)
        if facts is None:
            raise NotFoundError(
                f"{manifest.view}.{feature} has no vectors in {manifest.id}.",
                where=manifest.view,
                next_step="Neighbors are looked up of a feature declared by embed(...).",
            )
        column = f"{manifest.view}.{feature}"
        table = values_table(lake, manifest)
        keys = [table.column(name).to_pylist() for name in _keys(table.column_names, manifest.view)]
        texts = table.column(f"{column}.text").to_pylist()
        hashes = [None if text is None else bytes.fromhex(text) for text in texts]
        cuts = table.column(f"{column}.truncated").to_pylist()
        flat = table.column(column).drop_null().combine_chunks().flatten().to_numpy(zero_copy_only=False)
        present = [found for found in hashes if found is not None]
        if len(flat) != len(present) * facts.model.dimensions:
            raise changed(manifest.files[_VALUES].path)
        stacked = flat.astype(numpy.float32, copy=False).reshape(len(present), facts.model.dimensions)
        first: dict[bytes, int] = {}
        for place, found in enumerate(present):
            first.setdefault(found, place)
        return cls(
            facts,
            keys,
            hashes,
            numpy.ascontiguousarray(stacked[[first[found] for found in sorted(first)]]),
            frozenset(found for found, cut in zip(hashes, cuts, strict=True) if found is not None and cut),
        )

    def open_index(self, lake: Lake) -> bool:
        """Open the snapshot's index, if it has one; without it every vector is compared. Whether it is there."""
        file = self.facts.index
        if file is None:
            return False
        try:
            content = checked_content(lake, file)
            self.index = NeighborIndex(content, len(self.vectors), self.facts.model.dimensions)
        except (CorruptionError, SetupError) as error:
            _log.warning("Neighbors are searched without an index, which is slow: %s", error)
            return False
        return True

    def known(self) -> dict[bytes, tuple[Any, bool]]:
        """Every text's hash with its vector and whether the text was cut."""
        return {found: (self.vectors[place], found in self._truncated) for found, place in self._places.items()}

    def vector_of_text(self, text: bytes) -> NDArray[numpy.float32] | None:
        """The vector of a text by its hash, when an entity has that text."""
        place = self._places.get(text)
        return None if place is None else self.vectors[place]

    def row_of(self, keys: tuple[str | None, ...]) -> int | None:
        """An entity's row."""
        if self._by_keys is None:
            self._by_keys = {found: row for row, found in enumerate(zip(*self._keys, strict=True))}
        return self._by_keys.get(keys)

    def keys_of(self, row: int) -> tuple[str | None, ...]:
        """An entity's keys."""
        return tuple(column[row] for column in self._keys)

    def vector_of_row(self, row: int) -> NDArray[numpy.float32] | None:
        """An entity's vector, ``None`` without a text."""
        place = self._of_row[row]
        return None if place is None else self.vectors[place]

    def nearest(
        self,
        vector: NDArray[numpy.float32],
        model: EmbeddingModel,
        top: int,
        *,
        without: int | None = None,
        among: Collection[int] | None = None,
    ) -> list[Near]:
        """The entities whose vectors are nearest to one of length 1 that ``model`` made, the nearest first; of equally
        near ones the order of their keys. The row ``without`` is not among them. Of rows ``among`` which they must be,
        every vector is compared. Raises ``EmbeddingModelMismatchError`` when another model made the vectors here."""
        require_same(self.facts.model, model, "neighbors")
        import numpy

        count = top + (without is not None)
        if among is None:
            candidates = self._candidates(vector, min(count + _SPARE, len(self.vectors)))
        else:
            candidates = sorted({place for row in among if (place := self._of_row[row]) is not None})
        allowed = None if among is None else frozenset(among)
        places = numpy.asarray(candidates, dtype=numpy.int64)
        exact = self.vectors[places].astype(numpy.float64) @ vector.astype(numpy.float64)
        scored = sorted(
            (-similarity, row)
            for place, similarity in zip(places.tolist(), exact.tolist(), strict=True)
            for row in (self._rows[place][:count] if allowed is None else self._rows[place])
            if row != without and (allowed is None or row in allowed)
        )
        return [Near(row, max(-1.0, min(1.0, -negative))) for negative, row in scored[:top]]

    def _candidates(self, vector: NDArray[numpy.float32], count: int) -> Sequence[int]:
        import numpy

        if self.index is not None:
            return self.index.candidates(vector, count)
        if not count:
            return ()
        similarities = self.vectors @ vector
        found: list[int] = numpy.argpartition(-similarities, count - 1)[:count].tolist()
        return found


def values_table(lake: Lake, manifest: SnapshotManifest) -> pyarrow.Table:
    """The values of a snapshot; raises ``CorruptionError`` when its file is gone or changed."""
    import pyarrow
    import pyarrow.parquet

    content = checked_content(lake, manifest.files[_VALUES])
    return pyarrow.parquet.read_table(pyarrow.BufferReader(content))


def checked_content(lake: Lake, file: SnapshotFile) -> bytes:
    """The clear bytes of a file, whose hash is what the manifest says; raises ``CorruptionError`` when it is gone or
    changed."""
    with lake.open(file.path) as stream:
        content = stream.read()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise changed(file.path)
    return content


def _keys(columns: Sequence[str], view: str) -> list[str]:
    """The columns before the features: the entity's keys."""
    features = [place for place, name in enumerate(columns) if name.startswith(f"{view}.")]
    return list(columns[: min(features)])
