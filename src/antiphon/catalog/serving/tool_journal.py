"""Journal of tools that act: each call is noted before it is made, and its result before the answer goes on.

Invariant: a call whose result is noted is not made again. One that was noted and has no result may have been made, and
is repeated with the same key, by which the tool knows it.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.scope import Scope

_SCHEMA = "tool-call/1"
_table = schema.tool_calls
_begin = upsert(_table).on_conflict_do_nothing()


class ToolJournal:
    """Repository of calls that act."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, scope: Scope, key: str, tool: str, *, within: Connection | None = None) -> str | None:
        """Note that a call begins; returns its result if it was made before."""
        with self._database.writing(within) as connection:
            row = {"tenant": scope.tenant, "environment": scope.environment, "key": key, "tool": tool}
            connection.execute(_begin, {**row, "payload": None, "created_at": self._database.clock.now()})
            payload = connection.execute(select(_table.c.payload).where(schema.owned(_table, scope, key=key))).scalar()
        return None if payload is None else self._database.unseal(scope, _SCHEMA, key, payload).decode()

    def finish(self, scope: Scope, key: str, text: str, *, within: Connection | None = None) -> None:
        """Note the text that a call gave; the first one stays."""
        sealed = self._database.seal(scope, _SCHEMA, key, text.encode())
        with self._database.writing(within) as connection:
            own = schema.owned(_table, scope, key=key)
            connection.execute(update(_table).where(own, _table.c.payload.is_(None)).values(payload=sealed))
