"""Positions of long checks, from which a check that was cut off goes on.

It is kept beside the progress of re-encryptions, whose end forgets it: what was checked before may be sealed anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import UnreadablePayload
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.scope import Scope

HOLDS = timedelta(days=1)
"""Validity of a check's progress; after that a check begins anew."""


class CheckPosition(msgspec.Struct, frozen=True):
    """Position of a check: the last offset, payloads by data key, unreadable payloads, and when it was stored."""

    through: int = 0
    by_key: dict[str, int] = {}
    problems: tuple[UnreadablePayload, ...] = ()
    at: datetime | None = None


class CheckProgress:
    """Repository of checks that are under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, scope: Scope, store: str, target: str) -> CheckPosition:
        """Returns the position to go on from; the beginning when ``target`` is another one now, or it is too long
        ago."""
        table = schema.reencryptions
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(table).where(schema.owned(table, scope), table.c.store == _name(store))
            ).first()
        now = self._database.clock.now()
        if row is None or row.target != target or now - from_microseconds(row.updated_at) > HOLDS:
            return CheckPosition()
        return msgspec.json.decode(row.cursor, type=CheckPosition)

    def keep(self, scope: Scope, store: str, target: str, reached: CheckPosition) -> None:
        """Remember it; what two checks at once remember is the later one's."""
        now = self._database.clock.now()
        values = {
            "target": target,
            "cursor": msgspec.json.encode(msgspec.structs.replace(reached, at=now)).decode(),
            "done": reached.through,
            "finished": False,
            "updated_at": microseconds(now),
        }
        statement = insert(schema.reencryptions).values(
            tenant=scope.tenant, environment=scope.environment, store=_name(store), **values
        )
        with self._database.transaction() as connection:
            connection.execute(statement.on_conflict_do_update(set_=values))

    def end(self, scope: Scope, store: str) -> None:
        """Forget it: the check came to its end."""
        table = schema.reencryptions
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(schema.owned(table, scope), table.c.store == _name(store)))


def _name(store: str) -> str:
    return f"check {store}"
