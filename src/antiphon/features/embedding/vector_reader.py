"""Vectors online: an embedded feature is read as its text, and leaves as its vector.

Rows of features hold neither, so no answer, receipt or bulk lookup shows a text that somebody meant as a vector.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.nodes import Kind
from antiphon.features.embedding.space_cache import VectorSpaces
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.snapshots.encoding import SnapshotMeta
from antiphon.features.ports import OpenedSnapshot, StateQuery
from antiphon.features.tiles.entity_state import EntityState
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EntityRow


class TextVector(msgspec.Struct, frozen=True):
    """One feature that is a vector: float32 numbers, of length 1 together, ``None`` without a text; the time of the
    event that the text is of, and its place in the log when it streamed in after the snapshot."""

    value: tuple[float, ...] | None
    model: EmbeddingModel
    event_time: datetime | None
    snapshot: str
    stream_offset: int | None
    definition_version: str


class VectorRows(msgspec.Struct, frozen=True):
    """Vectors of entities, all from one publication.

    Attributes:
        entities: of each entity ``view.feature`` to vector.
        snapshots: view to (snapshot, definition version, the moment it was made as of).
        quality: view to the share of its source's rows without a defect; ``None``: nobody knows.
    """

    publication: int
    entities: list[dict[str, TextVector]]
    snapshots: dict[str, tuple[str, str, datetime]]
    quality: dict[str, float | None]


@dataclass(frozen=True)
class VectorReader:
    """Reads the vectors of entities as of a moment. Safe to share between threads."""

    texts: TextReader
    vectors: VectorSpaces

    def rows(
        self,
        views: Mapping[str, FeatureViewSpec],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime | Sequence[datetime],
        minimum_publication: int | None = None,
        *,
        only: Collection[str] | None = None,
    ) -> VectorRows:
        """Of each entity ``view.feature`` to vector, all from one publication, and where it is from; ``views`` are the
        definitions that are read, ``only`` the full names of the vectors that are wanted. Raises as
        :meth:`FeatureReader.read_many`; ``FeatureUnavailableError`` also when a text streamed in and the model is not
        here to embed it."""
        versions = {name: spec.definition_version for name, spec in views.items() if spec.models}
        read = self.texts.read_many(versions, keys, as_of, minimum_publication)
        found: list[dict[str, TextVector]] = [{} for _ in keys]
        snapshots: dict[str, tuple[str, str, datetime]] = {}
        for view, version in versions.items():
            for name, model in views[view].models.items():
                if only is not None and f"{view}.{name}" not in only:
                    continue
                texts = [vector.values[f"{view}.{name}"] for vector in read]
                given = [text.value if isinstance(text.value, str) else None for text in texts]
                snapshot = (texts[0].snapshot if texts else None) or ""
                made = self.vectors.vectors(snapshot, name, model, given) if texts else []
                if texts:
                    snapshots[view] = (snapshot, version, read[0].refreshed[view])
                for row, text, vector in zip(found, texts, made, strict=True):
                    row[f"{view}.{name}"] = TextVector(
                        value=None if vector is None else tuple(vector.tolist()),
                        model=model,
                        event_time=text.event_time,
                        snapshot=snapshot,
                        stream_offset=text.stream_offset,
                        definition_version=text.definition_version,
                    )
        facts = read[0].facts if read else {}
        return VectorRows(
            publication=(read[0].publication if read else None) or 0,
            entities=found,
            snapshots=snapshots,
            quality={view: facts[view].source_quality if view in facts else None for view in versions},
        )


class _TextSnapshot:
    """An opened snapshot whose only features are the texts of its embedded ones."""

    def __init__(self, opened: OpenedSnapshot) -> None:
        self._opened = opened
        plan = opened.evaluator.plan
        texts = [
            msgspec.structs.replace(feature, aggregation="last")
            for feature in plan.features
            if feature.aggregation == "embed"
        ]
        self.evaluator = ViewEvaluator(msgspec.structs.replace(plan, features=tuple(texts)))

    @property
    def meta(self) -> SnapshotMeta:
        return self._opened.meta

    @property
    def plain(self) -> tuple[tuple[int, Kind], ...]:
        return self._opened.plain

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        return [None] * len(entities)

    def states(self, queries: Sequence[StateQuery]) -> list[EntityState]:
        return self._opened.states(queries)


class TextReader(FeatureReader):
    """Reads the texts of embedded features. The store's owner decides which of its snapshots stay open."""

    def _open(self, view: str, snapshot: str) -> OpenedSnapshot:
        return _TextSnapshot(super()._open(view, snapshot))

    def _forget(self, names: Iterable[tuple[str, str]]) -> None:
        pass
