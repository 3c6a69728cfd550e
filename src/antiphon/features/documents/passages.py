"""The chunks of one snapshot of documents in memory: their texts and vectors, and which of them are nearest to a query.

Invariant: texts, vectors and attributes are rows of the one values file that the snapshot's manifest names and whose
hash was checked. A search with filters compares every chunk that meets them, so a filter never costs a result.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import CorruptionError, FeatureUnavailableError, NotFoundError
from antiphon.definitions.documents import CHUNK, DOCUMENT, TEXT, TITLE, VECTOR
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.embedding.space import VectorSpace, values_table
from antiphon.features.embedding.space_cache import VectorSpaces

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_HELD = 6

Search = Literal["index", "exact"]


class Passage(msgspec.Struct, frozen=True):
    """A chunk as it is retrieved: its id (``DOCUMENT#NUMBER``), the SHA-256 of its text, and its similarity to the
    query, from -1 to 1."""

    id: str
    document: str
    title: str
    text: str
    sha256: str
    similarity: float


class Passages:
    """The chunks of a snapshot. Safe to share between threads."""

    def __init__(self, snapshot: str, space: VectorSpace, columns: Mapping[str, Sequence[str | None]]) -> None:
        self.snapshot = snapshot
        self.space = space
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[CHUNK])

    def nearest(
        self,
        vector: NDArray[numpy.float32],
        model: EmbeddingModel,
        k: int,
        filters: Mapping[str, str],
        least: float,
    ) -> tuple[tuple[Passage, ...], Search]:
        """The ``k`` chunks that are nearest to a vector among those that meet the filters, nearest first; of equal
        texts one counts."""
        among = None
        if filters:
            among = [row for row in range(len(self)) if all(self._meets(row, *one) for one in filters.items())]
        searched: Search = "index" if among is None and self.space.index is not None else "exact"
        found: list[Passage] = []
        texts: set[str] = set()
        for near in self.space.nearest(vector, model, 2 * k, among=among):
            passage = self._passage(near.row, near.similarity)
            if near.similarity >= least and passage.sha256 not in texts and len(found) < k:
                texts.add(passage.sha256)
                found.append(passage)
        return tuple(found), searched

    def documents(self) -> dict[str, tuple[str, int]]:
        """Each document's title and number of chunks, in the order of their ids."""
        found: dict[str, tuple[str, int]] = {}
        for document, title in zip(self._columns[DOCUMENT], self._columns[TITLE], strict=True):
            before = found.get(document or "", (title or "", 0))
            found[document or ""] = (before[0], before[1] + 1)
        return dict(sorted(found.items()))

    def of(self, document: str) -> tuple[Passage, ...]:
        """A document's chunks in their order."""
        rows = [row for row, one in enumerate(self._columns[DOCUMENT]) if one == document]
        return tuple(self._passage(row, 1.0) for row in sorted(rows, key=self._number))

    def _passage(self, row: int, similarity: float) -> Passage:
        text = self._columns[TEXT][row] or ""
        return Passage(
            id=self._columns[CHUNK][row] or "",
            document=self._columns[DOCUMENT][row] or "",
            title=self._columns[TITLE][row] or "",
            text=text,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            similarity=round(similarity, 6),
        )

    def _meets(self, row: int, name: str, value: str) -> bool:
        found = self._columns[name][row]
        if name == DOCUMENT:
            return found is not None and (found == value or fnmatchcase(found, value))
        return found == value

    def _number(self, row: int) -> int:
        return int((self._columns[CHUNK][row] or "0").rpartition("#")[2])


class PassageSpaces:
    """Passages of one scope's snapshots, each read from the lake once while it is held. Safe to share between
    threads."""

    def __init__(self, catalog: FeatureCatalog, spaces: VectorSpaces) -> None:
        self._catalog = catalog
        self._spaces = spaces
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Passages] = OrderedDict()

    def open(self, snapshot: str) -> Passages:
        """The passages of a snapshot.

        Raises:
            FeatureUnavailableError: its files were given up.
            NotFoundError: there is none of this id here.
            CorruptionError: its values file is damaged.
        """
        with self._lock:
            found = self._held.get(snapshot)
            if found is None:
                found = self._held[snapshot] = self._read(snapshot)
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(snapshot)
            return found

    def vector(self, snapshot: str, model: EmbeddingModel, text: str) -> NDArray[numpy.float32] | None:
        """The vector of a query; ``None`` of a blank one. Raises ``EmbeddingModelMismatchError``, or
        ``FeatureUnavailableError`` when the model is not on this machine."""
        return self._spaces.vectors(snapshot, VECTOR, model, [text])[0]

    def _read(self, snapshot: str) -> Passages:
        manifest = self._catalog.snapshots.get(self._catalog.scope, snapshot)
        try:
            table = values_table(self._catalog.lake, manifest)
            space = self._spaces.open(snapshot, VECTOR)
        except (CorruptionError, NotFoundError) as error:
            if self._catalog.snapshots.pruned_at(self._catalog.scope, snapshot) is None:
                raise
            raise given_up(manifest) from error
        columns = {CHUNK: table.column(CHUNK).to_pylist()}
        for name in table.column_names:
            feature = name.partition(".")[2]
            if name.startswith(f"{manifest.view}.") and feature != VECTOR and "." not in feature:
                columns[feature] = table.column(name).to_pylist()
        return Passages(snapshot, space, columns)


def given_up(manifest: SnapshotManifest) -> FeatureUnavailableError:
    """The error for a snapshot whose files are pruned."""
    return FeatureUnavailableError(
        f"The documents {manifest.view!r} as of {manifest.as_of:%Y-%m-%d %H:%M} are not kept any more.",
        where=manifest.id,
        next_step="[features] snapshots_kept says for how long they are; ask about a later moment.",
    )
