"""Full-stack feature lookups beside Feast: tenant, cached policy decision, publication, freshness contract, values.

Run ``python -m benchmarks.features.lookup [--size ci|demo|full] [--no-peer] [--store lmdb|redis …]``. A view of ten
numbers about each entity (the latest of each, as Feast keeps them), entities drawn at random (seed 20), everything
real: DuckDB, Parquet, SQLite, LMDB, a Redis of its own on loopback, Cedar's default policies, Feast 0.67 in its own
environment (``scripts/feast-environment``) on the same values. The same calls are timed on both sides: 1 entity and 100
entities.

*Floor*: what the client of Redis takes for the one command of a first read, and nothing else.

*Cold*: the first read of the entities in a snapshot by a process, no entity asked twice. *Warm*: entities whose rows
the process has kept since it read them from this snapshot. Feast keeps nothing, so it has one figure.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.features.feast_process import FeastMissing, FeastProcess

from antiphon import Entity, Source, col, feature_view, last
from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore
from antiphon.features.publication.publish import Publisher
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.document import default_document
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.request import PolicyColumn, Resource
from antiphon.serving.features.lookup import FeatureLookup
from antiphon.serving.features.lookup_values import LookupPlan, LookupRequest

SCOPE = Scope()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SEED = 20
FEATURES = tuple(f"f{number}" for number in range(10))
SIZES = {
    # entities, calls of one entity, calls of a hundred
    "ci": (5_000, 1_000, 20),
    "demo": (100_000, 3_000, 200),
    "full": (100_000, 20_000, 400),
}
GOALS = {("lmdb", 1): 8.0, ("lmdb", 100): 20.0, ("redis", 1): 3.0, ("redis", 100): 20.0}
"""How many times faster at p50 than Feast on its store of the same kind (SQLite for LMDB)."""
BESIDE = {"lmdb": "sqlite", "redis": "redis"}


def view(file: Path) -> FeatureViewSpec:
    source = Source.table("measured", path=str(file), event_time="event_time")

    @feature_view(entity=Entity("entity", ["entity"]), source=source)
    class One:
        f0 = last(col.f0)
        f1 = last(col.f1)
        f2 = last(col.f2)
        f3 = last(col.f3)
        f4 = last(col.f4)
        f5 = last(col.f5)
        f6 = last(col.f6)
        f7 = last(col.f7)
        f8 = last(col.f8)
        f9 = last(col.f9)

    return One.spec()


def write(file: Path, entities: int) -> None:
    """A row of each entity, of the last 25 days."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    chance = numpy.random.default_rng(SEED)
    ago = chance.integers(60, 25 * 86_400, entities).astype("timedelta64[s]")
    columns: dict[str, Any] = {
        "entity": pyarrow.array(numpy.arange(entities, dtype="int64")),
        "event_time": pyarrow.array(
            numpy.datetime64(NOW.replace(tzinfo=None), "us") - ago, pyarrow.timestamp("us", tz="UTC")
        ),
    }
    columns |= {name: pyarrow.array(chance.random(entities)) for name in FEATURES}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)


