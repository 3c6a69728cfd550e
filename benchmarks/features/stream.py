"""How soon an event is servable, and how many events a second keep being so.

    python -m benchmarks.features.stream [--size ci|demo|full] [--stores embedded,servers]

``embedded``  the event log in SQLite, the online store in LMDB;
``servers``   the event log on NATS JetStream, the online store in Redis, both on this machine.

As in production the consumer is a process of its own: the loop of ``orchestration/streams.py`` with the worker's
defaults (a look every 50 ms, 2,000 events at most, a budget of 250 ms) over ``features/streaming/consumer.py``. Two
views follow the stream: count, sum and last over two hours, and a count over seven days.

Freshness. A process appends events of 200 entities at a declared rate, in a batch every 20 ms. Beside it a prober takes
one entity after the other that nobody else writes: it reads the clock, appends one event with a value never used
before, and reads the feature through ``FeatureReader`` every millisecond until that value is there. The time in
between, which includes the append, is a sample. A rate counts as kept when what was sent came to at least 95 % of it
and the consumer was at the end of the log within two seconds of the last event.

Sustained. A backlog is appended while no consumer runs (the rate of appending, in batches of 500), then the consumer is
started: events from the first offset that is seen to move to the end, over that time.

Divided. What several workers consume beside one: ``stream_backlog.py``.

Values: before it ends, the sums over all probes are read once more and must be right. There is no peer in the run:
Feast has no consumer of its own, its push API writes a row that the producer computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.core.child_process import start_child

RESULTS = Path(__file__).parents[1] / "results"
STORES = ("embedded", "servers")
GOAL_P99_SECONDS = 1.0
ENTITIES = 200
_TICK = 0.02
_KEPT = 0.95
_PATIENCE = 20.0


class Size(NamedTuple):
    """Events/s of the load, seconds a rate is held, events of the backlog, rounds in which one is divided."""

    rates: tuple[int, ...]
    seconds: float
    backlog: int
    rounds: int


SIZES = {
    "ci": Size((100,), 2.0, 8_000, 1),
    "demo": Size((100, 1_000, 3_000), 8.0, 40_000, 3),
    "full": Size((100, 1_000, 3_000, 10_000), 30.0, 200_000, 3),
}


def specs() -> list[Any]:
    from antiphon import Entity, Source, col, count, feature_view, last
    from antiphon import sum as total

    sensor = Entity("sensor", ["sensor"])
    source = Source.stream("readings", event_time="at", event_id="id")

    @feature_view(entity=sensor, source=source)
    class Lately:
        readings = count(window="2h")
        total_value = total(col.value, window="2h", scale="1")
        newest = last(col.value, window="2h")

    @feature_view(entity=sensor, source=source)
    class Week:
        readings = count(window="7d")

    return [Lately.spec(), Week.spec()]


class Opened:
    """Everything a process of the benchmark needs, on the stores in ``folder`` or on the servers that are named."""

    def __init__(self, folder: Path, nats: str | None, redis: str | None, tenant: str = "default") -> None:
        from antiphon.catalog.database import Database
        from antiphon.catalog.features.events import EventLog, StreamHomes
        from antiphon.core.scope import Scope
        from antiphon.features.online.lmdb.overlay import LmdbOverlay
        from antiphon.features.online.lmdb.store import LmdbStore
        from antiphon.features.online.redis.overlay import RedisOverlay
        from antiphon.features.online.redis.server import RedisServer
        from antiphon.features.online.redis.store import RedisStore
        from antiphon.features.ports import OnlineSnapshots, StreamedOverlay
        from antiphon.features.streaming.nats_log import NatsEventLog
        from antiphon.features.streaming.nats_server import NatsServer

        self.scope = Scope(tenant)
        self.specs = specs()
        self.folder = folder
        self.go = folder / f"{tenant}.go"
        self.database = Database.open(f"sqlite:///{folder}/catalog.db")
        self.database.migrate()
        self._close: list[Any] = [self.database]
        self.log: EventLog | NatsEventLog = EventLog(self.database)
        if nats is not None:
            server = NatsServer(nats)
            self.log = NatsEventLog(server, StreamHomes(self.database), self.database.codec)
            self._close.append(server)
        self.overlay: StreamedOverlay
        self.online: OnlineSnapshots
        if redis is None:
            self.online = LmdbStore(folder / "online", b"k" * 32)
            self.overlay = LmdbOverlay(folder / "online", self.scope)
            self._close += [self.online, self.overlay]
        else:
            keeper = RedisServer(redis)
            self.online, self.overlay = RedisStore(keeper, b"k" * 32), RedisOverlay(keeper, self.scope)
            self._close += [self.online, keeper]

    def consumer(self) -> Any:
        from antiphon.features.streaming.consumer import StreamConsumer

        return StreamConsumer(self.scope, log=self.log, overlay=self.overlay, online=self.online, views=self.specs)

    def publish(self) -> None:
        """An empty snapshot of each view: everything that is read then came through the stream."""
        from antiphon.features.catalog import FeatureCatalog
        from antiphon.features.lake.local import LocalLake
        from antiphon.features.offline.materialize import Materialization, materialize
        from antiphon.features.publication.publish import Publisher

        lake, clock = LocalLake(self.folder / "lake"), self.database.clock
        publisher = Publisher(FeatureCatalog(self.database, self.scope, lake, notice=0), online=self.online)
        made = []
        for spec in self.specs:
            wanted = Materialization(scope=self.scope, spec=spec, as_of=clock.now())
            made.append((materialize(wanted, lake=lake, log=self.log, clock=clock), spec))
        publisher.publish(made, reason="benchmark", principal="benchmark")

    def reader(self) -> Any:
        from antiphon.catalog.features.publications import Publications
        from antiphon.features.online.lookup import FeatureReader

        return FeatureReader(
            self.scope,
            publications=Publications(self.database),
            online=self.online,
            clock=self.database.clock,
            overlay=self.overlay,
        )

    def close(self) -> None:
        for each in reversed(self._close):
            each.close()


def event(identity: str, sensor: str, value: int) -> Any:
    from antiphon.catalog.features.events import Event

    now = datetime.now(UTC)
    return Event(identity, now, now, {"id": identity, "sensor": sensor, "value": value, "at": now.isoformat()})


def consume(opened: Opened, partitions: Sequence[int] | None = None) -> None:
    """The consumer's process: the worker's loop, until SIGTERM."""
    from antiphon.orchestration.streams import StreamPoller

    consumer, owned = opened.consumer(), None if partitions is None else {"readings": partitions}

    async def work() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        print("ready", flush=True)
        while partitions is not None and not opened.go.exists() and not stop.is_set():
            await asyncio.sleep(0.005)
        poll = partial(consumer.poll, owned=owned)
        await StreamPoller(poll, poll=0.05, batch=2_000, budget=0.25).run_until(stop)

    asyncio.run(work())


def load(opened: Opened, rate: int, seconds: float, run: str) -> None:
    """The load's process: says how many events it appended in how many seconds."""
    print("ready", flush=True)
    started, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - started) < seconds:
        due = int(now * rate) - sent
        if due > 0:
            opened.log.append(
                opened.scope,
                "readings",
                [event(f"{run}-{sent + n}", f"sensor-{(sent + n) % ENTITIES}", 1) for n in range(due)],
            )
            sent += due
        time.sleep(_TICK)
    print(json.dumps({"sent": sent, "seconds": time.perf_counter() - started}), flush=True)


