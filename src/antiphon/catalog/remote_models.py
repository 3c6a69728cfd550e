"""Models that servers elsewhere serve, and the versions that each was seen to be, first to last.

Invariant: a row stands for a stretch of time in which nothing showed another model; a change is a new row, and rows of
the past never change. They belong to a tenant and environment, whose settings name the servers.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import value_of
from antiphon.core.scope import Scope

_table = schema.remote_models


class RemoteModelVersion(msgspec.Struct, frozen=True):
    """One version of a model behind a server.

    Attributes:
        engine: the name of the server's engine, ``main`` or one under ``[engines]``; ``model``: the name of requests.
        sequence: counts the changes of the model, from 1.
        version: names it; one that comes back has its name again.
        evidence: the strongest fact that it is known by.
        reason: what showed another version than before; empty of the first.
        seen: the facts that it is compared by, as JSON.
        since: when it was seen first; ``checked_at``: last.
        accepted_by: who had it served where a changed model is refused.
    """

    engine: str
    model: str
    sequence: int
    version: str
    evidence: str
    reason: str
    seen: str
    since: datetime
    checked_at: datetime
    accepted_by: str | None = None


class RemoteModels:
    """Repository of the models behind the servers of one scope."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._scope = scope
        self._own = schema.owned(_table, scope)

    def list(self) -> tuple[RemoteModelVersion, ...]:
        """Every version that was seen, by engine and model, the latest first."""
        order = (_table.c.engine, _table.c.model, _table.c.sequence.desc())
        return self._found(select(_table).where(self._own).order_by(*order), None)

    def past(
        self, engine: str, model: str, limit: int = 16, *, within: Connection | None = None
    ) -> tuple[RemoteModelVersion, ...]:
        """The versions of one model, the latest first."""
        named = select(_table).where(self._own, _table.c.engine == engine, _table.c.model == model)
        return self._found(named.order_by(_table.c.sequence.desc()).limit(limit), within)

    def at(
        self, engine: str, model: str, moment: datetime, *, within: Connection | None = None
    ) -> RemoteModelVersion | None:
        """The version that was known at a moment; ``None`` before the first was seen."""
        named = (self._own, _table.c.engine == engine, _table.c.model == model, _table.c.since <= moment)
        found = self._found(select(_table).where(*named).order_by(_table.c.sequence.desc()).limit(1), within)
        return found[0] if found else None

    def add(self, version: RemoteModelVersion, *, within: Connection) -> None:
        """Record a version that was seen first, or again after another."""
        row = {**msgspec.structs.asdict(version), "tenant": self._scope.tenant, "environment": self._scope.environment}
        within.execute(insert(_table).values(row))

    def set(self, version: RemoteModelVersion, *, within: Connection, **values: Any) -> None:
        """Change what the latest version's row says beside the version."""
        row = (_table.c.engine == version.engine, _table.c.model == version.model)
        within.execute(update(_table).where(self._own, *row, _table.c.sequence == version.sequence).values(**values))

    def _found(self, statement: Any, within: Connection | None) -> tuple[RemoteModelVersion, ...]:
        return tuple(value_of(RemoteModelVersion, row) for row in self._database.rows(statement, within))
