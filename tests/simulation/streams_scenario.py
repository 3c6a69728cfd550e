"""Streams under several workers: events appended by clients, consumed by the workers that share their partitions."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any

from tests.simulation.process import START, Process, Violation
from tests.simulation.stream_checks import LeaseObserver, LogObserver, OverlayChecks
from tests.simulation.world import World

from antiphon import Entity, Source, col, count, feature_view, last
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.durable.claims import WORKERS
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.overlay_records import PARTITIONS, view_prefix
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.stream_partitions import StreamPartitions
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import work

SCOPE, STREAM, LEASE = Scope(), "movements", 6.0
KEYS = ("a", "b", "c", "d", "e")


def _views() -> tuple[FeatureViewSpec, ...]:
    source = Source.stream(STREAM, history="movements.parquet", event_time="due", available_at="seen", event_id="id")
    port = Entity("port", ["port"])

    @feature_view(entity=port, source=source)
    class Traffic:
        movements = count(window="2h")

    @feature_view(entity=port, source=source)
    class Latest:
        number = last(col.number, window="6h")

    return Traffic.spec(), Latest.spec()


VIEWS = _views()
PREFIXES = tuple(view_prefix(view.key) for view in VIEWS)


class EntityHashesStub:
    """Names entities; online files are not what is simulated."""

    def entity_hash(self, entity: str, keys: Iterable[str | None]) -> bytes:
        return hashlib.sha256(repr((entity, *keys)).encode()).digest()[:16]


HASHES: Any = EntityHashesStub()
ENTITIES = {key: HASHES.entity_hash("port", (key,)) for key in KEYS}
QUERIES = [(view, entity, 0) for view in PREFIXES for entity in ENTITIES.values()]


class ProcessOverlay:
    """The real overlay as one process uses it: it parks before each transaction, and may die right before and after."""

    def __init__(self, scenario: StreamsScenario, process: Process) -> None:
        self._scenario = scenario
        self._process = process
        self.overlay = LmdbOverlay(scenario.folder, SCOPE)

    def read(self, views: Iterable[bytes], queries: Any = ()) -> Any:
        self._process.before_transaction()
        return self.overlay.read(views, queries)

    def apply(self, moves: Any, events: Any) -> bool:
        process = self._process
        process.before_transaction()
        process.point("overlay")
        moved = self.overlay.apply(moves, events)
        process.note(
            f"{'applies' if moved else 'is refused'} {[(key[1], move.after.offset) for key, move in moves.items()]}"
        )
        self._scenario.applied(process, self.overlay)
        process.point("after overlay")
        return moved


class DutyRecord:
    """A part of the duties that says where they are done."""

    def __init__(self, on_duty: dict[Process, None], process: Process) -> None:
        self._on_duty = on_duty
        self._process = process

    async def run_until(self, stop: asyncio.Event) -> None:
        self._on_duty[self._process] = None
        try:
            await stop.wait()
        finally:
            self._on_duty.pop(self._process)


class StreamsScenario:
    """Workers that share the partitions of a stream, gateways that append, and clients with a sequence of events each.

    Attributes:
        acknowledged: ids of events that the log was said to have.
        on_duty: processes that do the duties, as they believe; ``partitions`` those that each consumes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.folder = world.file.path.parent / "online"
        self.batch = self.random.choice((1, 2, 5))
        self.deployed = self.random.random() * 20
        self.shares = self.random.choice((1, 2, 8, 8))
        self.one_host = self.random.random() < 0.5
        self.acknowledged: set[str] = set()
        self.on_duty: dict[Process, None] = {}
        self.partitions: dict[Process, StreamPartitions] = {}
        self.overlays: list[LmdbOverlay] = []
        self.log = LogObserver(world, STREAM)
        self.leases = LeaseObserver(world, SCOPE, self.gone)
        self.checks = OverlayChecks(self.log, ENTITIES)

    async def play(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        world = self.world
        for number in range(self.random.choice((2, 2, 3))):
            world.keep_up(f"worker-{number}", self.worker)
        for number in range(self.random.choice((1, 2))):
            world.keep_up(f"gateway-{number}", self.gateway)
        clients = [asyncio.ensure_future(self.client(number)) for number in range(self.random.randint(2, 3))]
        try:
            await world.until(lambda: all(client.done() for client in clients), 40.0)
            await asyncio.sleep(self.random.random() * 10)
            world.heal()
            await asyncio.gather(*clients)
            await world.until(self.settled, 120.0)
            self.check()
        finally:
            for overlay in self.overlays:
                overlay.close()

    async def gateway(self, process: Process) -> None:
        await process.stop.wait()

    async def worker(self, process: Process) -> None:
        overlay: Any = ProcessOverlay(self, process)
        self.overlays.append(overlay.overlay)
        now = self.world.loop.time
        followed = VIEWS if now() >= self.deployed else VIEWS[:1]
        consumer = StreamConsumer(
            SCOPE, log=EventLog(process.database), overlay=overlay, online=HASHES, views=followed, now=now
        )

        def consume(limit: int) -> int:
            if now() >= self.deployed:
                consumer.follow(VIEWS)
            return consumer.poll(limit, partitions.owned)

        wakeup = process.database.doorbell.wakeup(SCOPE.environment, "events")
        poller = StreamPoller(
            consume, poll=2.0, batch=self.batch, wakeup=wakeup, unsettled=lambda: consumer.unsettled, now=now
        )
        leases = ProcessLeases(process.database, SCOPE.environment)
        holder = LeaseHolder(leases, process.label, self.gone, seconds=LEASE, monotonic=now)
        partitions = self.partitions[process] = StreamPartitions(
            holder,
            SCOPE.tenant,
            process.name,
            streams=lambda: consumer.streams,
            shares=self.shares,
            changed=wakeup.wake,
            wakeup=process.database.doorbell.wakeup(SCOPE.environment, "leases"),
        )
        duties = Duties("duties", [DutyRecord(self.on_duty, process)], holder)
        consuming = Duties(f"{WORKERS}{process.name}", [partitions, poller], holder)
        await work([duties, consuming], process.stop)

    def gone(self, holder: str) -> bool:
        """Whether a process is known to have ended: only on one host that can be seen."""
        return self.one_host and not any(one.label == holder and one.alive for one in self.world.processes)

    async def client(self, number: int) -> None:
        for place in range(self.random.randint(2, 5)):
            await asyncio.sleep(self.random.random() * 3)
            moment = START + timedelta(seconds=self.random.randint(-600, 0), microseconds=100 * number + place)
            keyless = self.random.random() < 0.15
            key = self.random.choice(KEYS)
            name = f"{number}-{place}-{'keyless' if keyless else key}"
            payload = {"number": place} | ({} if keyless else {"port": key})
            event = Event(name, moment, moment, payload)

            async def append(process: Process, event: Event = event) -> Any:
                return await process.call(partial(EventLog(process.database).append, SCOPE, STREAM, [event]))

            await self.world.told("gateway", append)
            self.acknowledged.add(name)

    def applied(self, process: Process, overlay: LmdbOverlay) -> None:
        """Hold the overlay against the log."""
        try:
            self.checks.check(process, overlay.read(PREFIXES, QUERIES))
        except Violation as violation:
            self.world.violate(str(violation))

    def holders(self) -> list[str]:
        return [process.label for process in self.on_duty if process.alive]

    def settled(self) -> bool:
        """Whether one process does the duties, that holds the lease, every view has the whole log, and the partitions
        are divided among the workers that live."""
        held = [holder for name, (holder, _, _) in self.leases.leases.items() if name == "duties"]
        whole = self.checks.whole(PREFIXES, len(self.log.rows))
        on_duty = self.holders() == held and len(held) == 1
        return on_duty and whole and self.divided() and self.world.loop.time() > self.deployed

    def divided(self) -> bool:
        """Whether each partition's lease is held by a living worker that consumes it, and all have as many shares, or
        one fewer."""
        prefix = f"streams/{SCOPE.tenant}/partition/{STREAM}/"
        held = {
            (holder, int(name.removeprefix(prefix)))
            for name, (holder, _, _) in self.leases.leases.items()
            if name.startswith(prefix)
        }
        owned = [
            (one.label, self.partitions[one].owned) for one in self.world.alive("worker") if one in self.partitions
        ]
        consumed = {(label, part) for label, streams in owned for part in streams.get(STREAM, ())}
        numbers = [len(streams.get(STREAM, ())) * self.shares // PARTITIONS for _, streams in owned]
        return consumed == held and len(held) == PARTITIONS and max(numbers) - min(numbers) <= 1

    def check(self) -> None:
        """Everything that was acknowledged is in the log, every view has it, and one process does the duties."""
        if lost := sorted(self.acknowledged - {name for _, name, _ in self.log.rows}):
            raise Violation(f"acknowledged and lost: {lost}")
        if not self.settled():
            raise Violation(
                f"the log has {len(self.log.rows)} events, views are at {self.checks.progress}; "
                f"{self.holders()} do the duties under {self.leases.leases}"
            )


async def play(world: World) -> None:
    """The scenario."""
    await StreamsScenario(world).play()
