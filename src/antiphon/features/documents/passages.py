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
from antiphon.core.clock import from_microseconds, microseconds
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

    def __init__(
        self, manifest: SnapshotManifest, space: VectorSpace, columns: Mapping[str, Sequence[str | None]]
    ) -> None:
        self.snapshot = manifest.id
        self.as_of = from_microseconds(microseconds(manifest.as_of))
        self.quality = None if manifest.source_quality is None else manifest.source_quality.score
        self.space = space
        self._columns = columns
        self._rows: dict[str, dict[str | None, frozenset[int]]] = {}

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
        for name, value in filters.items():
            rows = self._meeting(name, value)
            among = rows if among is None else among & rows
        searched: Search = "index" if among is None and self.space.index is not None else "exact"
        found: dict[str, Passage] = {}
        top = 2 * k
        while True:
            near = self.space.nearest(vector, model, top, among=among)
            for one in near:
                passage = self._passage(one.row, one.similarity)
                if one.similarity >= least:
                    found.setdefault(passage.sha256, passage)
            if len(found) >= k or len(near) < top:
                return tuple(found.values())[:k], searched
            top *= 4  # many chunks have one text

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

    def _meeting(self, name: str, value: str) -> frozenset[int]:
        """The rows of chunks that meet a filter."""
        known = self._rows.get(name)
        if known is None:
            rows: dict[str | None, list[int]] = {}
            for row, found in enumerate(self._columns[name]):
                rows.setdefault(found, []).append(row)
            known = self._rows[name] = {found: frozenset(listed) for found, listed in rows.items()}
        if name != DOCUMENT or value in known:
            return known.get(value, frozenset())
        matching = (rows for found, rows in known.items() if found is not None and fnmatchcase(found, value))
        return frozenset().union(*matching)

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
        return Passages(manifest, space, columns)


def given_up(manifest: SnapshotManifest) -> FeatureUnavailableError:
    """The error for a snapshot whose files are pruned."""
    return FeatureUnavailableError(
        f"The documents {manifest.view!r} as of {manifest.as_of:%Y-%m-%d %H:%M} are not kept any more.",
        where=manifest.id,
        next_step="[features] snapshots_kept says for how long they are; ask about a later moment.",
    )
