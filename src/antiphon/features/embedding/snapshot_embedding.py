"""Vectors of a snapshot: the texts of its values file become vectors, and enough of them get an index.

Each different text is embedded once, and one that the snapshot before has is taken from there. A crash anywhere leaves
lake files that nothing names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest, SnapshotVectors
from antiphon.core.errors import CorruptionError, SetupError
from antiphon.core.scope import Scope
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.embedding.index import EXACT_UP_TO, build
from antiphon.features.embedding.space import VectorSpace
from antiphon.features.embedding.vectors import Embedder, Embedders, embedded, has_vector, text_hash
from antiphon.features.lake.content import Lake

if TYPE_CHECKING:
    import numpy
    import pyarrow
    from numpy.typing import NDArray

_log = logging.getLogger("antiphon.features")
INDEX_SUFFIX = ".faiss"


class SnapshotEmbedding:
    """Makes the vectors of one snapshot, which is to replace the ``previous`` one; ``progress`` is given the number of
    texts that are embedded and of those to embed."""

    def __init__(
        self,
        spec: FeatureViewSpec,
        embedders: Embedders | None,
        lake: Lake,
        previous: SnapshotManifest | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._spec = spec
        self._lake = lake
        self._previous = previous
        self._progress = progress
        self._made: dict[str, tuple[SnapshotVectors, NDArray[numpy.float32]]] = {}
        if spec.models and embedders is None:
            raise SetupError(
                f"The view {spec.name!r} has vectors, and nothing here embeds texts.",
                where=spec.name,
                next_step="Materialize it by `antiphon features refresh`.",
            )
        # Asked for before anything is computed: a missing model is found at once.
        self._embedders = {name: embedders.get(model) for name, model in spec.models.items()} if embedders else {}

    def replaced(self, table: pyarrow.Table) -> pyarrow.Table:
        """The values with vectors in the place of texts, and with each the text's hash and whether it was cut; raises
        ``EngineError`` when a model fails."""
        import pyarrow

        for name, embedder in self._embedders.items():
            column = f"{self._spec.name}.{name}"
            texts = [text if has_vector(text) else None for text in table.column(column).to_pylist()]
            hashes = {text: text_hash(text) for text in texts if text is not None}
            distinct = sorted(hashes, key=lambda text: hashes[text])
            known = self._known(name, embedder.model)
            new = [text for text in distinct if hashes[text] not in known]
            made = zip(*embedded(embedder, new, self._progress), strict=True)
            known |= zip((hashes[text] for text in new), made, strict=True)
            vectors = _stacked([known[hashes[text]][0] for text in distinct], embedder.model.dimensions)
            truncated = {text: known[hashes[text]][1] for text in distinct}
            places = {text: row for row, text in enumerate(distinct)}
            rows = [None if text is None else places[text] for text in texts]
            place = table.column_names.index(column)
            table = table.set_column(place, column, _lists(vectors, rows))
            hexes = [None if text is None else hashes[text].hex() for text in texts]
            table = table.append_column(f"{column}.text", pyarrow.array(hexes, pyarrow.string()))
            cuts = [None if text is None else truncated[text] for text in texts]
            table = table.append_column(f"{column}.truncated", pyarrow.array(cuts, pyarrow.bool_()))
            facts = SnapshotVectors(
                model=embedder.model,
                entities=sum(row is not None for row in rows),
                texts=len(distinct),
                embedded=len(new),
                truncated=sum(truncated.values()),
            )
            self._made[name] = facts, vectors
        return table

    def finished(self, scope: Scope) -> dict[str, SnapshotVectors]:
        """Write the indexes of features with many texts into the lake; return the facts of every feature.

        Without faiss there is no index, and every vector is compared: the same answers, later.
        """
        found: dict[str, SnapshotVectors] = {}
        for name, (facts, vectors) in self._made.items():
            found[name] = facts
            before = self._previous.vectors.get(name) if self._previous is not None else None
            if before is not None and before.index is not None and _same_texts(before, facts):
                found[name] = msgspec.structs.replace(facts, index=before.index)
            elif facts.texts > EXACT_UP_TO:
                try:
                    found[name] = msgspec.structs.replace(facts, index=write_index(self._lake, scope, vectors))
                except SetupError as error:
                    _log.warning("%s.%s gets no index: %s", self._spec.name, name, error)
        return found

    def _known(self, name: str, model: EmbeddingModel) -> dict[bytes, tuple[Any, bool]]:
        before = self._previous.vectors.get(name) if self._previous is not None else None
        if before is None or before.model != model or self._previous is None:
            return {}
        try:
            return VectorSpace.read(self._lake, self._previous, name).known()
        except CorruptionError:
            return {}  # What is lost is made again.


def _same_texts(before: SnapshotVectors, facts: SnapshotVectors) -> bool:
    """Tells whether the texts are those of the snapshot before, and so their index: none is new, and none is gone."""
    return before.model == facts.model and facts.embedded == 0 and before.texts == facts.texts


def vector_column(texts: Sequence[object], embedder: Embedder) -> pyarrow.Array:
    """The vectors of texts as a column, null where there is no text; each different one is embedded once. Raises
    ``EngineError`` when the model fails."""
    given = [text if has_vector(text) else None for text in texts]
    distinct = sorted({text for text in given if isinstance(text, str)})
    places = {text: row for row, text in enumerate(distinct)}
    vectors, _ = embedded(embedder, distinct)
    return _lists(vectors, [places[text] if isinstance(text, str) else None for text in given])


def write_index(lake: Lake, scope: Scope, vectors: NDArray[numpy.float32]) -> SnapshotFile:
    """Build the index of vectors and put it into the lake; the same vectors give the same file."""
    stored = build(vectors)
    with lake.writing(scope, INDEX_SUFFIX) as draft:
        draft.write(stored)
    return SnapshotFile(draft.path, draft.sha256, len(vectors), draft.size)


def _stacked(vectors: list[Any], dimensions: int) -> NDArray[numpy.float32]:
    import numpy

    return numpy.array(vectors, dtype=numpy.float32).reshape(len(vectors), dimensions)


def _lists(vectors: NDArray[numpy.float32], rows: list[int | None]) -> pyarrow.Array:
    """A list of float32 a row, null where there is no vector."""
    import numpy
    import pyarrow

    present = [row for row in rows if row is not None]
    width = vectors.shape[1]
    ends = numpy.cumsum([0 if row is None else width for row in rows], dtype=numpy.int32)
    offsets = numpy.concatenate([numpy.zeros(1, dtype=numpy.int32), ends])
    flat = vectors[present].reshape(-1) if present else numpy.zeros(0, dtype=numpy.float32)
    missing = pyarrow.array([row is None for row in rows], pyarrow.bool_())
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(offsets, pyarrow.int32()), pyarrow.array(flat, pyarrow.float32()), mask=missing
    )
