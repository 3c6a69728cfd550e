"""Publications: numbered, atomic sets of snapshots that are current online; and holds, which keep a view's as they are.

Invariants:
- Publication N is written by compare-and-swap on N − 1 and never changes. It holds every snapshot of N − 1 with the
  given changes applied, so one row is the whole truth of what is current. Rollback is N + 1. A view that was published
  stays so, in every definition version, until it is withdrawn by name.
- It is served from a moment of the catalog's clock that is :data:`NOTICE` after its row. By then every reader that had
  read the publications before the row was there has read them again, so all of them begin at that moment (ADR 0135).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import delete, or_, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import missing, row_of, value_of
from antiphon.core.clock import utc
from antiphon.core.errors import NotFoundError, WriteConflictError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

LONGEST_LEASE = timedelta(milliseconds=100)
"""For so long at most a reader believes what it has read of the publications."""

COMMIT = timedelta(milliseconds=200)
"""Longest time from a publication's row to the end of its commit that is counted with."""

NOTICE = LONGEST_LEASE + COMMIT
"""Time from a publication's row to the moment from which it is served."""

_log = logging.getLogger("antiphon.features")


class Publication(msgspec.Struct, frozen=True):
    """A set of snapshots that is online from ``served_from`` on.

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
    served_from: datetime


class PublicationSchedule(msgspec.Struct, frozen=True):
    """The publications of a scope from the served one on.

    Attributes:
        served: the one that is served; ``None`` before the first.
        announced: later ones, in order of their numbers.
        now: the time of the catalog's clock, told between ``asked_at`` and ``told_at`` of this process's monotonic one.
        read_at: what was committed before this second of the monotonic clock is among them.
    """

    served: Publication | None
    announced: tuple[Publication, ...]
    now: datetime
    read_at: float
    asked_at: float
    told_at: float

    def until_served(self) -> float:
        """Seconds from ``told_at`` on until all of them are served."""
        return max(((one.served_from - self.now).total_seconds() for one in self.announced), default=0.0)


_table = schema.publications


class Publications:
    """Repository of publications.

    Args:
        notice: time from a publication's row to the moment from which it is served; less than :data:`NOTICE` only where
            one reader serves all clients.
    """

    def __init__(self, database: Database, *, notice: timedelta = NOTICE) -> None:
        self._database = database
        self._notice = notice

    def schedule(self, scope: Scope, *, within: Connection | None = None) -> PublicationSchedule:
        """The served publication and those announced."""
        clock = self._database.clock
        read_at = clock.monotonic()
        with self._database.reading(within) as connection:
            asked_at = clock.monotonic()
            now = self._database.told_time(connection)
            told_at = clock.monotonic()
            # No row is further ahead than the notice unless the catalog's clock was set back: it is not waited for.
            due = or_(_table.c.served_from <= now, _table.c.served_from > now + NOTICE)
            owned = schema.owned(_table, scope)
            latest = select(_table.c.number).where(owned, due).order_by(_table.c.number.desc()).limit(1)
            number = connection.execute(latest).scalar()
            later = select(_table).where(owned, _table.c.number >= (number or 0)).order_by(_table.c.number)
            found = tuple(_publication(row) for row in connection.execute(later))
        served, announced = (None, found) if number is None else (found[0], found[1:])
        return PublicationSchedule(served, announced, now, read_at, asked_at, told_at)

    def wait_until_served(self, scope: Scope) -> None:
        """Return when what is published now is served, which takes :data:`NOTICE` at most."""
        time.sleep(self.schedule(scope).until_served())

    def current(self, scope: Scope, *, within: Connection | None = None) -> Publication | None:
        """The latest publication, served or announced; ``None`` before the first."""
        found = self.list(scope, 1, within=within)
        return found[0] if found else None

    def snapshots(self, scope: Scope, *, within: Connection | None = None) -> dict[str, str]:
        """The snapshots of the latest publication; none before the first."""
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
        """Make publication ``expected + 1`` current.

        Args:
            changes: ``view@definition_version`` to snapshot id; ``None`` withdraws the view.
            expected: the number the caller saw as current, 0 before the first.

        Raises:
            WriteConflictError: another publication came first; read the current one and rebase.
            NotFoundError: a snapshot is not recorded in this scope, or was pruned.
        """
        with self._database.writing(within) as connection:
            current = self.current(scope, within=connection)
            number, snapshots = (0, {}) if current is None else (current.number, current.snapshots)
            if number != expected:
                raise _lost(scope, expected, number)
            changed = {**snapshots, **changes}
            merged = {view: snapshot for view, snapshot in changed.items() if snapshot is not None}
            self._require_snapshots(connection, scope, {s for s in changes.values() if s is not None})
            return self._write(connection, scope, expected + 1, expected, merged, reason, principal)

    def rollback(self, scope: Scope, to: int, reason: str, principal: str) -> Publication:
        """Publish the snapshots of publication ``to`` again, as N + 1.

        A definition version that was published later stays: a release that pins it goes on being answered from it.

        Raises:
            NotFoundError: there is no publication ``to``, or one of its snapshots was pruned.
        """
        with self._database.transaction() as connection:
            back = self.get(scope, to, within=connection)
            self._require_snapshots(connection, scope, set(back.snapshots.values()))
            current = self.current(scope, within=connection) or back
            snapshots = {**current.snapshots, **back.snapshots}
            return self._write(connection, scope, current.number + 1, to, snapshots, reason, principal)

    def _require_snapshots(self, connection: Connection, scope: Scope, requested: set[str]) -> None:
        table = schema.snapshots
        kept = select(table.c.id).where(schema.owned(table, scope), table.c.pruned_at.is_(None))
        found = set(connection.execute(kept.where(table.c.id.in_(requested))).scalars())
        if gone := sorted(requested - found):
            raise NotFoundError(
                f"Not recorded, or pruned: snapshot {', '.join(gone)}.",
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
        asked_at = self._database.clock.monotonic()
        now = utc(self._database.told_time(connection))
        made = Publication(scope, number, snapshots, reason, principal, now, base, now + self._notice)
        statement = upsert(_table).values(row_of(_table, made, snapshots=canonical(snapshots)))
        if not connection.execute(statement.on_conflict_do_nothing()).rowcount:
            raise _lost(scope, number - 1, number)
        if self._notice:
            self._database.gather(self._require_in_time, (made, asked_at))
        return made

    def _require_in_time(self, made: Sequence[tuple[Publication, float]], _connection: Connection) -> None:
        """Undo a transaction that has taken half of the time for its commit already, as that of a process that was
        stopped meanwhile: a reader might learn of its publications too late."""
        now = self._database.clock.monotonic()
        for one, asked_at in made:
            if now - asked_at > COMMIT.total_seconds() / 2:
                raise WriteConflictError(
                    f"Publication {one.number} was not ready to be committed within {_milliseconds(COMMIT / 2)} ms.",
                    where=str(one.scope),
                    next_step="Publish again.",
                )

    def committed_in_time(self, made: Publication) -> bool:
        """Whether the commit of a publication that just ended was early enough for every reader; a late one is
        logged."""
        late = utc(self._database.clock.now()) - made.created_at - COMMIT
        if not self._notice or late <= timedelta(0):
            return True
        _log.warning(
            "The commit of publication %d took %d ms longer than readers count with. For so long a client of several "
            "gateways may have seen it and after it the one before.", made.number, _milliseconds(late),
        )  # fmt: skip
        return False


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1e3)


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
        changed = {name: statement.excluded[name] for name in ("reason", "principal", "created_at")}
        self._database.write(statement.on_conflict_do_update(set_=changed), within)
        return hold

    def remove(self, scope: Scope, view: str, *, within: Connection | None = None) -> bool:
        """Let a view go on; whether it was held."""
        table = schema.feature_holds
        return bool(self._database.write(delete(table).where(schema.owned(table, scope, view=view)), within))

    def of(self, scope: Scope) -> dict[str, Hold]:
        """Held views by name."""
        table = schema.feature_holds
        rows = self._database.rows(select(table).where(schema.owned(table, scope)).order_by(table.c.view))
        return {row.view: value_of(Hold, row) for row in rows}
