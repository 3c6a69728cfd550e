"""Objectives as they stand, and their alerts: since when one fires, and when it was over.

Invariant: of one objective and severity at most one alert is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.scope import Scope

AlertSeverity = Literal["critical", "warning"]

_states, _alerts = schema.objective_states, schema.objective_alerts
_put = upsert(_states).on_conflict_replace("state", "created_at")


class ObjectiveAlert(msgspec.Struct, frozen=True):
    """An alert of an objective: ``reason`` as it began, ``resolved_at`` when it was over."""

    id: str
    objective: str
    application: str
    severity: AlertSeverity
    reason: str
    began_at: datetime
    resolved_at: datetime | None


class ObjectiveStates:
    """Repository of the states of objectives and of their alerts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, scope: Scope, states: Mapping[str, bytes], at: datetime, *, within: Connection) -> None:
        """Keep the state of each of these objectives as JSON, and forget all others."""
        known = schema.owned(_states, scope)
        within.execute(delete(_states).where(known, _states.c.objective.not_in(list(states) or [""])))
        for objective, state in sorted(states.items()):
            row = {"tenant": scope.tenant, "environment": scope.environment, "objective": objective}
            within.execute(_put, {**row, "state": state, "created_at": at})

    def list(self, scope: Scope) -> dict[str, bytes]:
        """The last state of each objective."""
        rows = self._database.rows(select(_states).where(schema.owned(_states, scope)).order_by(_states.c.objective))
        return {row.objective: row.state for row in rows}

    def open_alerts(self, scope: Scope, *, within: Connection | None = None) -> tuple[ObjectiveAlert, ...]:
        """Alerts that are not over, the oldest first."""
        return self._found(scope, _alerts.c.resolved_at.is_(None), _alerts.c.began_at.asc(), within=within)

    def alerts(self, scope: Scope, limit: int = 50) -> tuple[ObjectiveAlert, ...]:
        """Alerts, the latest first."""
        return self._found(scope, _alerts.c.began_at.is_not(None), _alerts.c.began_at.desc(), limit)

    def begin(self, scope: Scope, alert: ObjectiveAlert, *, within: Connection) -> None:
        """Record that an alert fires."""
        row = {**msgspec.structs.asdict(alert), "tenant": scope.tenant, "environment": scope.environment}
        within.execute(insert(_alerts).values(row))

    def resolve(self, scope: Scope, alert: str, at: datetime, *, within: Connection) -> None:
        """Record that an alert is over."""
        within.execute(update(_alerts).where(schema.owned(_alerts, scope, id=alert)).values(resolved_at=at))

    def _found(
        self,
        scope: Scope,
        condition: ColumnElement[bool],
        order: ColumnElement[Any],
        limit: int | None = None,
        *,
        within: Connection | None = None,
    ) -> tuple[ObjectiveAlert, ...]:
        statement = select(_alerts).where(schema.owned(_alerts, scope), condition).order_by(order).limit(limit)
        names = ObjectiveAlert.__struct_fields__
        return tuple(
            ObjectiveAlert(**{name: getattr(row, name) for name in names})
            for row in self._database.rows(statement, within)
        )
