"""Features of an existing Feast online store, read beside our own: the same port, contracts and receipts.

Invariants: a value carries the event time that Feast has for it, so that its age is judged as any other's (Feast
applies a ttl in batch alone); an entity that Feast does not know is absent, a server that does not answer is an error,
and never one for the other; a value from after the requested moment is never served, but for the skew of clocks.

Feast keeps the latest value alone and has no publications: views that are read here are not read at one instant, and an
earlier moment cannot be queried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache

import msgspec

from antiphon.core.errors import FeatureUnavailableError, InvalidInputError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.granted import owner_of
from antiphon.definitions.nodes import columns
from antiphon.features.feast.server import FeastServer, OnlineValue
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.values import FeatureValue, FeatureVector

SNAPSHOT = "feast:"
"""Prefix of a receipt's snapshot that names a Feast project and view: ``feast:PROJECT/VIEW``."""

SKEW = timedelta(seconds=1)
"""Tolerance for clocks of Feast's data that are ahead of ours: a value later than the requested moment by less is
served."""


class FeastReader:
    """Reads views of Feast from its server and all others, which are published here, through ``own``. Safe to share
    between threads. ``project`` is Feast's, for receipts: the server serves one and does not name it. ``definitions``
    finds a view by its name and version."""

    def __init__(
        self,
        server: FeastServer,
        project: str,
        *,
        own: FeatureReader,
        definitions: Callable[[str, str], FeatureViewSpec],
    ) -> None:
        self._server = server
        self._project = project
        self._own = own
        self._definition = cache(definitions)

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """Every feature of some views for one request; see :meth:`read_many`."""
        return self.read_many(views, [keys], as_of, minimum_publication)[0]

    def read_many(
        self,
        views: Mapping[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime | Sequence[datetime],
        minimum_publication: int | None = None,
    ) -> list[FeatureVector]:
        """Every feature of some views (name to definition version) for many entities; Feast is asked once.

        Raises:
            UnavailableError: Feast's server does not answer, or ``minimum_publication`` is not reached.
            FeatureUnavailableError: Feast does not serve a feature, or knows only a value from after ``as_of``.
            InvalidInputError: an entity key is missing.
        """
        far = {view: self._definition(view, version) for view, version in views.items() if owner_of(view) is None}
        far = {view: spec for view, spec in far.items() if spec.source.kind == "feast"}
        near = {view: version for view, version in views.items() if view not in far}
        own = self._own.read_many(near, keys, as_of, minimum_publication)
        if not far or not keys:
            return own
        moments = [as_of] * len(keys) if isinstance(as_of, datetime) else list(as_of)
        found = [dict(vector.values) for vector in own]
        groups: dict[tuple[str, ...], list[FeatureViewSpec]] = {}
        for spec in far.values():
            groups.setdefault(spec.entity.keys, []).append(spec)
        for group in groups.values():
            self._read_group(group, keys, moments, found)
        return [
            msgspec.structs.replace(
                vector, publication=vector.publication if near else None, values=_ordered(views, values)
            )
            for vector, values in zip(own, found, strict=True)
        ]

    def _read_group(
        self,
        specs: Sequence[FeatureViewSpec],
        keys: Sequence[Mapping[str, str]],
        moments: Sequence[datetime],
        found: list[dict[str, FeatureValue]],
    ) -> None:
        """Views with the same join keys in one request."""
        names = {
            (_feast_view(spec), column_of(spec, feature)): (spec, feature)
            for spec in specs
            for feature in spec.features
        }
        entity = specs[0].entity
        try:
            columns = {key: [str(row[key]) for row in keys] for key in entity.keys}
        except KeyError as error:
            raise InvalidInputError(
                f"The entity key {error.args[0]!r} is missing.",
                where=f"entity.{error.args[0]}",
                next_step=f"The view {specs[0].name!r} needs {', '.join(entity.keys)}.",
            ) from None
        rows = self._server.read(list(names), columns)
        for row, moment, values in zip(rows, moments, found, strict=True):
            for place, read in row.items():
                spec, feature = names[place]
                values[f"{spec.name}.{feature}"] = self._value(spec, read, moment)

    def _value(self, spec: FeatureViewSpec, read: OnlineValue, as_of: datetime) -> FeatureValue:
        place = f"{self._project}/{_feast_view(spec)}"
        if read.event_time is not None and read.event_time > as_of + SKEW:
            raise FeatureUnavailableError(
                f"Feast keeps the latest value alone, of {read.event_time.isoformat()}; what it was as of "
                f"{as_of.isoformat()} is not known.",
                where=f"Feast {place}",
                next_step="Ask about now, or import the repository (`antiphon features import-feast`).",
            )
        return FeatureValue(read.value, read.event_time, spec.definition_version, f"{SNAPSHOT}{place}")


def column_of(spec: FeatureViewSpec, feature: str) -> str:
    """Feast's name of a feature: the one column of which it is the latest value."""
    (column,) = columns(spec.features[feature].expression)
    return column


def _feast_view(spec: FeatureViewSpec) -> str:
    return spec.source.feast if isinstance(spec.source.feast, str) else spec.name


def _ordered(views: Mapping[str, str], values: Mapping[str, FeatureValue]) -> dict[str, FeatureValue]:
    """Values in the order of their views, wherever they were read."""
    place = {view: number for number, view in enumerate(views)}
    return {name: values[name] for name in sorted(values, key=lambda name: place[name.partition(".")[0]])}
