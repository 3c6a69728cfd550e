"""Streams move between the catalog's log and a NATS server: same offsets, same events, whatever cuts it off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.integration.features.world import NOON, event, minutes
from tests.servers import NatsProcess
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog, StoredEvent, StreamHomes
from antiphon.catalog.moves import count_move
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import ConflictError, CorruptionError, ProjectMovedError, SetupError, UnavailableError
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer
from antiphon.services.moving import log as moving
from antiphon.services.moving.log import copy_stream

STREAM = "departures"


@pytest.fixture(scope="module")
def process() -> Iterator[NatsProcess]:
    with NatsProcess() as started:
        yield started


@pytest.fixture
def server(process: NatsProcess) -> Iterator[NatsServer]:
    with closing(NatsServer(process.url, timeout=1.0)) as opened:
        yield opened
    process.clear()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path)) as opened:
        yield opened


def some(first: int, last: int) -> list[Event]:
    return [event(f"e{number}", NOON + minutes(number), n=number) for number in range(first, last + 1)]


def test_a_stream_moves_to_the_server_and_back_under_its_offsets(server: NatsServer, database: Database) -> None:
    embedded, homes = EventLog(database), StreamHomes(database)
    embedded.append(DEV, STREAM, some(1, 320))
    before = embedded.read(DEV, STREAM, 0, 1_000)

    def cut(done: int, total: int) -> None:
        raise UnavailableError("It stopped.")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(moving, "_PAGE", 200)
        with pytest.raises(UnavailableError):
            copy_stream(embedded, NatsEventLog(server, homes, PlainCodec()), DEV, STREAM, cut)
    assert embedded.end(DEV, STREAM) == 320
    log = NatsEventLog(server, homes, PlainCodec())
    there = copy_stream(embedded, log, DEV, STREAM)
    assert (there.events, there.copied) == (320, 120)
    assert embedded.read(DEV, STREAM, 0, 1_000) == before, "it counts until the switch"
    with database.transaction() as connection:
        homes.switch(connection, DEV, STREAM, there.home)
    assert log.read(DEV, STREAM, 0, 1_000) == before, "with the moments at which the catalog had taken them"
    with pytest.raises(SetupError):
        embedded.read(DEV, STREAM, 0, 1)
    assert log.append(DEV, STREAM, some(320, 321)) == 321

    now = log.read(DEV, STREAM, 0, 1_000)
    back = copy_stream(log, embedded, DEV, STREAM)
    assert (back.home.log, back.events) == (None, 321)
    with database.transaction() as connection:
        homes.switch(connection, DEV, STREAM, back.home)
    assert embedded.read(DEV, STREAM, 0, 1_000) == now
    assert embedded.append(DEV, STREAM, some(321, 322)) == 322


def test_a_stream_does_not_move_onto_another_ones_events(
    server: NatsServer, database: Database, tmp_path: Path
) -> None:
    embedded, homes = EventLog(database), StreamHomes(database)
    log = NatsEventLog(server, homes, PlainCodec())
    log._server.make(f"antiphon_default_dev_{STREAM}", f"antiphon.default.dev.{STREAM}.*", "another")
    log.begin_copy(DEV, STREAM)
    log.copy(DEV, STREAM, [StoredEvent(1, some(7, 7)[0])])
    embedded.append(DEV, STREAM, some(1, 2))
    with pytest.raises(CorruptionError, match="not those that were read"):
        copy_stream(embedded, log, DEV, STREAM)
    log.copy(DEV, STREAM, [StoredEvent(number, some(number, number)[0]) for number in (3, 4)])
    with pytest.raises(ConflictError, match="another project's"):
        copy_stream(embedded, log, DEV, STREAM)
    assert len(embedded.read(DEV, STREAM, 0, 10)) == 2


def test_after_a_move_the_server_takes_nothing_and_what_it_took_is_not_acknowledged(
    server: NatsServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, publish = NatsEventLog(server, StreamHomes(database), PlainCodec()), server.publish

    def moved_meanwhile(*given: Any) -> int:
        end = publish(*given)
        with database.transaction() as connection:
            count_move(connection, "elsewhere")
        return end

    database.fence()
    log.append(DEV, STREAM, some(1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(server, "publish", moved_meanwhile)
        with pytest.raises(ProjectMovedError, match="moved to elsewhere"):
            log.append(DEV, STREAM, some(2, 2))
    with pytest.raises(ProjectMovedError):
        log.append(DEV, STREAM, some(3, 3))
    assert [one.event.event_id for one in log.read(DEV, STREAM, 0, 10)] == ["e1", "e2"]
