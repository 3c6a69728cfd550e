"""Holds: times in which no run of some workflows begins and those under way are given back: freezes and windows; and
limits, within which so many are under way at once.

Invariant: a hold always ends by itself. The claim of a run reads the holds in its own transaction
(``durable/claims.py``), so that none begins inside of one, also while the process that wrote it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import missing
from antiphon.core.scope import Scope

KEPT = timedelta(days=30)
"""Time for which a hold that is over is remembered."""

HoldKind = Literal["freeze", "window", "limit"]

_table = schema.run_holds
_ORDER = (_table.c.begins, _table.c.id, _table.c.workflow)


class RunHold(msgspec.Struct, frozen=True):
    """A freeze or a limit that was ordered, or an occurrence of a declared window.

    Attributes:
        name: the window's; of others the id.
        workflows: of the runs that are held.
        until: its end, at which it is over.
        principal: who ordered the freeze or limit, or applied the window.
        slots: of a limit: so many of these runs are under way at once, of all workers of the scope together.
    """

    id: str
    kind: HoldKind
    name: str
    workflows: tuple[str, ...]
    begins: datetime
    until: datetime
    reason: str
    principal: str
    slots: int = 0


class RunHolds:
    """Repository of the holds of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, scope: Scope, hold: RunHold, *, within: Connection | None = None) -> None:
        """Write a hold; runs that it is about are given back within a second or two."""
        now = self._database.clock.now()
        values = msgspec.structs.asdict(hold)
        workflows = values.pop("workflows")
        row = {**values, "tenant": scope.tenant, "environment": scope.environment, "created_at": now}
        with self._database.writing(within) as connection:
            old = schema.owned(_table, scope) & (_table.c.until < now - KEPT)
            connection.execute(delete(_table).where(old))
            connection.execute(insert(_table), [{**row, "workflow": workflow} for workflow in workflows])
            self._ring(scope)

    def end(self, scope: Scope, hold: str, *, within: Connection | None = None) -> RunHold:
        """End a hold now; one that is over stays as it is.

        Raises:
            NotFoundError: there is none of this id.
        """
        now = self._database.clock.now()
        with self._database.writing(within) as connection:
            lasting = schema.owned(_table, scope, id=hold) & (_table.c.until > now)
            connection.execute(update(_table).where(lasting).values(until=now))
            self._ring(scope)
            found = self._find(scope, _table.c.id == hold, within=connection)
        if not found:
            raise missing("hold", hold, scope, "See `antiphon freeze list`.")
        return found[0]

    def lasting(self, scope: Scope, *, limits: bool = False, within: Connection | None = None) -> tuple[RunHold, ...]:
        """The holds that are not over, those to come included, in the order in which they begin; with ``limits`` those
        that leave slots, too."""
        of_kind = () if limits else (_table.c.slots == 0,)
        return self._find(scope, _table.c.until > self._database.clock.now(), *of_kind, within=within)

    def list(self, scope: Scope, since: datetime) -> tuple[RunHold, ...]:
        """The freezes and windows that were not over at a moment."""
        return self._find(scope, _table.c.until > since, _table.c.slots == 0)

    def put_windows(self, scope: Scope, windows: Sequence[RunHold], *, within: Connection | None = None) -> bool:
        """Make these the window holds that are not over, in place of others; tells whether any changed. One that ended
        since it was found stays as it is."""
        with self._database.writing(within) as connection:
            now = self._database.clock.now()
            lasting = self._find(scope, _table.c.until > now, within=connection)
            known = {one.id: one for one in lasting if one.kind == "window"}
            declared = {one.id: one for one in windows if one.until > now}
            changed = [one for one in declared.values() if known.get(one.id) != one]
            gone = [name for name, one in known.items() if declared.get(name) != one]
            if gone:
                connection.execute(delete(_table).where(schema.owned(_table, scope), _table.c.id.in_(gone)))
                self._ring(scope)
            for one in changed:
                self.add(scope, one, within=connection)
        return bool(changed or gone)

    def _find(
        self, scope: Scope, *conditions: ColumnElement[bool], within: Connection | None = None
    ) -> tuple[RunHold, ...]:
        statement = select(_table).where(schema.owned(_table, scope), *conditions).order_by(*_ORDER)
        return tuple(_holds_of(self._database.rows(statement, within)))

    def _ring(self, scope: Scope) -> None:
        for topic in ("runs", "cancellations"):
            self._database.ring(topic, scope)


def _holds_of(rows: Iterable[Any]) -> Iterable[RunHold]:
    for _, group in groupby(rows, key=lambda row: row.id):
        held = list(group)
        named = {name: getattr(held[0], name) for name in RunHold.__struct_fields__ if name != "workflows"}
        yield RunHold(**named, workflows=tuple(row.workflow for row in held))
