"""Holds: views whose published snapshots stay until they are released, whatever refreshes make."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.scope import Scope


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
        now = self._database.clock.now()
        values = {"reason": reason, "principal": principal, "created_at": microseconds(now)}
        statement = upsert(schema.feature_holds).values(
            tenant=scope.tenant, environment=scope.environment, view=view, **values
        )
        with self._database.writing(within) as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=["tenant", "environment", "view"], set_=values)
            )
        return Hold(view, reason, principal, now)

    def remove(self, scope: Scope, view: str, *, within: Connection | None = None) -> bool:
        """Let a view go on; whether it was held."""
        table = schema.feature_holds
        with self._database.writing(within) as connection:
            done = connection.execute(delete(table).where(schema.owned(table, scope), table.c.view == view))
        return bool(done.rowcount)

    def of(self, scope: Scope) -> dict[str, Hold]:
        """Held views by name."""
        table = schema.feature_holds
        with self._database.read() as connection:
            rows = connection.execute(select(table).where(schema.owned(table, scope)).order_by(table.c.view)).all()
        return {row.view: Hold(row.view, row.reason, row.principal, from_microseconds(row.created_at)) for row in rows}
