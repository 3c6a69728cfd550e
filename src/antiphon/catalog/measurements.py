"""Measurements over time: what the processes of an environment counted, timed and saw, in periods of five lengths.

Invariants:
- What a process appended counts once in every period: rolling up marks the rows that it took in the transaction that
  adds them, so neither a crash nor a second process counts them again, and a row that comes late still counts.
- A row holds all of one tenant and one period, so that a year is read from 365 rows, and a year of every length stays
  within some ten megabytes a dozen applications.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.unpacked_rows import UnpackedRows
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.scope import ANY, Scope

FINEST = timedelta(seconds=10)
"""The period of what processes append."""

KEPT: Mapping[timedelta, timedelta] = {
    FINEST: timedelta(hours=6),
    timedelta(minutes=1): timedelta(days=3),
    timedelta(minutes=10): timedelta(days=35),
    timedelta(hours=1): timedelta(days=400),
    timedelta(hours=6): timedelta(days=800),
    timedelta(days=1): timedelta(days=3_650),
}
"""For how long measurements of each length of period are kept. All of them divide a day of UTC."""

PLATFORM = ANY
"""The tenant of what belongs to all: engines and processes."""

MOST_SERIES = 5_000
"""Series of a row; what comes beyond is left out of it."""

_MOST_UNPACKED = 50_000
"""Amounts of unpacked rows that a repository keeps, some 55 MB: a year by the day of a dozen applications."""

_AT_ONCE = 50
"""Rows that one transaction rolls up: the catalog has one writer at a time."""

_table = schema.measurements
_put = upsert(_table).on_conflict_replace("payload", "rolled_up_at")

Series = tuple[str, tuple[str, ...]]
"""A measure's name and the values of its labels."""

Amounts = Mapping[Series, "Amount"]
"""Measurements that are read and not changed."""


class Amount(msgspec.Struct, array_like=True, gc=False):
    """The amount of one series in a period; two amounts of one series add up.

    Attributes:
        total: of a counter, what was counted; of a level, its integral over time; of durations, their sum in seconds.
        weight: of a level, the seconds for which it was seen; of durations, how many there were.
        greatest: the greatest level seen.
        buckets: observed durations by bucket of :data:`antiphon.core.histograms.GRID`.
    """

    total: float = 0.0
    weight: float = 0.0
    greatest: float = 0.0
    buckets: dict[int, int] = {}

    @property
    def is_counted(self) -> bool:
        """True of what happened, counters and durations; a level is there also while nothing does."""
        return bool(self.buckets) or not self.weight

    def add(self, other: Amount) -> None:
        """Add another amount of this series."""
        self.total += other.total
        self.weight += other.weight
        self.greatest = max(self.greatest, other.greatest)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


class Measurements(dict[Series, Amount]):
    """Amounts by series, of one tenant and one period."""

    def add(self, others: Amounts) -> None:
        """Add the amounts of other measurements, as far as there is room for their series."""
        for series, amount in others.items():
            if (own := self.get(series)) is not None:
                own.add(amount)
            elif len(self) < MOST_SERIES:
                self[series] = Amount(amount.total, amount.weight, amount.greatest, dict(amount.buckets))

    def packed(self) -> bytes:
        """As a row holds them."""
        return zlib.compress(_encode([(*series, amount) for series, amount in self.items()]))

    @classmethod
    def unpacked(cls, packed: bytes, measures: Collection[str] | None = None) -> Measurements:
        """Those that a row holds, of these measures or of all."""
        content = zlib.decompress(packed)
        if measures is None:
            return cls({(name, labels): amount for name, labels, amount in _decode(content)})
        # A page shows a few of many: the others' amounts are not made into objects.
        found = ((name, labels, raw) for name, labels, raw in _decode_names(content) if name in measures)
        return cls({(name, labels): _decode_amount(raw) for name, labels, raw in found})


_encode = msgspec.msgpack.Encoder().encode
_decode_names = msgspec.msgpack.Decoder(list[tuple[str, tuple[str, ...], msgspec.Raw]]).decode
_decode_amount = msgspec.msgpack.Decoder(Amount).decode
_decode = msgspec.msgpack.Decoder(list[tuple[str, tuple[str, ...], Amount]]).decode


