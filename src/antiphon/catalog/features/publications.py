"""Publications: numbered, atomic sets of snapshots that are current online; and holds, which keep a view's as they are.

Invariants:
- Publication N is written by compare-and-swap on N − 1 and its snapshots never change. It holds every snapshot of N − 1
  with the given changes applied, so one row is the whole truth of what is current. Rollback is N + 1. A view that was
  published stays so, in every definition version, until it is withdrawn by name.
- It is announced first and served by a commit of its own, :data:`NOTICE` later. A reader that knows of an announced
  publication asks for each request, and by then every reader that did not know has asked again: all of them begin to
  serve it with that commit, whatever their clocks say and however long a commit takes (ADR 0135).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import missing, row_of, value_of
from antiphon.core.clock import utc
from antiphon.core.errors import NotFoundError, WriteConflictError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

LONGEST_LEASE = 0.1
"""Seconds for which at most a reader believes that nothing is announced."""

NOTICE = 1.05 * LONGEST_LEASE
"""Seconds from the end of the commit that announces a publication to the one that serves it: longer than a lease on any
clock."""


class Publication(msgspec.Struct, frozen=True):
    """The set of snapshots that is online since ``served_at``; announced only before.

    ``snapshots`` maps ``view@definition_version`` to a snapshot id. ``base`` is the publication whose snapshots
    the changes were applied to: N − 1, or for a rollback the one whose set came back.
    """

    scope: Scope
    number: int
    snapshots: dict[str, str]
    reason: str
    principal: str
    created_at: datetime
    base: int
    served_at: datetime | None = None


class OnlinePublications(msgspec.Struct, frozen=True):
    """The publication that is served, ``None`` before the first, and those announced after it, in order."""

    served: Publication | None
    announced: tuple[Publication, ...] = ()


_table = schema.publications


class Publications:
    """Repository of publications.

    Args:
        notice: seconds for which one is announced; less than :data:`NOTICE` only where one reader serves every client.
    """

    def __init__(self, database: Database, *, notice: float = NOTICE) -> None:
        self._database = database
        self._notice = notice

    def online(self, scope: Scope, *, within: Connection | None = None) -> OnlinePublications:
        """The publication that is served, and those announced."""
        served = select(func.max(_table.c.number)).where(schema.owned(_table, scope), _table.c.served_at.is_not(None))
        from_it_on = _table.c.number >= func.coalesce(served.scalar_subquery(), 0)
        statement = select(_table).where(schema.owned(_table, scope), from_it_on).order_by(_table.c.number)
        found = tuple(map(_publication, self._database.rows(statement, within)))
        if found and found[0].served_at is not None:
            return OnlinePublications(found[0], found[1:])
        return OnlinePublications(None, found)

    def serve(self, announced: Publication) -> Publication:
        """Have a publication served whose announcement is committed, once every reader knows of it.

        What was announced before it is passed over. Where this is never called, for the process was killed, a reader
        does it.
        """
        if announced.served_at is not None:
            return announced
        time.sleep(self._notice)
        return self.serve_known(announced)

    def serve_known(self, announced: Publication) -> Publication:
        """As :meth:`serve`, by a caller who has known of it for the time of notice."""
        now = utc(self._database.clock.now())
        mine = schema.owned(_table, announced.scope, number=announced.number)
        self._database.write(update(_table).where(mine, _table.c.served_at.is_(None)).values(served_at=now))
        return self.get(announced.scope, announced.number)

    def current(self, scope: Scope, *, within: Connection | None = None) -> Publication | None:
        """The publication that is served, ``None`` before the first."""
        return self.online(scope, within=within).served

    def latest(self, scope: Scope, *, within: Connection | None = None) -> Publication | None:
        """The latest publication, served or announced, which the next one follows; ``None`` before the first."""
        found = self.list(scope, 1, within=within)
        return found[0] if found else None

    def snapshots(self, scope: Scope, *, within: Connection | None = None) -> dict[str, str]:
        """The snapshots of the publication that is served; none before the first."""
        current = self.current(scope, within=within)
        return {} if current is None else current.snapshots

    def get(self, scope: Scope, number: int, *, within: Connection | None = None) -> Publication:
        """One publication by number.

        Raises:
            NotFoundError: it does not exist.
        """
        row = self._database.first(select(_table).where(schema.owned(_table, scope, number=number)), within)
        if row is None:
            raise missing("publication", number, scope, "See `antiphon features list`.")
        return _publication(row)

    def at(self, scope: Scope, moment: datetime, *, within: Connection | None = None) -> Publication | None:
        """The publication that was served at a moment, ``None`` before the first."""
        statement = (
            select(_table)
            .where(schema.owned(_table, scope), _table.c.served_at <= utc(moment))
            .order_by(_table.c.number.desc())
            .limit(1)
        )
        row = self._database.first(statement, within)
        return None if row is None else _publication(row)

    def list(self, scope: Scope, limit: int = 50, *, within: Connection | None = None) -> list[Publication]:
        """Publications, latest first."""
        statement = select(_table).where(schema.owned(_table, scope)).order_by(_table.c.number.desc()).limit(limit)
        with self._database.reading(within) as connection:
            return [_publication(row) for row in connection.execute(statement)]

    def publish(
        self,
        scope: Scope,
        changes: Mapping[str, str | None],
        *,
        expected: int,
        reason: str,
        principal: str,
        within: Connection | None = None,
    ) -> Publication:
        """Make publication ``expected + 1`` current. In a transaction of its own it is served when this returns; in the
        caller's it is announced, and :meth:`serve` is to be called after the commit.

        Args:
            changes: ``view@definition_version`` to snapshot id; ``None`` withdraws the view.
            expected: the number the caller saw as current, 0 before the first.

        Raises:
            WriteConflictError: another publication came first; read the current one and rebase.
            NotFoundError: a snapshot is not recorded in this scope, was pruned, or is a backfill's.
        """
        with self._database.writing(within) as connection:
            current = self.latest(scope, within=connection)
            number, snapshots = (0, {}) if current is None else (current.number, current.snapshots)
            if number != expected:
                raise _lost(scope, expected, number)
            changed = {**snapshots, **changes}
            merged = {view: snapshot for view, snapshot in changed.items() if snapshot is not None}
            self._require_snapshots(connection, scope, {s for s in changes.values() if s is not None})
            made = self._write(connection, scope, expected + 1, expected, merged, reason, principal)
        return self.serve(made) if within is None else made

    def rollback(self, scope: Scope, to: int, *, expected: int, reason: str, principal: str) -> Publication:
        """Publish the snapshots of publication ``to`` again, as ``expected + 1``, which is served when this returns.

        A definition version that was published later stays: a release that pins it goes on being answered from it.

        Raises:
            WriteConflictError: another publication came first.
            NotFoundError: there is no publication ``to``, or one of its snapshots was pruned.
        """
        with self._database.transaction() as connection:
            back = self.get(scope, to, within=connection)
            self._require_snapshots(connection, scope, set(back.snapshots.values()))
            current = self.latest(scope, within=connection) or back
            if current.number != expected:
                raise _lost(scope, expected, current.number)
            snapshots = {**current.snapshots, **back.snapshots}
            made = self._write(connection, scope, expected + 1, to, snapshots, reason, principal)
        return self.serve(made)

    def _require_snapshots(self, connection: Connection, scope: Scope, requested: set[str]) -> None:
        table = schema.snapshots
        kept = select(table.c.id).where(
            schema.owned(table, scope), table.c.pruned_at.is_(None), table.c.backfilled.is_(False)
        )
        found = set(connection.execute(kept.where(table.c.id.in_(requested))).scalars())
        if gone := sorted(requested - found):
            raise NotFoundError(
                f"Not recorded, pruned, or a backfill's: snapshot {', '.join(gone)}.",
                where=str(scope),
                next_step="Refresh the view, or roll back to a later publication.",
            )

    def _write(
        self,
        connection: Connection,
        scope: Scope,
        number: int,
        base: int,
        snapshots: dict[str, str],
        reason: str,
        principal: str,
    ) -> Publication:
        now = utc(self._database.clock.now())
        made = Publication(scope, number, snapshots, reason, principal, now, base, None if self._notice else now)
        statement = upsert(_table).values(row_of(_table, made, snapshots=canonical(snapshots)))
        if not connection.execute(statement.on_conflict_do_nothing()).rowcount:
            raise _lost(scope, number - 1, number)
        self._database.ring("features", scope)
        return made


def _publication(row: Row[Any]) -> Publication:
    return value_of(Publication, row, snapshots=msgspec.json.decode(row.snapshots, type=dict[str, str]))


def _lost(scope: Scope, expected: int, number: int) -> WriteConflictError:
    return WriteConflictError(
        f"Publication {expected} is not current any more; {number} is.",
        where=str(scope),
        next_step="Read the current publication and apply the changes to it.",
    )


class Hold(msgspec.Struct, frozen=True):
    """A held view: by whom, why and since when."""

    view: str
    reason: str
    principal: str
    created_at: datetime


class FeatureHolds:
    """Repository of holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, scope: Scope, view: str, *, reason: str, principal: str, within: Connection | None = None) -> Hold:
        """Hold a view; one that is held already is held for the new reason."""
        hold = Hold(view, reason, principal, self._database.clock.now())
        statement = upsert(schema.feature_holds).values(row_of(schema.feature_holds, hold, scope))
        self._database.write(statement.on_conflict_replace("reason", "principal", "created_at"), within)
        return hold

    def remove(self, scope: Scope, view: str, *, within: Connection | None = None) -> bool:
        """Let a view go on; whether it was held."""
        table = schema.feature_holds
        with self._database.writing(within) as connection:
            held = bool(connection.execute(delete(table).where(schema.owned(table, scope, view=view))).rowcount)
            self._database.ring("features", scope)  # A snapshot of it may be due.
        return held

    def of(self, scope: Scope) -> dict[str, Hold]:
        """Held views by name."""
        table = schema.feature_holds
        rows = self._database.rows(select(table).where(schema.owned(table, scope)).order_by(table.c.view))
        return {row.view: value_of(Hold, row) for row in rows}
