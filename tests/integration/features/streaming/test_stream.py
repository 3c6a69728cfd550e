"""The stream consumer in a burst: bounded work, fresh views first, what it tells of time, and a crash in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.partitions import apply_through
from tests.integration.features.desk import ORIGIN, flight
from tests.integration.features.world import NOON, World, event, minutes
from tests.servers import RedisProcess

from antiphon import Source, col, count, feature_view, last, sum
from antiphon.catalog.features.events import Event
from antiphon.core.errors import CorruptionError, UnavailableError
from antiphon.features.online.overlay_records import UNREAD
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.streaming.consumer import StreamConsumer, StreamedView

departures = Source.stream("departures", event_time="scheduled", available_at="departed", event_id="id")
weather = Source.stream("weather", event_time="at", event_id="id")


@feature_view(entity=ORIGIN, source=departures)
class Traffic:
    flights = count(window="2h")
    delay = sum(col.dep_delay, window="2h", scale="0.01")
    newest = last(col.dep_delay, window="2h")


@feature_view(entity=ORIGIN, source=departures)
class Lately:
    flights = count(window="30m")


@feature_view(entity=ORIGIN, source=weather)
class Wind:
    readings = count(window="2h")


def flew(number: int, scheduled: float, delay: float | None = 0.0, **changes: Any) -> Event:
    row = flight(number, NOON + minutes(scheduled), delay) | changes
    return event(str(row.pop("id")), row.pop("scheduled"), row.pop("departed"), **row)


def blew(number: int) -> Event:
    return event(f"w{number}", NOON + minutes(number / 10), origin="EWR")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, Traffic.spec(), Wind.spec())
    yield made
    made.close()


def offsets(world: World) -> Mapping[str, int]:
    return {each.view: each.consumed for each in progress(world)}


def progress(world: World) -> list[StreamedView]:
    return [view for stream in world.consumer.status(world.clock.now()) for view in stream.views]


def test_a_poll_takes_no_more_than_it_may_and_every_stream_gets_its_share(world: World) -> None:
    world.append("departures", *(flew(n, n / 10) for n in range(500)))
    world.append("weather", *(blew(n) for n in range(500)))
    before = offsets(world)
    for _ in range(4):
        assert world.consumer.poll(100) == 100
        now = offsets(world)
        assert {view: now[view] - before[view] for view in now} == {"traffic": 50, "wind": 50}
        before = now
    # What one does not need the other has.
    world.append("weather", *(blew(n) for n in range(500, 510)))
    while offsets(world)["traffic"] < 500:
        assert world.consumer.poll(100) <= 100
    world.consume(100)
    assert offsets(world) == {"traffic": 500, "wind": 510}
    assert world.consumer.poll(1) == 0
    world.append("departures", flew(500, 1))
    assert world.consumer.poll(1) == 1


def test_a_view_that_catches_up_does_not_hold_back_the_fresh_ones(world: World) -> None:
    world.append("departures", *(flew(n, n / 100) for n in range(400)))
    world.consume()
    world.append("departures", *(flew(n, n / 100) for n in range(400, 420)))
    world.consumer.follow([Lately.spec()])
    assert world.consumer.poll(100) <= 100
    assert offsets(world)["traffic"] == 420
    assert 0 < offsets(world)["lately"] <= 80
    world.consume(100)
    assert offsets(world) == {"traffic": 420, "wind": 0, "lately": 420}


def test_what_is_late_counts_where_it_belongs_and_is_told(world: World) -> None:
    world.publish(NOON)
    world.append("departures", flew(1, 10), flew(2, 30), flew(3, 5, 60.0), flew(4, 30), flew(5, 29.5))
    world.append("departures", Event("none", NOON + minutes(50), NOON, {"origin": None}))
    world.consume(2)
    told = {each.view: each for each in progress(world)}["traffic"]
    assert (told.watermark, told.late, told.lateness_seconds, told.rejected) == (NOON + minutes(30), 2, 25 * 60.0, 1)
    assert (told.lag, told.lag_seconds) == (0, 0.0)
    # As of 12:31 the flight of 12:05 has not left, as of 13:05 it has.
    assert world.read(NOON + minutes(31), "traffic", origin="EWR").values["traffic.flights"].value == 4
    assert world.read(NOON + minutes(65), "traffic", origin="EWR").values["traffic.flights"].value == 5
    assert world.read(NOON + minutes(65), "traffic", origin="EWR").values["traffic.delay"].value == 60.0
    # Another consumer that takes it all again, in other slices or further than this one came, changes nothing of it.
    before = progress(world)
    behind = Behind(world.overlay)
    again = StreamConsumer(world.scope, log=world.log, overlay=behind, online=world.online, views=world.specs.values())
    again.poll(4)
    assert progress(world) == before
    world.append("departures", flew(6, 1), Event("nowhere", NOON + minutes(50), NOON, {"origin": None}))
    again.poll(100)
    assert progress(world)[0].consumed == 6
    world.consume(2)
    told = {each.view: each for each in progress(world)}["traffic"]
    assert (told.consumed, told.late, told.rejected) == (8, 3, 2)


def test_consumers_of_other_partitions_count_and_keep_what_one_of_all_would(tmp_path: Path) -> None:
    """Two that divide the stream and overlap for a while, in an order of their own, beside one that has all of it."""
    airports = ["EWR", "LGA", "JFK", "SFO", "ORD", "DEN"]
    flights = [flew(n, (37 * n) % 60, float(n), origin=airports[n % len(airports)]) for n in range(60)]
    keyless = Event("none", NOON + minutes(50), NOON, {"origin": None})
    told, read = [], []
    for name, owned in (("one", [None]), ("two", [{"departures": {0, 1, 2, 3}}, {"departures": {3, 4, 5, 6, 7}}])):
        (tmp_path / name).mkdir()
        world = World(tmp_path / name, Traffic.spec())
        world.publish(NOON)
        world.append("departures", *flights[:30], keyless, *flights[30:])
        consumers = [
            StreamConsumer(
                world.scope, log=world.log, overlay=world.overlay, online=world.online, views=[Traffic.spec()]
            )
            for _ in owned
        ]
        for turn in range(80):
            place = (turn // 3) % len(owned)
            consumers[place].poll(7, owned[place])
        told.append(progress(world))
        at = NOON + minutes(120)
        read.append([world.read(at, "traffic", origin=airport).values["traffic.delay"].value for airport in airports])
        world.close()
    assert told[0] == told[1]
    assert read[0] == read[1]
    assert (told[0][0].consumed, told[0][0].rejected) == (61, 1)
    assert told[0][0].late > 10


def test_what_waits_is_told_since_when(world: World) -> None:
    world.append("departures", flew(1, 1))
    world.clock.advance(minutes(3))
    world.append("departures", flew(2, 2))
    told = {each.view: each for each in progress(world)}["traffic"]
    assert (told.consumed, told.lag, told.lag_seconds, told.watermark) == (0, 2, 3 * 60.0, None)
    world.consumer.poll(1)
    while offsets(world)["traffic"] < 1:
        world.consumer.poll(1)
    world.clock.advance(minutes(1))
    told = {each.view: each for each in progress(world)}["traffic"]
    assert (told.lag, told.lag_seconds) == (1, 60.0)


def test_a_log_that_was_set_back_stops_its_views_with_a_reason_and_no_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.append("departures", flew(1, 1), flew(2, 2))
    world.append("weather", *(blew(n) for n in range(30)))
    apply_through(world.overlay, {_prefix(world): 5})
    reason = r"stream departures: The log ends at offset 2 and was read through 5"
    seconds = [0.0]
    world.consumer._now = lambda: seconds[0]
    told = []
    for _ in range(12):
        world.consumer.poll(4)
        seconds[0] += 0.5
        told.append(len(caplog.records))
    assert [each.consumed for each in world.consumer.status(NOON, ["weather"])] == [30]
    # Asked at 0, after 1 s and after 2 more, and in between its share is the others'.
    assert told == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    assert "departures is not consumed; the others are" in caplog.text
    with pytest.raises(CorruptionError, match=reason):
        world.consumer.status(NOON, ["departures"])
    with pytest.raises(CorruptionError, match=reason):
        world.consumer.status(NOON)
    world.append("departures", *(flew(n, n) for n in range(3, 9)))
    seconds[0] += 30
    world.consume(100)
    assert offsets(world) == {"traffic": 8, "wind": 30}


def test_streams_that_all_fail_are_told_at_once(world: World) -> None:
    world.append("departures", flew(1, 1))
    world.append("weather", blew(1))
    world.consume(100)
    for _ in range(2):
        apply_through(world.overlay, {_prefix(world): 5})
        for follower in world.consumer._followers.values():
            apply_through(world.overlay, {follower.prefix: 5})
        with pytest.raises(CorruptionError, match="read through 5"):
            world.consumer.poll()


def test_a_crash_within_a_batch_leaves_all_of_it_or_nothing(world: World) -> None:
    world.publish(NOON)
    world.append("departures", *(flew(n, n / 10, 1.0) for n in range(30)))
    world.consumer.poll(20)
    before = world.overlay.read([_prefix(world)])

    def broken() -> Iterator[Any]:
        yield written
        raise MemoryError

    written = _event(world, 25)
    with pytest.raises(MemoryError):
        apply_through(world.overlay, {_prefix(world): 30}, broken())
    assert world.overlay.read([_prefix(world)]) == before
    world.consume(7)
    found = world.read(NOON + minutes(10), "traffic", origin="EWR").values
    assert (found["traffic.flights"].value, found["traffic.delay"].value) == (30, 30.0)


def test_a_full_store_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    process = RedisProcess("redis-server", "--maxmemory-policy", "noeviction")
    process.start()
    server = RedisServer(process.url)
    world = World(tmp_path, Traffic.spec(), overlay=RedisOverlay(server, _scope()))
    try:
        world.publish(NOON)
        world.append("departures", *(flew(n, n / 10, 1.0) for n in range(300)))
        world.consumer.poll(100)
        used = server.client.info("memory")["used_memory"]
        server.client.config_set("maxmemory", used - 1)
        with pytest.raises(UnavailableError, match="is full"):
            world.consumer.poll(100)
        assert offsets(world) == {"traffic": 100}
        assert world.read(NOON + minutes(60), "traffic", origin="EWR").values["traffic.flights"].value == 100
        server.client.config_set("maxmemory", 0)
        world.consume(100)
        found = world.read(NOON + minutes(60), "traffic", origin="EWR").values
        assert (found["traffic.flights"].value, found["traffic.delay"].value) == (300, 300.0)
    finally:
        world.close()
        server.close()
        process.remove()


def test_a_burst_of_one_entity_is_one_write(tmp_path: Path) -> None:
    process = RedisProcess()
    process.start()
    server = RedisServer(process.url)
    world = World(tmp_path, Traffic.spec(), overlay=RedisOverlay(server, _scope()))
    try:
        world.append("departures", *(flew(n, n / 10, 1.0) for n in range(200)))
        world.append("departures", *(flew(n, n / 10, 1.0, origin="LGA") for n in range(200, 210)))
        server.client.config_resetstat()
        assert world.consumer.poll(1_000) == 210
        assert server.client.info("commandstats")["cmdstat_zadd"]["calls"] == 2, "one an entity"
    finally:
        world.close()
        server.close()
        process.remove()


class Behind:
    """An overlay that says to have nothing yet; what is written to it is written."""

    def __init__(self, overlay: Any) -> None:
        self._overlay = overlay

    def read(self, views: Any, wanted: Any = ()) -> Any:
        reading = self._overlay.read(views, wanted)
        return msgspec.structs.replace(reading, progress=dict.fromkeys(reading.progress, UNREAD))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._overlay, name)


def _scope() -> Any:
    from antiphon.core.scope import Scope

    return Scope()


def _prefix(world: World) -> bytes:
    from antiphon.features.online.overlay_records import view_prefix

    return view_prefix(world.specs["traffic"].key)


def _event(world: World, offset: int) -> Any:
    from antiphon.features.online.overlay_records import OverlayEvent
    from antiphon.features.values import StreamedEvent

    entity = world.online.entity_hash("origin", ["EWR"])
    return OverlayEvent(_prefix(world), entity, StreamedEvent(0, 0, "x", (100,), offset))
