"""Streams that lost something on the server, deleted, expired, or restored from an old backup: told to every reader and
appender, and never stepped over."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.features.desk import history, specs, write
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.world import NOON, World, event, minutes
from tests.servers import NatsProcess, until

from antiphon.catalog.features.events import Event, StreamHomes
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import CorruptionError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.streaming import nats_log
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer

DEV = Scope()
NAME = "antiphon_default_dev_departures"


@pytest.fixture(scope="module")
def running() -> Iterator[NatsProcess]:
    with NatsProcess() as started:
        yield started


@pytest.fixture
def process(running: NatsProcess) -> Iterator[NatsProcess]:
    yield running
    running.clear()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def opening(process: NatsProcess, world: World) -> Iterator[Callable[[], NatsEventLog]]:
    """What opens the log once more, as another process would."""
    servers: list[NatsServer] = []

    def of() -> NatsEventLog:
        servers.append(NatsServer(process.url, timeout=2.0))
        return NatsEventLog(servers[-1], StreamHomes(world.database), PlainCodec())

    yield of
    for server in servers:
        server.close()


def some(*numbers: int) -> list[Event]:
    return [event(f"e{number}", NOON + minutes(number), n=number) for number in numbers]


def restore(process: NatsProcess, kept: int, name: str = NAME) -> None:
    """As somebody does who has an older backup: the stream with its id, and only its first messages."""
    settings = process.ask(f"$JS.API.STREAM.INFO.{name}")["config"]
    messages = [process.ask(f"$JS.API.STREAM.MSG.GET.{name}", seq=number + 1)["message"] for number in range(kept)]
    process.ask(f"$JS.API.STREAM.DELETE.{name}")
    process.ask(f"$JS.API.STREAM.CREATE.{name}", **settings)
    for message in messages:
        process.put(message["subject"], base64.b64decode(message["data"]))


def asked(log: NatsEventLog) -> list[Callable[[], object]]:
    return [
        lambda: log.append(DEV, "departures", some(8)),
        lambda: log.read(DEV, "departures", 0, 10),
        lambda: log.read(DEV, "departures", 2, 10),
        lambda: log.end(DEV, "departures"),
    ]


def test_a_stream_from_an_older_backup_takes_nothing_until_it_is_whole_again(
    process: NatsProcess, opening: Callable[[], NatsEventLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_log, "_REMEMBER_SECONDS", 0.0)
    log, early = opening(), opening()
    early.append(DEV, "departures", some(1))
    log.append(DEV, "departures", some(1, 2, 3, 4, 5))
    restore(process, kept=3)
    # The one that appended, one that begins now, and one that heard of it from the catalog alone.
    for each in (log, opening()):
        for ask in asked(each):
            with pytest.raises(
                CorruptionError, match="ends at offset 3 and was read through 5 before: it was set back"
            ):
                ask()
    # Its backup of the end as well, and all goes on.
    for sent in some(4, 5):
        early._server.publish(NAME, list(early._messages(DEV, "departures", [sent]).items()))
    assert opening().append(DEV, "departures", some(6)) == 6
    assert [each.event.event_id for each in log.read(DEV, "departures", 0, 10)] == [f"e{n}" for n in range(1, 7)]


def test_how_far_it_was_is_in_the_catalog_within_a_second_and_never_goes_back(
    opening: Callable[[], NatsEventLog], world: World
) -> None:
    homes, log = StreamHomes(world.database), opening()
    assert log.append(DEV, "departures", some(1, 2)) == 2
    home = homes.of(DEV, "departures")
    assert (home.end, home.log is not None) == (2, True)
    assert homes.seen(DEV, "departures", home.log or "", 1) == 2
    assert homes.seen(DEV, "departures", "of another log", 9) == 2
    assert homes.seen(DEV, "departures", home.log or "", 7) == 7

    def told() -> bool:
        try:
            log.append(DEV, "departures", some(1))
        except CorruptionError as error:
            return "was read through 7 before" in str(error)
        return False

    # Another process saw more than there is: from the catalog, which is asked now and then, this one hears of it.
    until(told, 10)


def test_a_stream_that_forgot_by_a_limit_is_told_after_the_limit_is_gone_too(
    process: NatsProcess, opening: Callable[[], NatsEventLog]
) -> None:
    log = opening()
    log.append(DEV, "departures", some(1, 2))
    settings = process.ask(f"$JS.API.STREAM.INFO.{NAME}")["config"]
    process.ask(
        f"$JS.API.STREAM.UPDATE.{NAME}", **{**settings, "max_age": 100_000_000, "duplicate_window": 100_000_000}
    )
    until(lambda: process.ask(f"$JS.API.STREAM.INFO.{NAME}")["state"]["messages"] == 0, 10)
    process.ask(f"$JS.API.STREAM.UPDATE.{NAME}", **settings)
    for each in (log, opening()):
        for ask in asked(each):
            with pytest.raises(CorruptionError, match="2 of the first 2 events are gone from the log"):
                ask()


def test_a_stream_that_is_full_refuses_and_keeps(process: NatsProcess, opening: Callable[[], NatsEventLog]) -> None:
    log = opening()
    log.append(DEV, "departures", some(1, 2))
    settings = process.ask(f"$JS.API.STREAM.INFO.{NAME}")["config"]
    process.ask(f"$JS.API.STREAM.UPDATE.{NAME}", **{**settings, "max_msgs": 2})
    with pytest.raises(UnavailableError, match="maximum messages exceeded"):
        log.append(DEV, "departures", some(3))
    assert [each.offset for each in log.read(DEV, "departures", 0, 10)] == [1, 2]
    process.ask(f"$JS.API.STREAM.UPDATE.{NAME}", **settings)
    assert log.append(DEV, "departures", some(3)) == 3


def test_a_refusal_counts_as_an_answer_only_where_the_first_one_is_found(opening: Callable[[], NatsEventLog]) -> None:
    log = opening()
    log.append(DEV, "departures", some(1))
    log.append(DEV, "weather", some(1))
    again = list(log._messages(DEV, "departures", some(1)).items())
    assert log._server.publish(NAME, again) == 1
    # As in a cluster, where a message that is under way is refused a second time and in no stream yet.
    with pytest.raises(UnavailableError, match="does not have it on a majority") as told:
        log._server.publish("antiphon_default_dev_weather", again)
    assert "Send the same events again" in str(told.value)


def test_a_consumer_of_a_stream_that_lost_events_stays_where_it_is_and_values_are_served(
    process: NatsProcess, tmp_path: Path
) -> None:
    server = NatsServer(process.url, timeout=2.0)
    write(tmp_path / "departures.parquet", history())
    world = World(
        tmp_path,
        *specs(tmp_path / "departures.parquet"),
        log=lambda database: NatsEventLog(server, StreamHomes(database), PlainCodec()),
    )
    try:
        world.publish(NOON)
        world.append("departures", *[departure(10_000 + number, float(number), 5.0) for number in range(1, 9)])
        world.consume(100)
        before = world.read(NOON + minutes(60), "congestion", **EWR).values
        restore(process, kept=4)
        with pytest.raises(CorruptionError, match="set back"):
            world.consume(100)
        # Others' events at the offsets that were read: by hand, since ours are refused.
        for number in range(6):
            process.put(f"antiphon.default.dev.departures.{number}", b"x")
        with pytest.raises(CorruptionError):
            world.consume(100)
        after = world.read(NOON + minutes(60), "congestion", **EWR).values
        assert {name: each.value for name, each in after.items()} == {name: each.value for name, each in before.items()}
        assert [each.stream_offset for each in after.values()] == [each.stream_offset for each in before.values()]
    finally:
        world.close()
        server.close()
