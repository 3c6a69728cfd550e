"""Levels of quotas, kept in the catalog, so that every gateway sees the same and a restart forgets nothing.

Invariant: meters that are drawn from together are drawn from in one transaction, all of them or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.clock import microseconds
from antiphon.core.scope import ANY
from antiphon.core.token_bucket import Level, Meter


class Draw(msgspec.Struct, frozen=True):
    """A request for a share of one meter.

    Attributes:
        need: what must fit.
        share: what is taken with it if there is room, to be used without asking again.
        returned: what is given back of an earlier share; negative when more was used than was drawn.
        drawn: the level after that share was drawn.
    """

    meter: Meter
    need: float
    share: float
    returned: float = 0.0
    drawn: Level | None = None


class DrawResult(msgspec.Struct, frozen=True):
    """Amounts taken of each meter (``need`` and perhaps more), zero when ``refused`` names the meter that is full.

    Attributes:
        levels: by meter, with what was taken.
        wait: seconds until it would have been let in.
        at: the moment it was drawn at (microseconds).
    """

    taken: Mapping[str, float]
    levels: Mapping[str, Level]
    at: int
    refused: str | None = None
    wait: float = 0.0


class QuotaLevels:
    """Repository of levels, by tenant, bucket and meter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def draw(self, tenant: str, bucket: str, draws: Sequence[Draw]) -> DrawResult:
        """Give back what is left of earlier shares and take what is needed, of all meters or of none.

        Raises:
            UnavailableError: the catalog is away.
        """
        now = microseconds(self._database.clock.now())
        with self._database.transaction() as connection:
            levels = self._levels(connection, tenant, bucket)
            left = {each.meter.name: _given_back(each, levels.get(each.meter.name), now) for each in draws}
            moment = max(level.at for level in left.values())
            waits = {each.meter.name: each.meter.wait(left[each.meter.name].used, each.need, moment) for each in draws}
            refused = max(waits, key=lambda name: waits[name])
            full = waits[refused] > 0
            taken = {each.meter.name: 0.0 if full else _taken(each, left[each.meter.name]) for each in draws}
            for name, level in left.items():
                level = msgspec.structs.replace(level, used=level.used + taken[name])
                left[name] = level
                self._write(connection, tenant, bucket, name, level)
        return DrawResult(taken, left, moment, refused if full else None, waits[refused])

    def used(self, tenant: str, bucket: str, meters: Sequence[Meter]) -> Mapping[str, float]:
        """Returns the present use of each meter; shares that gateways hold count as used."""
        now = microseconds(self._database.clock.now())
        with self._database.read() as connection:
            levels = self._levels(connection, tenant, bucket)
        empty = Level(0.0, now, now)
        return {meter.name: meter.drained(levels.get(meter.name, empty), now).used for meter in meters}

    def _levels(self, connection: Connection, tenant: str, bucket: str) -> dict[str, Level]:
        table = schema.quota_levels
        statement = select(table).where(table.c.tenant == tenant, table.c.environment == ANY, table.c.bucket == bucket)
        return {row.meter: value_of(Level, row) for row in connection.execute(statement)}

    def _write(self, connection: Connection, tenant: str, bucket: str, meter: str, level: Level) -> None:
        table = schema.quota_levels
        values = msgspec.structs.asdict(level)
        statement = upsert(table).values(tenant=tenant, environment=ANY, bucket=bucket, meter=meter, **values)
        connection.execute(statement.on_conflict_do_update(set_=values))


def _given_back(draw: Draw, level: Level | None, now: int) -> Level:
    drained = draw.meter.drained(level or Level(0.0, now, now), now)
    returned = draw.returned
    if returned > 0 and draw.drawn is not None:
        # The bucket runs down in the order in which it was filled: to give back the part of the share that has run down
        # would let in again what others have used since.
        emptied = drained.emptied_at > draw.drawn.at
        returned = 0.0 if emptied else min(returned, draw.meter.drained(draw.drawn, now).used)
    return msgspec.structs.replace(drained, used=max(0.0, drained.used - returned))


def _taken(draw: Draw, level: Level) -> float:
    return max(draw.need, min(draw.share, draw.meter.capacity - level.used))
