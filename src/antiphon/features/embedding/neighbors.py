"""Nearest neighbors: which entities' texts are nearest to a text, a vector or another entity, in one publication.

Invariant: a request resolves a publication once, and everything it compares comes from one snapshot of one definition
version, so of one model. What streams in later is not among the neighbors before the next refresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from antiphon.catalog.features.publications import Publication
from antiphon.core.errors import (
    EmbeddingModelMismatchError,
    FeatureUnavailableError,
    InvalidInputError,
    NotFoundError,
    SetupError,
)
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.embedding.space import VectorSpace
from antiphon.features.embedding.space_cache import VectorSpaces
from antiphon.features.embedding.vectors import Embedders, embedded, required_text, text_hash, unit
from antiphon.features.ports import OnlineSnapshots

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

MOST = 1_000
"""Most neighbors of one query."""


class NeighborQuery(msgspec.Struct, frozen=True):
    """Query for the ``top`` neighbors of exactly one of a text, an entity's keys, or a vector with the name of the
    model that made it, by a feature that ``embed`` declares; in a publication by ``number``, by default the current
    one."""

    feature: str
    text: str | None = None
    entity: Mapping[str, str] | None = None
    vector: Sequence[float] | None = None
    model: str | None = None
    top: int = 10
    number: int | None = None


class Neighbor(msgspec.Struct, frozen=True):
    """One entity that is near: the cosine of the angle between the vectors, from -1 to 1; 32 hex digits that stand for
    the entity; its keys, ``None`` for somebody who may not see them."""

    similarity: float
    entity: str
    keys: dict[str, str | None] | None = None


class Neighbors(msgspec.Struct, frozen=True):
    """The answer, nearest first, of all ``entities`` that have a vector, and what it was made from: candidates of the
    ``index``, or every vector compared (``exact``)."""

    feature: str
    model: EmbeddingModel
    publication: int
    snapshot: str
    as_of: datetime
    search: Literal["index", "exact"]
    entities: int
    neighbors: tuple[Neighbor, ...]


@dataclass(frozen=True)
class NeighborLookup:
    """Answers for one scope. Safe to share between threads."""

    catalog: FeatureCatalog
    online: OnlineSnapshots
    spaces: VectorSpaces
    embedders: Embedders

    def find(self, spec: FeatureViewSpec, query: NeighborQuery, *, see_keys: bool = True) -> Neighbors:
        """The entities whose texts are nearest.

        Args:
            spec: the view, in the definition version that is asked.
            see_keys: whether the asker may see which entities they are.

        Raises:
            InvalidInputError: the query is none.
            EmbeddingModelMismatchError: its vector is another model's.
            NotFoundError: there is no such feature, publication or entity.
            FeatureUnavailableError: the view is not published.
            SetupError: the text is new, and the model is not on this machine.
        """
        name = f"{spec.name}.{query.feature}"
        _require_query(query)
        if query.feature not in spec.models:
            vectors = ", ".join(f"{spec.name}.{each}" for each in spec.models) or "none"
            raise NotFoundError(f"{name} is no vector.", where="feature", next_step=f"Vectors of the view: {vectors}.")
        publication = self._publication(query.number)
        snapshot = publication.snapshots.get(spec.key)
        if snapshot is None:
            raise FeatureUnavailableError(
                f"The view {spec.name!r} is not published in definition version {spec.definition_version}.",
                where=f"publication {publication.number}",
                next_step=f"Run `antiphon features refresh {spec.name}`; a held view is set free by "
                f"`antiphon features resume {spec.name} --reason …` first.",
            )
        space = self.spaces.open(snapshot, query.feature)
        vector, without = self._query_vector(spec, space, query)
        searched_by_index = space.index is not None
        near = space.nearest(vector, spec.models[query.feature], query.top, without=without)
        found = [
            Neighbor(
                similarity=round(one.similarity, 9),
                entity=self.online.entity_hash(spec.entity.name, (keys := space.keys_of(one.row))).hex(),
                keys=dict(zip(spec.entity.keys, keys, strict=True)) if see_keys else None,
            )
            for one in near
        ]
        return Neighbors(
            feature=name,
            model=space.facts.model,
            publication=publication.number,
            snapshot=snapshot,
            as_of=self.catalog.snapshots.get(self.catalog.scope, snapshot).as_of,
            search="index" if searched_by_index else "exact",
            entities=space.facts.entities,
            neighbors=tuple(found),
        )

    def _publication(self, number: int | None) -> Publication:
        if number is not None:
            return self.catalog.publications.get(self.catalog.scope, number)
        found = self.catalog.publications.current(self.catalog.scope)
        if found is None:
            raise FeatureUnavailableError(
                "Nothing is published yet.", where=str(self.catalog.scope), next_step="Run `antiphon features refresh`."
            )
        return found

    def _query_vector(
        self, spec: FeatureViewSpec, space: VectorSpace, query: NeighborQuery
    ) -> tuple[NDArray[numpy.float32], int | None]:
        """The vector to compare with, and the row that is not its own neighbor."""
        model = spec.models[query.feature]
        if query.entity is not None:
            return self._of_entity(spec, space, query.entity)
        if query.vector is not None:
            if query.model != model.name:
                raise EmbeddingModelMismatchError(
                    f"The vector is of {query.model}, and {spec.name}.{query.feature} of {model}.",
                    where="model",
                    next_step=f"Embed the text with {model.name}, or send the text itself.",
                )
            return unit(query.vector, model, "vector"), None
        text = required_text(query.text, "text")
        known = space.vector_of_text(text_hash(text))
        if known is not None:
            return known, None
        try:
            embedder = self.embedders.get(model)
        except SetupError as error:
            raise SetupError(
                f"The text has to be embedded, and {error.what[:1].lower()}{error.what[1:]}",
                where=error.where,
                next_step=error.next_step,
            ) from error
        return embedded(embedder, [text])[0][0], None

    @staticmethod
    def _of_entity(
        spec: FeatureViewSpec, space: VectorSpace, entity: Mapping[str, str]
    ) -> tuple[NDArray[numpy.float32], int]:
        if set(entity) != set(spec.entity.keys):
            raise InvalidInputError(
                f"An entity of {spec.name!r} is named by {', '.join(spec.entity.keys)}, "
                f"not by {', '.join(entity) or 'nothing'}.",
                where="entity",
            )
        row = space.row_of(tuple(str(entity[key]) for key in spec.entity.keys))
        vector = None if row is None else space.vector_of_row(row)
        if row is None or vector is None:
            raise NotFoundError(
                f"The entity that was named has no vector in the snapshot of {spec.name!r}.",
                where="entity",
                next_step="It is unknown, or its latest text is empty; ask with a text.",
            )
        return vector, row


def _require_query(query: NeighborQuery) -> None:
    given = [name for name in ("text", "entity", "vector") if getattr(query, name) is not None]
    if len(given) != 1:
        raise InvalidInputError(
            f"Neighbors are of one thing, and {' and '.join(given) or 'nothing'} is given.",
            where="question",
            next_step="Give a text, or an entity, or a vector with its model.",
        )
    if (query.model is not None) != (query.vector is not None):
        raise InvalidInputError("A vector is given with the name of its model, and only a vector.", where="model")
    if not 1 <= query.top <= MOST:
        raise InvalidInputError(f"top must be from 1 to {MOST}, not {query.top}.", where="top")
