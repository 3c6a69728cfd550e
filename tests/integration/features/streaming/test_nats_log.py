"""The event log on a real NATS server: what only a server can do wrong, and features on top of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.features.desk import history, specs, write
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.world import NOON, World, event, minutes
from tests.servers import NatsProcess, until
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog.features.events import Event, EventLog, StreamHomes
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    TooLargeError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.features.streaming.nats_access import Access, require_url
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer
from antiphon.governance.encryption.sealing import AesGcmCodec

DEV, OTHER = Scope(), Scope("other", "dev")
NAME = "antiphon_default_dev_departures"


@pytest.fixture(scope="module")
def running() -> Iterator[NatsProcess]:
    with NatsProcess() as started:
        yield started


@pytest.fixture
def process(running: NatsProcess) -> Iterator[NatsProcess]:
    """The server, without streams and answering."""
    if running.process is None:
        running.start()
    yield running
    if running.process is None:
        running.start()
    running.clear()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[list[NatsServer]]:
    servers: list[NatsServer] = []
    yield servers
    for server in servers:
        server.close()


def log_on(process: NatsProcess, world: World, opened: list[NatsServer], codec: Codec | None = None) -> NatsEventLog:
    opened.append(NatsServer(process.url, timeout=1.0))
    return NatsEventLog(opened[-1], StreamHomes(world.database), codec or PlainCodec())


def some(*numbers: int) -> list[Event]:
    return [event(f"e{number}", NOON + minutes(number), n=number) for number in numbers]


def test_a_stream_that_was_deleted_or_made_anew_is_never_read_past(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1, 2, 3))
    assert len(log.read(DEV, "departures", 0, 2)) == 2
    process.ask(f"$JS.API.STREAM.DELETE.{NAME}")
    for each in (log, log_on(process, world, opened)):
        with pytest.raises(CorruptionError, match="is gone"):
            each.read(DEV, "departures", 2, 10)
        with pytest.raises(CorruptionError, match="is gone"):
            each.end(DEV, "departures")
        with pytest.raises(CorruptionError, match="is gone"):
            each.append(DEV, "departures", some(4))
    # Somebody who has lost the catalog as well makes it anew, as long as the first one was.
    (world.folder / "second").mkdir()
    elsewhere = World(world.folder / "second")
    log_on(process, elsewhere, opened).append(DEV, "departures", some(7, 8, 9))
    elsewhere.close()
    for each in (log, log_on(process, world, opened)):
        with pytest.raises(CorruptionError, match="made anew"):
            each.read(DEV, "departures", 2, 10)
        with pytest.raises(CorruptionError, match="made anew"):
            each.append(DEV, "departures", some(4))


def test_events_cannot_be_taken_out_and_a_stream_that_forgets_is_refused(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1, 2, 3))
    for wanted in (f"$JS.API.STREAM.PURGE.{NAME}", f"$JS.API.STREAM.MSG.DELETE.{NAME}"):
        with pytest.raises(AssertionError, match="not permitted"):
            process.ask(wanted, seq=2)
    settings = process.ask(f"$JS.API.STREAM.INFO.{NAME}")["config"]
    process.ask(f"$JS.API.STREAM.UPDATE.{NAME}", **{**settings, "max_msgs_per_subject": 5, "max_age": 3_600 * 10**9})
    with pytest.raises(SetupError, match="max_msgs_per_subject is not 1; max_age is set"):
        log.read(DEV, "departures", 0, 10)


def test_a_log_that_was_thinned_out_is_told(process: NatsProcess, world: World, opened: list[NatsServer]) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1, 2, 3))
    kept = process.ask(f"$JS.API.STREAM.INFO.{NAME}")["config"]
    # A stream of the same name and id, put there by somebody who could not restore all of it.
    process.ask(f"$JS.API.STREAM.DELETE.{NAME}")
    process.ask(f"$JS.API.STREAM.CREATE.{NAME}", **{**kept, "first_seq": 3})
    for each in (log, log_on(process, world, opened)):
        for ask in (
            lambda each=each: each.read(DEV, "departures", 3, 10),
            lambda each=each: each.append(DEV, "departures", some(4)),
            lambda each=each: each.end(DEV, "departures"),
        ):
            with pytest.raises(CorruptionError, match="2 of the first 2 events are gone"):
                ask()


def test_an_event_id_is_stored_once_long_after_any_window(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1, 2))
    window = process.ask(f"$JS.API.STREAM.INFO.{NAME}")["config"]
    process.ask(f"$JS.API.STREAM.UPDATE.{NAME}", **{**window, "duplicate_window": 100_000_000})
    # The server itself forgets its window on a restart without one having passed.
    process.kill()
    process.start()
    assert log.append(DEV, "departures", some(2, 1, 3)) == 3
    assert [each.event.event_id for each in log.read(DEV, "departures", 0, 10)] == ["e1", "e2", "e3"]


def test_a_server_that_is_away_fails_quickly_and_is_found_again(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1, 2))
    assert len(log.read(DEV, "departures", 0, 1)) == 1
    process.kill()
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(UnavailableError, match=r"does not answer|a moment ago") as told:
            log.read(DEV, "departures", 1, 10)
        assert time.monotonic() - start < 3
        assert "antiphon doctor" in str(told.value)
        with pytest.raises(UnavailableError):
            log.append(DEV, "departures", some(3))
    process.start()

    def answers() -> bool:
        try:
            return log.append(DEV, "departures", some(2, 3)) == 3
        except UnavailableError:
            return False

    until(answers, 10)
    assert [each.offset for each in log.read(DEV, "departures", 1, 10)] == [2, 3]


def test_a_server_that_hangs_is_not_waited_for(process: NatsProcess, world: World, opened: list[NatsServer]) -> None:
    import signal

    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1))
    process.pause()
    try:
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            log.end(DEV, "departures")
        assert time.monotonic() - start < 4
    finally:
        process.signal(signal.SIGCONT)


def test_who_is_not_let_in_is_told_what_to_set(world: World, opened: list[NatsServer]) -> None:
    guarded = NatsProcess("--auth", "s3cret")
    guarded.start()
    try:
        for password in (None, "wrong"):
            opened.append(NatsServer(guarded.url, Access(password=password), timeout=1.0))
            with pytest.raises(SetupError, match="refuses access") as told:
                NatsEventLog(opened[-1], StreamHomes(world.database), PlainCodec()).end(DEV, "departures")
            assert "log_password_variable" in str(told.value)
        opened.append(NatsServer(guarded.url, Access(password="s3cret"), timeout=1.0))
        assert NatsEventLog(opened[-1], StreamHomes(world.database), PlainCodec()).end(DEV, "departures") == 0
        assert opened[-1].describe().startswith("NATS 2.")
    finally:
        guarded.remove()


def test_a_server_without_jetstream_is_told_how_to_start(world: World, opened: list[NatsServer]) -> None:
    bare = NatsProcess(jetstream=False)
    bare.start()
    try:
        log = log_on(bare, world, opened)
        with pytest.raises(SetupError, match="no JetStream"):
            log.append(DEV, "departures", some(1))
        with pytest.raises(SetupError, match="no JetStream"):
            opened[-1].describe()
    finally:
        bare.remove()


def test_a_stream_is_in_one_log_alone(process: NatsProcess, world: World, opened: list[NatsServer]) -> None:
    world.append("departures", *some(1, 2))
    log = log_on(process, world, opened)
    for ask in (lambda: log.read(DEV, "departures", 0, 10), lambda: log.append(DEV, "departures", some(3))):
        with pytest.raises(ConflictError, match="2 events of this stream are in the catalog"):
            ask()
    log.append(DEV, "weather", some(1))
    embedded = EventLog(world.database)
    for ask in (lambda: embedded.read(DEV, "weather", 0, 10), lambda: embedded.append(DEV, "weather", some(2))):
        with pytest.raises(SetupError, match=r"in a log on a server"):
            ask()
    assert [each.stream for each in embedded.streams(DEV)] == ["departures"]


def test_what_is_sealed_leaves_sealed_and_opens_for_its_place_alone(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    codec = AesGcmCodec(Keys())
    log = log_on(process, world, opened, codec)
    log.append(DEV, "departures", [event("flight-1545", NOON, passenger="Ada Lovelace")])
    log.append(OTHER, "departures", [event("flight-1545", NOON, passenger="Ada Lovelace")])
    process.stop()
    stored = b"".join(file.read_bytes() for file in process.folder.rglob("*.blk"))
    process.start()
    assert NAME.encode() in b"".join(str(file).encode() for file in process.folder.rglob("*.blk"))
    assert b"antiphon.default.dev.departures." in stored
    assert b"Ada" not in stored
    assert b"1545" not in stored
    assert log.read(DEV, "departures", 0, 1)[0].event.payload == {"passenger": "Ada Lovelace"}
    with pytest.raises(CorruptionError, match="no event of ours"):
        log_on(process, world, opened).read(DEV, "departures", 0, 1)


def test_a_message_of_somebody_else_is_an_error(process: NatsProcess, world: World, opened: list[NatsServer]) -> None:
    log = log_on(process, world, opened)
    log.append(DEV, "departures", some(1))
    process.ask("antiphon.default.dev.departures.theirs", n=1)
    with pytest.raises(CorruptionError, match="offset 2: A message of the log is no event of ours"):
        log.read(DEV, "departures", 0, 10)


def test_an_event_that_is_too_large_stores_nothing_of_its_batch(
    process: NatsProcess, world: World, opened: list[NatsServer]
) -> None:
    log = log_on(process, world, opened)
    with pytest.raises(TooLargeError, match="max_payload"):
        log.append(DEV, "departures", [*some(1), event("large", NOON, text="x" * 1_048_576)])
    assert log.end(DEV, "departures") == 0
    with pytest.raises(InvalidInputError, match="cannot name a stream"):
        log.append(DEV, "a.b", some(1))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://localhost", "no URL of an event log"),
        ("nats://", "no URL of an event log"),
        ("nats://me:secret@localhost", "holds a password"),
        ("nats://localhost?replicas=2", "is not understood"),
        ("nats://localhost?reconnect=1", "is not understood"),
    ],
)
def test_a_url_is_looked_at_before_anything_is_asked(url: str, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told) as error:
        require_url(url)
    assert "secret" not in str(error.value)


def test_features_are_read_from_the_stream_as_from_the_catalogs_log(
    process: NatsProcess, opened: list[NatsServer], tmp_path: Path
) -> None:
    opened.append(NatsServer(process.url))
    write(tmp_path / "departures.parquet", history())
    views = specs(tmp_path / "departures.parquet")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    world = World(tmp_path / "one", *views)
    other = World(
        tmp_path / "other",
        *views,
        log=lambda database: NatsEventLog(opened[-1], StreamHomes(database), PlainCodec()),
    )
    sent = [departure(10_000 + number, float(number), 7.5 * number) for number in range(1, 30)]
    try:
        for each in (world, other):
            each.publish(NOON)
            each.append("departures", *sent[:20])
            each.consume(7)
            each.append("departures", *sent[10:])
            each.consume(7)
        later = NOON + minutes(400)
        ours, theirs = (each.read(later, "congestion", **EWR).values for each in (world, other))
        assert ours["congestion.latest"].value == theirs["congestion.latest"].value == 7.5 * 29
        assert [each.stream_offset for each in ours.values()] == [each.stream_offset for each in theirs.values()]
        for each in (world, other):
            each.clock.advance(minutes(400))
            each.publish(later)
        ours, theirs = (each.read(later, **EWR).values for each in (world, other))
        assert {name: each.value for name, each in ours.items()} == {name: each.value for name, each in theirs.items()}
        assert theirs["congestion.latest"].value == 7.5 * 29
    finally:
        other.close()
        world.close()
