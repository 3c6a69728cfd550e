"""Notifications of a PostgreSQL server that restarts, and whose connections are ended."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import catalog_url, postgres
from tests.servers import PostgresProcess, until
from tests.unit.catalog.examples import DEV

from antiphon.catalog.database import Database, backend_of
from antiphon.catalog.notify_channel import NotifyChannel
from antiphon.catalog.postgres_server import PostgresAccess, PostgresServer
from antiphon.core.errors import UnavailableError

Heard = queue.Queue[Collection[str] | None]


@pytest.fixture
def own_server() -> Iterator[PostgresProcess]:
    """A server that a test may stop."""
    with PostgresProcess() as server:
        yield server


def of(server: PostgresProcess, **access: Any) -> Database:
    return Database.of(backend_of(server.url, PostgresAccess(password=server.password, **access)))


@pytest.fixture
def listening() -> Iterator[Callable[[Database], Heard]]:
    """Listens as another process does, until the end of the test."""
    channels: list[NotifyChannel] = []

    def listen(database: Database) -> Heard:
        assert isinstance(database.backend, PostgresServer)
        rings, channel = Heard(), NotifyChannel(database.backend.engine, database.backend.place)
        channels.append(channel)
        channel.open(rings.put)
        assert rings.get(timeout=20) is None, "what was committed before is not made up for"
        return rings

    yield listen
    for channel in channels:
        channel.close()


def ring(database: Database) -> None:
    with database.transaction():
        database.ring("runs", DEV)
        database.ring("runs", DEV)
        database.ring("events", DEV)


def test_a_transaction_notifies_once_with_all_that_it_rang(
    tmp_path: Path, listening: Callable[[Database], Heard]
) -> None:
    database = Database.open(catalog_url(tmp_path, "postgresql"))
    heard = listening(database)
    ring(database)
    assert heard.get(timeout=5) == {"runs:dev", "events:dev"}
    with database.transaction():
        pass
    ring(database)
    assert heard.get(timeout=5) == {"runs:dev", "events:dev"}
    assert heard.empty()
    database.close()


def test_schemas_of_one_database_do_not_wake_each_other(
    own_server: PostgresProcess, listening: Callable[[Database], Heard]
) -> None:
    one, two = of(own_server, schema="one"), of(own_server, schema="two")
    heard = listening(one)
    ring(two)
    ring(one)
    assert heard.get(timeout=5)
    assert heard.empty()
    one.close()
    two.close()


def test_a_listener_whose_server_was_killed_hears_again_and_rings_once_for_what_it_missed(
    own_server: PostgresProcess, listening: Callable[[Database], Heard], caplog: pytest.LogCaptureFixture
) -> None:
    database = of(own_server)
    heard = listening(database)
    for _ in range(2):
        own_server.kill()
        with pytest.raises(UnavailableError):
            ring(database)
        own_server.start()
        assert heard.get(timeout=20) is None
        ring(database)
        assert heard.get(timeout=5) == {"runs:dev", "events:dev"}
    assert "new work is polled for" in caplog.text
    assert own_server.password not in caplog.text
    database.close()


def test_a_listener_takes_no_place_in_the_pool_and_ends_with_its_channel(tmp_path: Path) -> None:
    database = Database.open(catalog_url(tmp_path, "postgresql"))
    assert isinstance(database.backend, PostgresServer)
    mine = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = '{}'".format(
        database.backend.url.rpartition("/")[2]
    )
    end = database.doorbell.listen(lambda: None, ["runs:dev"])
    until(lambda: len(postgres().run(mine)) == 1)
    assert database.backend.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    end()
    database.doorbell.close()
    until(lambda: postgres().run(mine) == [])
    database.close()