class Desk:
    """One published view and a lookup over it, as the gateway wires it."""

    def __init__(self, folder: Path, file: Path, online: Any) -> None:
        folder.mkdir(parents=True)
        self.clock = ManualClock(NOW)
        self.database = Database.open(f"sqlite:///{folder}/catalog.db", clock=self.clock)
        self.database.migrate()
        self.spec = view(file)
        DefinitionVersions(self.database).put(SCOPE, self.spec)
        lake, log = LocalLake(folder / "lake"), EventLog(self.database)
        self.online = online
        self.publications = Publications(self.database)
        publisher = Publisher(FeatureCatalog(self.database, SCOPE, lake, notice=0), online=online)
        started = time.perf_counter()
        wanted = Materialization(scope=SCOPE, spec=self.spec, as_of=NOW)
        publisher.publish(
            [(materialize(wanted, lake=lake, log=log, clock=self.clock), self.spec)], reason="bench", principal="bench"
        )
        self.publish_seconds = time.perf_counter() - started
        decider = Decider(default_document())
        columns = tuple(PolicyColumn(f"one.{name}") for name in FEATURES)
        plan = LookupPlan(
            resource=Resource("features", "one", columns=columns),
            views={self.spec.name: self.spec.definition_version},
            features={self.spec.name: None},
            contracts={self.spec.name: Freshness("30d", "reject")},
        )
        who = Principal(id="bench", tenant=SCOPE.tenant, role="service", kind="service")

        def anew() -> Callable[[Sequence[dict[str, str]]], Any]:
            reader = FeatureReader(SCOPE, publications=self.publications, online=online, clock=self.clock)
            lookup = FeatureLookup(lambda scope: reader, decider.decide, self.clock)
            return lambda entities: lookup.look_up_now(LookupRequest(SCOPE, who, plan, entities))

        self.anew = anew

    def close(self) -> None:
        self.online.close()
        self.database.close()


def measure(desk: Desk, entities: int, calls: dict[int, int]) -> dict[str, Any]:
    """p50, p95, p99 in milliseconds, cold and warm, of calls of so many entities."""
    found: dict[str, Any] = {}
    for size, count in calls.items():
        chance = random.Random(SEED)
        count = min(count, entities // size // 2)
        drawn = chance.sample(range(entities), count * size)
        asked = [[{"entity": str(number)} for number in drawn[at : at + size]] for at in range(0, len(drawn), size)]
        desk.online.forget(SCOPE, ())
        ask = desk.anew()
        first = ask([{"entity": "0"}])
        assert first.entities[0].known
        cold = timed(ask, asked)
        # Rows of the last calls are kept; an order of their own, so that no call repeats the one before.
        again = asked[-min(len(asked), 30_000 // size) :]
        chance.shuffle(again)
        for call in again:
            ask(call)
        warm = timed(ask, again)
        found[str(size)] = {"cold": figures(cold), "warm": figures(warm)}
    return found


def floor(server: RedisServer, calls: dict[int, int]) -> dict[str, Any]:
    """What the client alone takes for the one command of a first read: the floor of that."""
    (rows,) = server.client.scan_iter("*:rows", count=1_000)
    hashes = [field for field, _ in server.client.hscan_iter(rows, count=1_000) if len(field) == 16]
    chance = random.Random(SEED)
    found: dict[str, Any] = {}
    for size, count in calls.items():
        asked = [chance.sample(hashes, size) for _ in range(min(count, 1_000))]
        found[str(size)] = figures(timed(lambda fields: server.client.hmget(rows, [b"s", *fields]), asked))
    return found


def timed(ask: Callable[[Any], Any], calls: Sequence[Any]) -> list[float]:
    gc.collect()
    taken = []
    for call in calls:
        started = time.perf_counter()
        ask(call)
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def figures(taken: Sequence[float]) -> dict[str, float]:
    ordered = sorted(taken)
    return {
        "p50_ms": round(statistics.median(ordered), 5),
        "p95_ms": round(ordered[int(len(ordered) * 0.95)], 5),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)], 5),
        "calls": len(ordered),
    }


@contextmanager
def redis_server() -> Iterator[int]:
    """A Redis of its own, ended with the block."""
    from tests.servers import RedisProcess

    server = RedisProcess()
    try:
        server.start()
        yield server.port
    finally:
        server.remove()


