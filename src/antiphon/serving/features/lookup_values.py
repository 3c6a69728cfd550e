"""Plan, request and result of a lookup, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.core.clock import from_microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.definitions.embedding import EmbeddingModel
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.features.values import MeasureValue
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Resource

LookupValue = MeasureValue | tuple[float, ...]
"""A value, or a vector's float32 numbers."""


class DerivedFeatures(msgspec.Struct, frozen=True, eq=False):
    """Features that are derived from values as read.

    Attributes:
        names: every feature that is returned, in the order of the answer: others are read for those that are made.
        vectors: view to its definition and the names (``view.feature``) of the vectors that are asked for.
        on_demand: views that are computed.
        keys: columns that name entities: an input named like one is read from the entity.
    """

    names: tuple[str, ...]
    vectors: dict[str, tuple[FeatureViewSpec, tuple[str, ...]]] = {}
    on_demand: tuple[OnDemandSpec, ...] = ()
    keys: frozenset[str] = frozenset()


class LookupPlan(msgspec.Struct, frozen=True, eq=False):
    """Features of a lookup and their rules; made once for many requests.

    Attributes:
        resource: what policy is asked about, with every feature that is read.
        views: view name to definition version.
        features: the features that are returned, by view in the order asked; ``None``: all of the view's.
        contracts: freshness contract by view.
        derived: vectors and on-demand features, which are no columns of rows.
    """

    resource: Resource
    views: dict[str, str]
    features: dict[str, tuple[str, ...] | None]
    contracts: dict[str, Freshness] = {}
    purpose: str = ""
    derived: DerivedFeatures | None = None


class LookupRequest(msgspec.Struct, frozen=True):
    """One lookup.

    Attributes:
        entities: entity key column to value, of each entity.
        as_of: the moment; now by default.
        minimum_publication: a publication that the client has seen already.
        inputs: what on-demand features are told, of all entities or of each.
    """

    scope: Scope
    principal: Principal
    plan: LookupPlan
    entities: Sequence[Mapping[str, str]]
    as_of: datetime | None = None
    minimum_publication: int | None = None
    originating_user: str | None = None
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] = {}


class EntityFeatures(msgspec.Struct, frozen=True, gc=False):
    """One entity's features, each list in the order of ``Lookup.features``.

    Attributes:
        event_times: of the latest event in each value (microseconds since 1970).
        contracts: what happened to each: fresh, absent, flagged, previous, recomputed, defaulted, rejected, masked.
        instead: of features for which another value stands in the snapshot that it is of; a recomputed one is of none.
    """

    values: tuple[LookupValue, ...]
    event_times: tuple[int | None, ...]
    contracts: tuple[str, ...]
    instead: dict[str, str | None] = {}

    @property
    def known(self) -> bool:
        """Tells whether any event of the entity is known."""
        return any(moment is not None for moment in self.event_times)


class Lookup(msgspec.Struct, frozen=True):
    """Result of a lookup.

    Attributes:
        features: ``view.feature`` of every column.
        publication: the number every value comes from.
        as_of: the moment (microseconds since 1970).
        snapshots: view to (snapshot, definition version, the moment it was made as of).
        entities: in the order asked.
        catalog_away: the catalog did not answer, so the leased publication was served.
        models: of each feature that is a vector, what made it.
    """

    features: tuple[str, ...]
    publication: int
    as_of: int
    snapshots: dict[str, tuple[str, str, datetime]]
    entities: list[EntityFeatures]
    catalog_away: bool = False
    models: dict[str, EmbeddingModel] = {}


def ages(line: EntityFeatures, as_of: int) -> list[float | None]:
    """Seconds between each value's latest event and the moment."""
    return [None if moment is None else (as_of - moment) / 1e6 for moment in line.event_times]


def moments(line: EntityFeatures) -> list[datetime | None]:
    """The event times as times."""
    return [None if moment is None else from_microseconds(moment) for moment in line.event_times]