@contextmanager
def child(kind: str, places: list[str], *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process of this file, ended at the end."""
    started = start_child(
        [sys.executable, "-m", "benchmarks.features.stream", "--child", kind, *places, *more],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n", f"{kind} did not start"
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
        try:
            started.wait(timeout=15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()
        assert started.stdout is not None
        started.stdout.close()


class Prober:
    """Appends what it then waits for."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._reader = opened.reader()
        self._views = {spec.name: spec.definition_version for spec in opened.specs}
        self._sent: dict[str, int] = {}
        self._number = 0

    def read(self, sensor: str) -> Any:
        return self._reader.read(self._views, {"sensor": sensor}, datetime.now(UTC)).values

    def probe(self) -> float:
        """Seconds until an event is servable."""
        self._number += 1
        sensor, value = f"probe-{self._number % 20}", self._number
        started = time.perf_counter()
        self._opened.log.append(self._opened.scope, "readings", [event(f"probe-{value}", sensor, value)])
        self._sent[sensor] = self._sent.get(sensor, 0) + value
        while self.read(sensor)["lately.newest"].value != value:
            if time.perf_counter() - started > _PATIENCE:
                raise RuntimeError(f"An event is not servable after {_PATIENCE} s.")
            time.sleep(0.001)
        return time.perf_counter() - started

    def wrong(self) -> int:
        """How many of the probes' sums are not what was sent."""
        return sum(self.read(sensor)["lately.total_value"].value != total for sensor, total in self._sent.items())


def percentile(samples: list[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def until_caught_up(opened: Opened, consumer: Any, within: float) -> float | None:
    """Seconds until the consumer is at the log's end; ``None`` when it does not get there in time."""
    end, started = opened.log.end(opened.scope, "readings"), time.perf_counter()
    while time.perf_counter() - started < within:
        if all(stream.consumed >= end for stream in consumer.status(datetime.now(UTC))):
            return time.perf_counter() - started
        time.sleep(0.01)
    return None


def fresh(opened: Opened, places: list[str], prober: Prober, rate: int, seconds: float) -> dict[str, Any]:
    """Samples at one rate."""
    samples: list[float] = []
    with child("load", places, str(rate), str(seconds), f"load-{rate}") as loading:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            samples.append(prober.probe())
        assert loading.stdout is not None
        told = json.loads(loading.stdout.readline())
    waited = until_caught_up(opened, opened.consumer(), _PATIENCE)
    reached = told["sent"] / told["seconds"]
    return {
        "rate": rate,
        "reached": round(reached, 1),
        "samples": len(samples),
        "p50_ms": round(percentile(samples, 0.5) * 1e3, 1),
        "p99_ms": round(percentile(samples, 0.99) * 1e3, 1),
        "most_ms": round(max(samples) * 1e3, 1),
        "caught_up_after_s": None if waited is None else round(waited, 2),
        "kept": waited is not None and waited <= 2.0 and reached >= _KEPT * rate,
    }


def measure(folder: Path, chosen: Size, nats: str | None, redis: str | None) -> dict[str, Any]:
    """One kind of stores."""
    from benchmarks.features.stream_backlog import divided, sustained

    places = [str(folder), nats or "-", redis or "-"]
    opened = Opened(folder, nats, redis)
    try:
        opened.publish()
        found: dict[str, Any] = sustained(opened, places, chosen.backlog)
        with child("consume", places):
            prober = Prober(opened)
            prober.probe()
            found["rates"] = [fresh(opened, places, prober, rate, chosen.seconds) for rate in chosen.rates]
            found["wrong_values"] = prober.wrong()
        found["divided"] = divided(folder, nats, redis, chosen)
    finally:
        opened.close()
    return found


def run(size: str, stores: tuple[str, ...] = STORES) -> dict[str, Any]:
    """Measure at a size; the figures by kind of stores, and whether the goal holds at every rate that was kept."""
    chosen = SIZES[size]
    line: dict[str, Any] = {
        "benchmark": "feature_stream",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "entities": ENTITIES,
        "seconds": chosen.seconds,
        "backlog": chosen.backlog,
        "load": round(os.getloadavg()[0], 2),
    }
    for kind in stores:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            nats = redis = None
            if kind == "servers":
                from tests.servers import NatsProcess, RedisProcess

                for server in (NatsProcess(), RedisProcess("redis-server", "--appendonly", "yes")):
                    stack.callback(server.remove)
                    server.start()
                    nats, redis = (server.url, redis) if isinstance(server, NatsProcess) else (nats, server.url)
            line[kind] = measure(Path(name), chosen, nats, redis)
    measured = [rate for kind in stores for rate in line[kind]["rates"]]
    line["kept_up_to"] = {
        kind: max((rate["rate"] for rate in line[kind]["rates"] if rate["kept"]), default=0) for kind in stores
    }
    line["worst_p99_ms"] = max(rate["p99_ms"] for rate in measured)
    line["goal_p99"] = all(rate["p99_ms"] < GOAL_P99_SECONDS * 1e3 for rate in measured if rate["kept"])
    line["wrong_values"] = sum(line[kind]["wrong_values"] for kind in stores)
    return line


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        kind, folder, nats, redis, *more = arguments[1:]
        stores = Path(folder), None if nats == "-" else nats, None if redis == "-" else redis
        opened = Opened(*stores, *more[:1]) if kind == "consume" else Opened(*stores)
        try:
            if kind == "consume":
                consume(opened, [int(number) for number in more[1].split(",")] if more else None)
            else:
                load(opened, int(more[0]), float(more[1]), more[2])
        finally:
            opened.close()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--stores", default=",".join(STORES), help="embedded, servers or both")
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    options = parser.parse_args(arguments)
    stores = tuple(options.stores.split(","))
    line = run(options.size, stores)
    print(f"{'stores':9} {'events/s':>9} {'reached':>9} {'p50 ms':>8} {'p99 ms':>8} {'most':>8} {'samples':>8}   kept")
    for kind in stores:
        for rate in line[kind]["rates"]:
            timed = f"{rate['p50_ms']:8} {rate['p99_ms']:8} {rate['most_ms']:8} {rate['samples']:8}"
            print(f"{kind:9} {rate['rate']:9} {rate['reached']:9} {timed}   {'yes' if rate['kept'] else 'no'}")
        print(f"{kind:9} appended {line[kind]['appended_per_s']}/s, consumed {line[kind]['consumed_per_s']}/s")
        shares = line[kind]["divided"]
        cores = shares["two_by_one_with_cores"]
        print(f"{kind:9} two workers {shares['two_by_one']} x one here, {cores} x by processor time")
    print(json.dumps(line))
    if options.keep:
        with (RESULTS / "feature_stream.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if line["goal_p99"] and not line["wrong_values"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
