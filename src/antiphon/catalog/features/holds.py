"""Holds: views whose published snapshots stay until they are released, whatever refreshes make."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import row_of, value_of
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
