"""Reports of skew: what comparisons of batch and online found of each view, kept for a while.

Invariant: a report is in the catalog as a row a view, all written in one transaction, and never changed. So the history
of a view is read without those of others, and a row's counts are those of its document.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.scope import Scope

Value = float | int | str | bool | None

Path = Literal["online", "served"]
"""``online``: read now for a sample of entities. ``served``: what predictions used, at their moments."""

Basis = Literal["source", "files", "lake"]
"""Origin of the batch values: the source, which is what the snapshot read; the files that it was made from, which lie
there unchanged among others; or the events and tiles that the snapshot keeps in the lake."""


class Difference(msgspec.Struct, frozen=True):
    """One value that the two paths do not agree on.

    Attributes:
        entity: the entity's keys; ``None`` for a reader who may not see them.
        online: the value that was read or served, with the time of its latest event; ``batch``: the one computed now.
        through: last log offset that was known, of a stream.
        prediction: which one used it.
    """

    entity: dict[str, str] | None
    as_of: datetime
    online: Value
    batch: Value
    online_event_time: datetime | None
    batch_event_time: datetime | None
    snapshot: str | None
    through: int | None = None
    prediction: str | None = None


class FeatureSkew(msgspec.Struct, frozen=True):
    """One feature on one path: ``equal`` and ``different`` of those ``compared``, a few examples of the different, how
    many could not be compared, by reason, and how many were ``judged_by`` what: a :data:`Basis`, the ``request``, or
    the source as it is ``now``, to which a value may be equal all the same."""

    view: str
    feature: str
    definition_version: str
    path: Path
    compared: int
    equal: int
    different: int
    examples: tuple[Difference, ...] = ()
    not_comparable: dict[str, int] = {}
    judged_by: dict[str, int] = {}


class SkewReport(msgspec.Struct, frozen=True):
    """A whole comparison.

    Attributes:
        publication: what was current; ``None`` when nothing is published.
        as_of: the moment of the online readings.
        sample: entities asked for of each view, predictions asked for.
        predictions: how many were looked at.
        complete: whether it ended before its time was over; what was left out is counted as not comparable.
        seed: which entities were drawn: the same of the same snapshot by the same seed.
    """

    publication: int | None
    as_of: datetime
    sample: int
    predictions: int
    seconds: float
    complete: bool
    compared: int
    different: int
    features: tuple[FeatureSkew, ...]
    seed: int = 0

    def without_entities(self) -> SkewReport:
        """The same without entity keys and predictions, which lead to them."""
        return msgspec.structs.replace(
            self,
            features=tuple(
                msgspec.structs.replace(
                    feature,
                    examples=tuple(
                        msgspec.structs.replace(example, entity=None, prediction=None) for example in feature.examples
                    ),
                )
                for feature in self.features
            ),
        )

    def of_views(self, names: Sequence[str]) -> SkewReport:
        """The same of some views alone."""
        features = tuple(one for one in self.features if one.view in names)
        return msgspec.structs.replace(
            self,
            features=features,
            compared=sum(one.compared for one in features),
            different=sum(one.different for one in features),
        )

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it says something about."""
        return tuple(sorted({one.view for one in self.features}))

    @property
    def not_comparable(self) -> int:
        """Number of values that could not be compared."""
        return sum(values for one in self.features for values in one.not_comparable.values())


class ViewSkew(msgspec.Struct, frozen=True):
    """Counts of one comparison of one view.

    Attributes:
        report: its id. measured_at: when it was done. trigger: ``schedule``, or who asked for it.
        publication: what was current; ``None`` when nothing was.
        complete: whether it ended before its time was over.
        share: of the compared values those that differ, from 0 to 1; ``None`` when nothing was compared.
    """

    report: str
    view: str
    measured_at: datetime
    trigger: str
    publication: int | None
    compared: int
    different: int
    not_comparable: int
    complete: bool
    share: float | None


SCHEDULE = "schedule"
"""The trigger of scheduled comparisons."""

_SCHEMA = "skew/1"
_decoder = msgspec.json.Decoder(SkewReport)