class MeasurementRows:
    """Repository of the measurements of one environment."""

    def __init__(self, database: Database, environment: str) -> None:
        self._database = database
        self._environment = environment
        self._unpacked = UnpackedRows(Measurements.unpacked, _MOST_UNPACKED)

    def append(self, process: str, at: datetime, measured: Mapping[str, Measurements]) -> None:
        """Keep what one process measured, by tenant, in the period of :data:`FINEST` that a moment is in.

        What the process has there already is added to. Where that is rolled up, as after the clock was set back, it
        makes room: the longer periods have it. What was counted of a tenant rings: it has users or work.
        """
        start = begin_of(at, FINEST)
        with self._database.transaction() as connection:
            for tenant, measurements in sorted(measured.items()):
                key = self._key(tenant, FINEST, start, process)
                there = select(_table.c.payload).where(*self._is(key), _table.c.rolled_up_at.is_(None))
                packed = self._database.scalar(there, connection)
                kept = Measurements() if packed is None else Measurements.unpacked(packed)
                kept.add(measurements)
                connection.execute(_put, {**key, "payload": kept.packed(), "rolled_up_at": None})
                if tenant != PLATFORM and any(amount.is_counted for amount in measurements.values()):
                    self._database.ring("measurements", Scope(tenant=tenant, environment=self._environment))

    def read(
        self,
        tenant: str,
        period: timedelta,
        since: datetime,
        until: datetime,
        measures: Collection[str] | None = None,
    ) -> dict[datetime, Amounts]:
        """Measurements of a tenant, by the begin of their period, oldest first; up to what was appended last.

        Args:
            measures: those that are read; ``None``: all.

        Returns:
            Measurements that other readers may have too, not to be changed.
        """
        parts: dict[datetime, list[Measurements]] = {}
        first = begin_of(since, period)
        chosen = None if measures is None else frozenset(measures)
        with self._database.read() as connection:
            stored = self._rows(connection, tenant, period, first, until)
            fresh = () if period == FINEST else self._rows(connection, tenant, FINEST, first, until, fresh=True)
            for at, payload in (*stored, *fresh):
                parts.setdefault(begin_of(at, period), []).append(self._unpacked.read(payload, chosen))
        return {start: _sum(parts[start]) for start in sorted(parts)}

    def roll_up(self) -> int:
        """Add what was appended and has not been added yet to the longer periods, and forget what is kept no longer;
        returns how many rows were added."""
        added = 0
        while part := self._roll_up_some():
            added += part
            if part < _AT_ONCE:
                break
        return added

    def _roll_up_some(self) -> int:
        with self._database.transaction() as connection:
            now = self._database.clock.now()
            fresh = connection.execute(
                select(_table.c.tenant, _table.c.at, _table.c.process, _table.c.payload)
                .where(
                    _table.c.environment == self._environment,
                    _table.c.period == int(FINEST.total_seconds()),
                    _table.c.rolled_up_at.is_(None),
                    # The present period and the one before may still be added to.
                    _table.c.at < begin_of(now, FINEST) - FINEST,
                )
                .order_by(_table.c.tenant, _table.c.at)
                .limit(_AT_ONCE)
            ).all()
            sums: dict[tuple[str, timedelta, datetime], Measurements] = {}
            for row in fresh:
                measured = Measurements.unpacked(row.payload)
                for period in KEPT:
                    if period != FINEST:
                        sums.setdefault((row.tenant, period, begin_of(row.at, period)), Measurements()).add(measured)
            for (tenant, period, start), measured in sums.items():
                key = self._key(tenant, period, start, "")
                payload = connection.execute(select(_table.c.payload).where(*self._is(key))).scalar()
                kept = Measurements() if payload is None else Measurements.unpacked(payload)
                kept.add(measured)
                connection.execute(_put, {**key, "payload": kept.packed(), "rolled_up_at": now})
            if fresh:
                keys = [{"of": row.tenant, "begun": row.at, "by": row.process, "now": now} for row in fresh]
                connection.execute(_MARK.where(_table.c.environment == self._environment), keys)
            for tenant in {row.tenant for row in fresh}:
                self._prune(connection, tenant, now)
            return len(fresh)

    def _prune(self, connection: Connection, tenant: str, now: datetime) -> None:
        for period, kept in KEPT.items():
            connection.execute(
                delete(_table).where(*self._of(tenant, period), _table.c.at < begin_of(now - kept, period))
            )

    def _rows(
        self,
        connection: Connection,
        tenant: str,
        period: timedelta,
        since: datetime,
        until: datetime,
        *,
        fresh: bool = False,
    ) -> Iterator[tuple[datetime, bytes]]:
        conditions = [_table.c.at >= since, _table.c.at < until]
        if fresh:
            conditions.append(_table.c.rolled_up_at.is_(None))
        found = connection.execute(select(_table.c.at, _table.c.payload).where(*self._of(tenant, period), *conditions))
        for row in found.all():
            yield row.at, row.payload

    def _of(self, tenant: str, period: timedelta) -> Iterator[ColumnElement[bool]]:
        seconds = int(period.total_seconds())
        yield _table.c.tenant == tenant
        yield _table.c.environment == self._environment
        yield _table.c.period == seconds

    def _key(self, tenant: str, period: timedelta, at: datetime, process: str) -> dict[str, object]:
        return {
            "tenant": tenant, "environment": self._environment, "period": int(period.total_seconds()), "at": at,
            "process": process,
        }  # fmt: skip

    def _is(self, key: Mapping[str, object]) -> Iterator[ColumnElement[bool]]:
        return (_table.c[name] == value for name, value in key.items())


_MARK = (
    update(_table)
    .where(
        _table.c.tenant == bindparam("of"),
        _table.c.period == int(FINEST.total_seconds()),
        _table.c.at == bindparam("begun"),
        _table.c.process == bindparam("by"),
    )
    .values(rolled_up_at=bindparam("now"))
)


def _sum(parts: Sequence[Measurements]) -> Amounts:
    if len(parts) == 1:
        return parts[0]
    whole = Measurements()
    for part in parts:
        whole.add(part)
    return whole


def begin_of(moment: datetime, period: timedelta) -> datetime:
    """The begin of the period that a moment is in."""
    length = period // timedelta(microseconds=1)
    return from_microseconds(microseconds(moment) // length * length)
