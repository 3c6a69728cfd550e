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
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import SealedRows, value_of
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
        return self.made_of([one for one in self.features if one.view in names])

    def made_of(self, features: Sequence[FeatureSkew]) -> SkewReport:
        """The same with these features instead, and their counts."""
        return msgspec.structs.replace(
            self,
            features=tuple(features),
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

_table = schema.skew_reports


class SkewReports:
    """Repository of reports."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "skew_reports.document", SkewReport)

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
        measured_at = self._database.clock.now()
        new = False
        with self._database.transaction() as connection:
            for view in found.views:
                of_view = found.of_views([view])
                row = self._documents.row(
                    of_view, scope, id=report, view=view, trigger=trigger, measured_at=measured_at
                )
                new |= bool(connection.execute(upsert(_table).values(row).on_conflict_do_nothing()).rowcount)
            if new:
                also(connection)
        return new

    def last(self, scope: Scope, view: str | None = None) -> tuple[ViewSkew, ...]:
        """Returns the latest report of each view; with a name, of that view alone."""
        of_view = schema.given(_table, view=view)
        statement = select(_table.c.id).where(schema.owned(_table, scope), *of_view)
        report = self._database.scalar(statement.order_by(_table.c.measured_at.desc(), _table.c.id.desc()).limit(1))
        return () if report is None else tuple(self._lines(scope, _table.c.id == report, *of_view))

    def get(self, scope: Scope, report: str, view: str | None = None) -> SkewReport | None:
        """A whole report, or of one view; ``None`` when it is not there (any more)."""
        of_view = schema.given(_table, view=view)
        parts = self._documents.find(scope, _table.c.id == report, *of_view, order=(_table.c.view,))
        if not parts:
            return None
        features = [feature for part in parts for feature in part.features]
        features.sort(key=lambda one: (not one.different, one.view, one.path, one.feature))
        return parts[0].made_of(features)

    def list(
        self, scope: Scope, view: str | None = None, *, since: datetime | None = None, limit: int = 100
    ) -> builtins.list[ViewSkew]:
        """Reports in numbers, a line a view, latest first."""
        conditions = schema.given(_table, view=view)
        if since is not None:
            conditions.append(_table.c.measured_at >= since)
        return self._lines(scope, *conditions, limit=limit)

    def latest_by_view(self, scope: Scope) -> dict[str, ViewSkew]:
        """Of each view what was found last, in numbers."""
        latest = (
            select(_table.c.view, func.max(_table.c.measured_at).label("at"))
            .where(schema.owned(_table, scope))
            .group_by(_table.c.view)
            .subquery()
        )
        found = self._lines(scope, _table.c.view == latest.c.view, _table.c.measured_at == latest.c.at)
        return {one.view: one for one in reversed(found)}

    def scheduled_at(self, scope: Scope) -> datetime | None:
        """Returns the time of the last scheduled comparison."""
        statement = select(func.max(_table.c.measured_at)).where(schema.owned(_table, scope, trigger=SCHEDULE))
        at: datetime | None = self._database.scalar(statement)
        return at

    def expire(self, scope: Scope, before: datetime, views: Collection[str]) -> int:
        """Remove reports from before a moment, but what was found last of these views; how many rows it were."""
        kept = [one.report for one in self.latest_by_view(scope).values() if one.view in views]
        old = (schema.owned(_table, scope), _table.c.measured_at < before, _table.c.id.not_in(kept))
        return self._database.write(delete(_table).where(*old))

    def _lines(self, scope: Scope, *conditions: ColumnElement[bool], limit: int = 10_000) -> builtins.list[ViewSkew]:
        counted = [column for column in _table.c if column.name != "document"]
        statement = (
            select(*counted)
            .where(schema.owned(_table, scope), *conditions)
            .order_by(_table.c.measured_at.desc(), _table.c.id.desc(), _table.c.view)
            .limit(limit)
        )
        return [
            value_of(ViewSkew, row, report=row.id, share=row.different / row.compared if row.compared else None)
            for row in self._database.rows(statement)
        ]