class SkewReports:
    """Repository of reports."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        scope: Scope,
        report: str,
        found: SkewReport,
        trigger: str,
        *,
        also: Callable[[Connection], object] = lambda connection: None,
    ) -> bool:
        """Keep a report; whether it was not there yet. One without any view leaves nothing.

        Args:
            report: its id.
            also: what is written in the same transaction, when it is new.
        """
        measured_at = microseconds(self._database.clock.now())
        new = False
        with self._database.transaction() as connection:
            for view in found.views:
                of_view = found.of_views([view])
                statement = upsert(schema.skew_reports).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=report,
                    view=view,
                    trigger=trigger,
                    publication=found.publication,
                    compared=of_view.compared,
                    different=of_view.different,
                    not_comparable=of_view.not_comparable,
                    complete=found.complete,
                    document=self._database.seal(scope, _SCHEMA, f"{report}:{view}", msgspec.json.encode(of_view)),
                    measured_at=measured_at,
                )
                new |= bool(connection.execute(statement.on_conflict_do_nothing()).rowcount)
            if new:
                also(connection)
        return new

    def last(self, scope: Scope, view: str | None = None) -> tuple[ViewSkew, ...]:
        """Returns the latest report of each view; with a name, of that view alone."""
        table = schema.skew_reports
        statement = select(table.c.id).where(schema.owned(table, scope))
        if view is not None:
            statement = statement.where(table.c.view == view)
        statement = statement.order_by(table.c.measured_at.desc(), table.c.id.desc()).limit(1)
        with self._database.read() as connection:
            report = connection.execute(statement).scalar()
        if report is None:
            return ()
        return tuple(self._lines(scope, table.c.id == report, *([] if view is None else [table.c.view == view])))

    def get(self, scope: Scope, report: str, view: str | None = None) -> SkewReport | None:
        """A whole report, or of one view; ``None`` when it is not there (any more)."""
        table = schema.skew_reports
        statement = select(table.c.view, table.c.document).where(schema.owned(table, scope), table.c.id == report)
        if view is not None:
            statement = statement.where(table.c.view == view)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(table.c.view)).all()
        parts = [
            _decoder.decode(self._database.unseal(scope, _SCHEMA, f"{report}:{row.view}", row.document)) for row in rows
        ]
        if not parts:
            return None
        features = [feature for part in parts for feature in part.features]
        features.sort(key=lambda one: (not one.different, one.view, one.path, one.feature))
        return msgspec.structs.replace(
            parts[0],
            features=tuple(features),
            compared=sum(part.compared for part in parts),
            different=sum(part.different for part in parts),
        )

    def list(
        self, scope: Scope, view: str | None = None, *, since: datetime | None = None, limit: int = 100
    ) -> builtins.list[ViewSkew]:
        """Reports in numbers, a line a view, latest first."""
        table = schema.skew_reports
        conditions = [] if view is None else [table.c.view == view]
        if since is not None:
            conditions.append(table.c.measured_at >= microseconds(since))
        return self._lines(scope, *conditions, limit=limit)

    def latest_by_view(self, scope: Scope) -> dict[str, ViewSkew]:
        """Of each view what was found last, in numbers."""
        table = schema.skew_reports
        latest = (
            select(table.c.view, func.max(table.c.measured_at).label("at"))
            .where(schema.owned(table, scope))
            .group_by(table.c.view)
            .subquery()
        )
        found = self._lines(scope, table.c.view == latest.c.view, table.c.measured_at == latest.c.at)
        return {one.view: one for one in reversed(found)}

    def scheduled_at(self, scope: Scope) -> datetime | None:
        """Returns the time of the last scheduled comparison."""
        table = schema.skew_reports
        statement = select(func.max(table.c.measured_at)).where(schema.owned(table, scope), table.c.trigger == SCHEDULE)
        with self._database.read() as connection:
            at = connection.execute(statement).scalar()
        return None if at is None else from_microseconds(at)

    def expire(self, scope: Scope, before: datetime, views: Collection[str]) -> int:
        """Remove reports from before a moment, but what was found last of these views; how many rows it were."""
        table = schema.skew_reports
        kept = [one.report for one in self.latest_by_view(scope).values() if one.view in views]
        with self._database.transaction() as connection:
            return int(
                connection.execute(
                    delete(table).where(
                        schema.owned(table, scope),
                        table.c.measured_at < microseconds(before),
                        table.c.id.not_in(kept),
                    )
                ).rowcount
            )

    def _lines(self, scope: Scope, *conditions: object, limit: int = 10_000) -> builtins.list[ViewSkew]:
        table = schema.skew_reports
        statement = (
            select(
                table.c.id, table.c.view, table.c.measured_at, table.c.trigger, table.c.publication, table.c.compared,
                table.c.different, table.c.not_comparable, table.c.complete,
            )
            .where(schema.owned(table, scope), *conditions)  # type: ignore[arg-type]
            .order_by(table.c.measured_at.desc(), table.c.id.desc(), table.c.view)
            .limit(limit)
        )  # fmt: skip
        with self._database.read() as connection:
            rows = connection.execute(statement).all()
        return [
            ViewSkew(
                row.id, row.view, from_microseconds(row.measured_at), row.trigger, row.publication, row.compared,
                row.different, row.not_comparable, bool(row.complete),
                row.different / row.compared if row.compared else None,
            )
            for row in rows
        ]  # fmt: skip
