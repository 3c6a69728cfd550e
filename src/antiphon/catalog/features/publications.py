"""Publications: numbered, atomic sets of snapshots that are current online; and holds, which keep a view's as they are.

Invariant: publication N is written by compare-and-swap on N − 1 and never changes. It holds every snapshot of
N − 1 with the given changes applied, so one row is the whole truth of what is current. Rollback is N + 1. A view that
was published stays so, in every definition version, until it is withdrawn by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import missing, row_of, value_of
from antiphon.core.clock import utc
from antiphon.core.errors import NotFoundError, WriteConflictError
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope


class Publication(msgspec.Struct, frozen=True):
    """The set of snapshots that is current online since ``created_at``.

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


_table = schema.publications


class Publications:
    """Repository of publications."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, scope: Scope, *, within: Connection | None = None) -> Publication | None:
        """The latest publication, ``None`` before the first."""
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
        made = Publication(scope, number, snapshots, reason, principal, utc(self._database.clock.now()), base)
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
        changed = {name: statement.excluded[name] for name in ("reason", "principal", "created_at")}
        self._database.write(statement.on_conflict_do_update(set_=changed), within)
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
