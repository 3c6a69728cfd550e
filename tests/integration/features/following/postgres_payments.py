"""A table of payments in a real PostgreSQL that another system writes, and the stream that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from tests.servers import PostgresProcess

from antiphon import Entity, PostgresTable, Source, col, count, feature_view, last
from antiphon import sum as total
from antiphon.catalog.features.events import Event
from antiphon.core.clock import SystemClock
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.postgres_table import PostgresTableReader

VARIABLE = "PAYMENTS_PASSWORD"
COLUMNS = (
    "id bigserial PRIMARY KEY, shop text, amount numeric(12, 2), paid_at timestamptz, added timestamptz DEFAULT now()"
)
shop = Entity("shop", ["shop"])


def create(server: PostgresProcess, columns: str = COLUMNS) -> None:
    server.run("DROP TABLE IF EXISTS payments CASCADE", f"CREATE TABLE payments ({columns})")


def payments(url: str, watermark: str = "id", within: str = "1s", **options: Any) -> Source:
    """The stream that follows the table; ``options`` of the source."""
    follow = PostgresTable(url=url, table="payments", watermark=watermark, password_variable=VARIABLE, within=within)
    return Source.stream("payments", **{"event_time": "paid_at", "event_id": "id", **options}, follow=follow)


def followed_view(url: str) -> Any:
    """Features of the stream."""

    @feature_view(entity=shop, source=payments(url))
    class Paid:
        payments = count(window="2d")
        amount = total(col.amount, window="2d", scale="0.01")
        ever = total(col.amount, window=None, scale="0.01")
        latest = last(col.amount, window="2d")

    return Paid


def batch_view(url: str) -> Any:
    """The same features, of the table as batch reads it."""
    table = Source.table(
        "payments_table", url=url, table="payments", password_variable=VARIABLE, event_time="paid_at", event_id="id"
    )

    @feature_view(entity=shop, source=table)
    class PaidInBatch:
        payments = count(window="2d")
        amount = total(col.amount, window="2d", scale="0.01")
        ever = total(col.amount, window=None, scale="0.01")
        latest = last(col.amount, window="2d")

    return PaidInBatch


def reader(source: Source | SourceSpec) -> PostgresTableReader:
    return PostgresTableReader(source.spec() if isinstance(source, Source) else source, SystemClock())


class Reading:
    """What one reader has given so far, read on from its position in pages."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.reader = reader(source)
        self.position: str | None = None
        self.events: list[Event] = []
        self.refused = 0
        self.refusal: str | None = None

    def on(self, limit: int = 100) -> list[str]:
        """Read on until nothing more is there; the ids that came, in order."""
        found: list[str] = []
        while True:
            page = self.reader.read(self.position, limit)
            self.position = page.position
            self.events += page.events
            self.refused, self.refusal = self.refused + page.refused, page.refusal or self.refusal
            found += [event.event_id for event in page.events]
            if not page.more:
                return found

    def again(self) -> None:
        """Let another reader go on, as after a crash."""
        self.close()
        self.reader = reader(self.source)

    def close(self) -> None:
        self.reader.close()

    @property
    def ids(self) -> set[str]:
        return {event.event_id for event in self.events}


@contextmanager
def session(server: PostgresProcess, autocommit: bool = True) -> Iterator[psycopg.Connection]:
    """A connection of the system that writes."""
    with psycopg.connect(server.url_with_password, autocommit=autocommit) as connection:
        yield connection