def measure_feast(
    folder: Path, file: Path, entities: int, calls: dict[int, int], stores: Sequence[str], port: int | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with FeastProcess() as feast:
        found["versions"] = feast.versions
        for store in stores:
            kind = BESIDE[store]
            place = {"redis": f"127.0.0.1:{port}"} if kind == "redis" else {}
            one = {
                "name": "one", "path": str(file), "keys": ["entity"], "event_time": "event_time",
                "features": list(FEATURES),
            }  # fmt: skip
            feast.ask("repository", name=kind, folder=str(folder / kind), store=kind, views=[one], **place)
            span = {"start": (NOW - timedelta(days=30)).isoformat(), "end": NOW.isoformat()}
            found[kind] = {"materialize_seconds": feast.ask("materialize", repository=kind, **span)["seconds"]}
            for size, count in calls.items():
                chance = random.Random(SEED)
                count = min(count, entities // size // 2)
                drawn = chance.sample(range(entities), count * size)
                asked = [[{"entity": number} for number in drawn[at : at + size]] for at in range(0, len(drawn), size)]
                found[kind][str(size)] = feast.ask("online", repository=kind, calls=asked)
    return found


def run(size: str = "demo", peer: bool = True, stores: Sequence[str] = ("lmdb", "redis")) -> dict[str, Any]:
    """Measure; the results as one dictionary."""
    entities, ones, hundreds = SIZES[size]
    calls = {1: ones, 100: hundreds}
    result: dict[str, Any] = {
        "benchmark": "feature_lookup", "size": size, "entities": entities, "features": len(FEATURES), "seed": SEED,
        "python": sys.version.split()[0], "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="feature-lookup-") as name,
        redis_server() if "redis" in stores else nullcontext(None) as port,
    ):
        folder = Path(name)
        file = folder / "measured.parquet"
        write(file, entities)
        for store in stores:
            server = None
            if store == "redis":
                server = RedisServer(f"redis://127.0.0.1:{port}/0")
                online: Any = RedisStore(server, b"k" * 32)
            else:
                online = LmdbStore(folder / "online", b"k" * 32)
            desk = Desk(folder / f"desk-{store}", file, online)
            try:
                result[store] = {"publish_seconds": round(desk.publish_seconds, 2), **measure(desk, entities, calls)}
                if server is not None:
                    result["redis"]["floor"] = floor(server, calls)
            finally:
                desk.close()
                if server is not None:
                    server.close()
        if peer:
            result["feast"] = measure_feast(folder / "feast", file, entities, calls, stores, port)
            result["times_faster"] = {
                f"{store}_{count}_{how}": round(
                    result["feast"][BESIDE[store]][str(count)]["p50_ms"] / result[store][str(count)][how]["p50_ms"], 2
                )
                for store in stores
                for count in calls
                for how in ("cold", "warm")
            }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--no-peer", action="store_true", help="leave Feast out")
    parser.add_argument("--store", choices=tuple(BESIDE), action="append")
    options = parser.parse_args()
    try:
        result = run(options.size, not options.no_peer, options.store or ("lmdb", "redis"))
    except FeastMissing as error:
        sys.stderr.write(f"{error} Or leave it out: --no-peer.\n")
        return 3
    line = "{:8} {:>9} {:6} {:>10} {:>10} {:>10} {:>14}"
    print(line.format("store", "entities", "", "p50 ms", "p95 ms", "p99 ms", "Feast p50 ms"))
    for store in options.store or ("lmdb", "redis"):
        for count in ("1", "100"):
            beside = result.get("feast", {}).get(BESIDE[store], {}).get(count, {}).get("p50_ms", "")
            for how in ("cold", "warm"):
                one = result[store][count][how]
                print(line.format(store, count, how, one["p50_ms"], one["p95_ms"], one["p99_ms"], beside))
            if store == "redis":
                one = result[store]["floor"][count]
                print(line.format(store, count, "floor", one["p50_ms"], one["p95_ms"], one["p99_ms"], ""))
    for name, times in result.get("times_faster", {}).items():
        store, count, _ = name.split("_")
        goal = GOALS[store, int(count)]
        met = "yes" if times >= goal else "no"
        print(f"{name}: {times} times as fast as Feast on {BESIDE[store]} (goal {goal:g}: {met})")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
