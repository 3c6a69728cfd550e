"""Followers of several places in one worker: one that hangs or is away is said, and holds up no other."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import KINDS, catalog_url
from tests.catalogs import drop as drop_catalog
from tests.integration.features.following.postgres_payments import VARIABLE, create, payments
from tests.integration.features.world import NOON
from tests.servers import PostgresProcess

from antiphon import FileDrop, Source
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.features.followed_streams import FollowedStream, FollowedStreams
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import SystemClock
from antiphon.core.errors import OverloadedError, TooLargeError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.followed_places import FollowedPlaces
from antiphon.features.following.readers import reader_of
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.source_followers import SourceFollower, SourceFollowers

SCOPE = Scope()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresProcess]:
    with PostgresProcess() as found:
        monkeypatch.setenv(VARIABLE, found.password)
        create(found)
        yield found


class Worker:
    """What of a worker follows, on a catalog of its own."""

    def __init__(
        self, folder: Path, *sources: Source, append: Callable[..., int] | None = None, catalog: str = "sqlite"
    ) -> None:
        self.database = Database.open(catalog_url(folder, catalog))
        self.database.migrate()
        self.log = EventLog(self.database)
        self.streams = FollowedStreams(self.database)
        self.sources = {source.name: source.spec(folder) for source in sources}
        self.places = FollowedPlaces(
            SCOPE,
            streams=self.streams,
            reader=partial(reader_of, clock=SystemClock()),
            append=append or self.log.append,
            clock=SystemClock(),
        )
        self.leases = ProcessLeases(self.database, SCOPE.environment)
        holder = LeaseHolder(self.leases, "one", lambda _: False, seconds=5)

        def duty(source: SourceSpec) -> Duties:
            return Duties(f"follow/{source.name}", [SourceFollower(source, self.places, seconds=1.0)], holder)

        self.followers = SourceFollowers(lambda: self.sources, duty, look=0.05)

    async def run(self, scenario: Callable[[], Any]) -> float:
        """Play a scenario beside the followers; the seconds that stopping them took."""
        stop = asyncio.Event()
        following = asyncio.create_task(self.followers.run_until(stop))
        try:
            await scenario()
        finally:
            stop.set()
            begun = time.monotonic()
            await following
            drop_catalog(self.database)
        return time.monotonic() - begun

    def state(self, stream: str) -> FollowedStream:
        return self.streams.list(SCOPE)[stream]

    def end(self, stream: str) -> int:
        return self.log.end(SCOPE, stream)


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def visits() -> Source:
    follow = FileDrop(path="inbox/*.jsonl", settle="200ms", within="400ms")
    return Source.stream("visits", event_time="at", event_id="id", follow=follow)


def drop(folder: Path, number: int) -> None:
    (folder / "inbox").mkdir(exist_ok=True)
    (folder / "inbox" / f"{number}.jsonl").write_text(json.dumps({"id": number, "at": NOON.isoformat()}) + "\n")


INSERT = "INSERT INTO payments (shop, amount, paid_at) VALUES ('tea', 1, now())"


@pytest.mark.parametrize("catalog", KINDS)
async def test_a_place_that_hangs_or_is_away_is_said_and_the_other_goes_on(
    tmp_path: Path, server: PostgresProcess, catalog: str
) -> None:
    drop(tmp_path, 1)
    worker = Worker(tmp_path, payments(server.url, within="400ms"), visits(), catalog=catalog)

    async def scenario() -> None:
        server.run(INSERT)
        await until(lambda: (worker.end("payments"), worker.end("visits")) == (1, 1))
        server.end(signal.SIGQUIT)
        await until(lambda: worker.state("payments").error)
        failing = worker.state("payments")
        assert failing.error is not None
        assert "PostgreSQL is away" in failing.error
        drop(tmp_path, 2)
        await until(lambda: worker.end("visits") == 2)
        server.start()
        server.run(INSERT)
        await until(lambda: worker.end("payments") == 2)
        await until(lambda: worker.state("payments").error is None)
        # Nobody takes a connection, and nobody refuses it; the one that is there is ended.
        server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'antiphon'")
        server.pause()
        await until(lambda: "gave no answer within 1 s" in (worker.state("payments").error or ""))
        since = worker.state("payments").failing_since
        assert since is not None
        drop(tmp_path, 3)
        await until(lambda: worker.end("visits") == 3)
        assert worker.state("visits").error is None
        assert worker.state("payments").failing_since == since

    try:
        assert await worker.run(scenario) < 5, "a reading that hangs keeps no worker from ending"
    finally:
        server.kill()


async def test_streams_come_change_and_go_while_others_are_followed(tmp_path: Path, server: PostgresProcess) -> None:
    worker = Worker(tmp_path, visits())
    (tmp_path / "inbox").mkdir()

    async def scenario() -> None:
        await until(lambda: "visits" in worker.streams.list(SCOPE) and worker.state("visits").caught_up_at)
        server.run(INSERT)
        worker.sources = {**worker.sources, "payments": payments(server.url, within="400ms").spec()}
        await until(lambda: worker.end("payments") == 1)
        other = FileDrop(path=str(tmp_path / "elsewhere" / "*.jsonl"), settle="200ms", within="400ms")
        (tmp_path / "elsewhere").mkdir()
        drop(tmp_path / "elsewhere", 7)
        (tmp_path / "elsewhere" / "inbox" / "7.jsonl").rename(tmp_path / "elsewhere" / "7.jsonl")
        moved = Source.stream("visits", event_time="at", event_id="id", follow=other)
        worker.sources = {**worker.sources, "visits": moved.spec()}
        await until(lambda: worker.end("visits") == 1)
        assert worker.state("visits").place == other.place
        worker.sources = {"visits": worker.sources["visits"]}
        await until(lambda: worker.leases.find("follow/payments") is None)
        server.run(INSERT)
        moves = worker.state("visits").moves
        await until(lambda: worker.state("visits").moves > moves + 5)
        assert worker.end("payments") == 1

    await worker.run(scenario)


async def test_a_log_that_is_away_or_a_consumer_that_is_behind_loses_nothing(tmp_path: Path) -> None:
    """And an event that the log never takes holds up no other."""
    appended: list[str] = []
    failures = [UnavailableError("The log is away."), OverloadedError("It is behind.", retry_after=1.0)]

    def append(scope: Scope, stream: str, events: list[Event]) -> int:
        if failures:
            raise failures.pop()
        if any(event.event_id == "3" for event in events):
            raise TooLargeError("An event takes 9 bytes and the server takes at most 8.")
        appended.extend(event.event_id for event in events)
        return len(appended)

    for number in range(1, 5):
        drop(tmp_path, number)
    worker = Worker(tmp_path, visits(), append=append)

    async def scenario() -> None:
        await until(lambda: set(appended) == {"1", "2", "4"})
        await until(lambda: worker.state("visits").waiting == 0)
        state = worker.state("visits")
        assert (state.refused, state.error) == (1, None)
        assert "9 bytes" in (state.refusal or "")

    await worker.run(scenario)
    assert not failures
