"""Acknowledgments of a receiver of lineage: of which runs it has the events, and the moment before which it has all.

Invariants:
- A run that has ended since that moment, or works now, is due until it is acknowledged: that is recorded after the
  receiver took the event, so that a crash between the two sends it again and never loses it.
- The moment moves only past runs that are acknowledged, and records before it are removed: there are as many as of an
  hour.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, FromClause, and_, delete, func, or_, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.scope import Scope

ALL_EVENTS = 2
"""Events of a run: that it started, and how it ended."""

_acknowledged, _progress, _runs = schema.lineage_acknowledgments, schema.lineage_progress, schema.runs
_Conditions = builtins.list[tuple[ColumnElement[bool], ColumnElement[datetime]]]
_put = upsert(_acknowledged).on_conflict_replace("sent", "at", "refused")


class LineageProgress(msgspec.Struct, frozen=True):
    """The state of the delivery to one receiver.

    Attributes:
        receiver: its URL. begun_at: runs that had ended before are not sent by themselves.
        complete_until: every run that ended before is acknowledged.
        failures: of deliveries in a row, the last at ``failed_at`` because of ``error``.
    """

    scope: Scope
    receiver: str
    begun_at: datetime
    complete_until: datetime
    failures: int = 0
    failed_at: datetime | None = None
    error: str | None = None


class DueRun(msgspec.Struct, frozen=True):
    """A run of which the receiver was ``sent`` so many events, the first ones."""

    run: str
    sent: int


class RefusedLineage(msgspec.Struct, frozen=True):
    """A run of which the receiver refused an event, or which could not be described; it is not sent again."""

    run: str
    at: datetime
    refused: str


class LineageBacklog(msgspec.Struct, frozen=True):
    """Runs with events that were not sent, and since when the oldest of them waits."""

    runs: int
    since: datetime | None


class LineageAcknowledgments:
    """Repository of what was sent of the lineage of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(self, scope: Scope, *, within: Connection | None = None) -> LineageProgress | None:
        """The state of the delivery; ``None`` before the first."""
        row = self._database.first(select(_progress).where(schema.owned(_progress, scope)), within)
        return None if row is None else value_of(LineageProgress, row)

    def begin(self, scope: Scope, receiver: str) -> LineageProgress:
        """The state of the delivery to a receiver; one that is new gets what ends from now on."""
        known = self.progress(scope)
        if known is not None and known.receiver == receiver:
            return known
        now = self._database.clock.now()
        begun = LineageProgress(scope, receiver, now, now)
        with self._database.transaction() as connection:
            connection.execute(delete(_acknowledged).where(schema.owned(_acknowledged, scope)))
            connection.execute(delete(_progress).where(schema.owned(_progress, scope)))
            connection.execute(upsert(_progress).values(row_of(_progress, begun)))
        return begun

    def due(self, scope: Scope, limit: int) -> builtins.list[DueRun]:
        """Runs with events to send, those that ended first before the others."""
        columns = (_runs.c.id, func.coalesce(_acknowledged.c.sent, 0).label("sent"))
        with self._database.read() as connection:
            found: builtins.list[Any] = []
            for condition, order in self._conditions(scope, connection):
                statement = select(*columns).select_from(_joined()).where(condition)
                found += connection.execute(statement.order_by(order, _runs.c.id).limit(limit)).all()
        return [DueRun(row.id, row.sent) for row in found[:limit]]

    def backlog(self, scope: Scope) -> LineageBacklog:
        """Counts the runs with events to send, and finds since when the oldest waits."""
        runs, since = 0, list[datetime]()
        with self._database.read() as connection:
            for condition, order in self._conditions(scope, connection):
                statement = select(func.count(), func.min(order)).select_from(_joined()).where(condition)
                count, first = connection.execute(statement).one()
                runs += count
                since += [first] if first is not None else []
        return LineageBacklog(runs, min(since, default=None))

    def refused(self, scope: Scope, limit: int = 20) -> builtins.list[RefusedLineage]:
        """Runs of the last hour that are not sent again, latest first."""
        statement = select(_acknowledged).where(
            schema.owned(_acknowledged, scope), _acknowledged.c.refused.is_not(None)
        )
        rows = self._database.rows(statement.order_by(_acknowledged.c.at.desc(), _acknowledged.c.run).limit(limit))
        return [value_of(RefusedLineage, row) for row in rows]

    def acknowledge(self, scope: Scope, run: str, sent: int, refused: str | None = None) -> None:
        """Say that the receiver has so many events of a run, or that it is not sent again."""
        now = self._database.clock.now()
        values = {"tenant": scope.tenant, "environment": scope.environment, "run": run}
        with self._database.transaction() as connection:
            connection.execute(_put.values(**values, sent=sent, at=now, refused=refused))

    def complete(self, scope: Scope, until: datetime) -> None:
        """Let the state move on to a moment before which nothing is due, and remove the records of runs that ended
        before it."""
        ended = select(_runs.c.id).where(schema.owned(_runs, scope), _runs.c.ended_at < until)
        with self._database.transaction() as connection:
            moved = and_(schema.owned(_progress, scope), _progress.c.complete_until < until)
            connection.execute(update(_progress).where(moved).values(complete_until=until))
            connection.execute(
                delete(_acknowledged).where(schema.owned(_acknowledged, scope), _acknowledged.c.run.in_(ended))
            )

    def succeeded(self, scope: Scope) -> None:
        """Say that the receiver took something."""
        values = {"failures": 0, "failed_at": None, "error": None}
        failed = and_(schema.owned(_progress, scope), _progress.c.failures > 0)
        self._database.write(update(_progress).where(failed).values(values))

    def failed(self, scope: Scope, error: str) -> None:
        """Say that the receiver took nothing, and why."""
        values = {"failures": _progress.c.failures + 1, "failed_at": self._database.clock.now(), "error": error}
        self._database.write(update(_progress).where(schema.owned(_progress, scope)).values(values))

    def _conditions(self, scope: Scope, connection: Connection) -> _Conditions:
        """Conditions of runs that are due, each with the moment since when; two, for each has an index of its own."""
        progress = self.progress(scope, within=connection)
        if progress is None:
            return []
        of_scope, sent = schema.owned(_runs, scope), func.coalesce(_acknowledged.c.sent, 0)
        ended = and_(of_scope, _runs.c.ended_at >= progress.complete_until, sent < ALL_EVENTS)
        works = and_(of_scope, _runs.c.status == "running", or_(_acknowledged.c.run.is_(None), sent < 1))
        return [(ended, _runs.c.ended_at), (works, _runs.c.created_at)]


def _joined() -> FromClause:
    of_run = and_(
        _acknowledged.c.tenant == _runs.c.tenant,
        _acknowledged.c.environment == _runs.c.environment,
        _acknowledged.c.run == _runs.c.id,
    )
    return _runs.outerjoin(_acknowledged, of_run)
