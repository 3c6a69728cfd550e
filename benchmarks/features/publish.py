"""Materialize, judge, publish: rows a second from Parquet to a sealed file, the gates' share of it, and memory.

    python -m benchmarks.features.publish [--size ci|demo|million|full] [--threads 1] [--store lmdb|redis …] [--keep]

A row is an entity with 10 features: four ``last``, three ``mean``, two ``sum`` and a ``count``, over windows of 7 and
30 days, from one event an entity of the last six days with ten numbers (uniform times, normal values with two decimals,
seed 7). Every round is a fresh process that has imported its libraries before the clock starts, and publishes into an
empty project on local disk: DuckDB, Parquet, LMDB and SQLite, all fsyncs included. Gates: the source's profile,
statistics of every column and feature, and the judgement. Memory is the greatest RssAnon of the process, sampled every
10 ms, and the limit of DuckDB's memory is 256 MiB up to 100,000 entities and 1 GiB beyond.

Into Redis (one of its own on loopback) the first number of entities is published likewise; beside it stands a bare loop
of the client's pipelined HSET, 2,000 at a time, over as many keys with values of the same size: no reading, computing
or checking, and the limit of whoever writes with that client.

``ci`` 10,000 entities; ``demo`` 100,000; ``million`` one million; ``full`` 100,000 five times, then 1 and 10 million.
Feast 0.67's figures for the same shape are in ``benchmarks.features.feast_peer``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from antiphon.core.child_process import die_with_parent

RESULTS = Path(__file__).parents[1] / "results"
SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "million": ((1_000_000, 1),),
    "ci": ((10_000, 1),),
    "demo": ((100_000, 1),),
    "full": ((100_000, 5), (1_000_000, 1), (10_000_000, 1)),
}
"""Entities and rounds."""

SEED = 7
AS_OF = datetime(2026, 1, 15, 12, tzinfo=UTC)
GOAL_ROWS, GOAL_GATES, GOAL_ANONYMOUS_MB, GOAL_LARGE_MB = 100_000, 0.2, 400.0, 4_000.0
_PIECE = 500_000


def write(path: Path, entities: int) -> None:
    """The source, a piece at a time."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    random, writer = numpy.random.default_rng(SEED), None
    now = int(AS_OF.timestamp()) * 1_000_000
    for first in range(0, entities, _PIECE):
        count = min(_PIECE, entities - first)
        times = now - random.integers(1, 6 * 86_400_000_000, count)
        columns: dict[str, Any] = {
            "customer": pyarrow.array(numpy.arange(first, first + count)),
            "happened": pyarrow.array(times, pyarrow.timestamp("us", tz="UTC")),
        }
        for index in range(10):
            columns[f"x{index}"] = pyarrow.array(random.normal(100.0, 30.0, count).round(2))
        table = pyarrow.table(columns)
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


class _Peak(threading.Thread):
    """Samples this process's anonymous memory."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kilobytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.sample()

    def sample(self) -> None:
        status = Path("/proc/self/status").read_text()
        self.kilobytes = max(self.kilobytes, int(status.split("RssAnon:")[1].split()[0]))

    def stop(self) -> float:
        """The peak in MB."""
        self.sample()
        self._over.set()
        self.join()
        return self.kilobytes * 1024 / 1e6


def once(source: Path, folder: Path, threads: int, memory: int, redis: str | None = None) -> dict[str, float]:
    """Publish into an empty project, online into ``redis`` (a URL) or LMDB; seconds of each phase."""
    import duckdb
    import lmdb
    import numpy
    import pyarrow.parquet

    from antiphon import Entity, Source, col, count, feature_view, last, mean, sum
    from antiphon.catalog.database import Database
    from antiphon.catalog.features.definitions import DefinitionVersions
    from antiphon.core.clock import SystemClock
    from antiphon.core.scope import Scope
    from antiphon.features.catalog import FeatureCatalog
    from antiphon.features.lake.local import LocalLake
    from antiphon.features.monitoring.quality.gate import gate
    from antiphon.features.offline.compute import ComputeLimits
    from antiphon.features.offline.materialize import Materialization, materialize
    from antiphon.features.online.lmdb.store import LmdbStore
    from antiphon.features.online.redis.server import RedisServer
    from antiphon.features.online.redis.store import RedisStore
    from antiphon.features.publication.publish import Publisher

    # pyarrow loads pandas, where it is, with the first array that it takes from NumPy.
    assert pyarrow.array(numpy.zeros(1)).to_numpy().size
    assert all((duckdb, lmdb))
    acts = Source.table("acts", path=str(source), event_time="happened")

    @feature_view(entity=Entity("customer", ["customer"]), source=acts)
    class Activity:
        newest_0 = last(col.x0, window="30d")
        newest_1 = last(col.x1, window="30d")
        newest_2 = last(col.x2, window="30d")
        newest_3 = last(col.x3, window="30d")
        mean_4 = mean(col.x4, window="7d", scale="0.01")
        mean_5 = mean(col.x5, window="30d", scale="0.01")
        mean_6 = mean(col.x6, window="7d", scale="0.01")
        sum_7 = sum(col.x7, window="7d", scale="0.01")
        sum_8 = sum(col.x8, window="30d", scale="0.01")
        acts = count(window="7d")

    spec, scope, clock = Activity.spec(), Scope(), SystemClock()
    database = Database.open(f"sqlite:///{folder}/catalog.db", clock=clock)
    database.migrate()
    lake, server = LocalLake(folder / "lake"), None if redis is None else RedisServer(redis)
    online = LmdbStore(folder / "online", b"k" * 32) if server is None else RedisStore(server, b"k" * 32)
    if server is not None:
        server.describe()  # the client is loaded, and a connection open
    definitions = DefinitionVersions(database)
    definitions.put(scope, spec)
    publisher = Publisher(FeatureCatalog(database, scope, lake), online=online)
    peak = _Peak()
    peak.start()
    started, cpu = time.perf_counter(), time.process_time()
    manifest = materialize(
        Materialization(scope, spec, AS_OF), lake=lake, log=None, clock=clock,
        limits=ComputeLimits(threads=threads, memory=memory),
    )  # fmt: skip
    materialized = time.perf_counter()
    assert gate(spec, manifest).passed
    judged = time.perf_counter()
    assert publisher.publish([(manifest, spec)], reason="benchmark", principal="benchmark") is not None
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    anonymous = peak.stop()
    bare = 0.0 if server is None else _bare(server.client, manifest.rows_out)
    quality = manifest.cost.quality_seconds if manifest.cost is not None else 0.0
    return {
        "entities": manifest.rows_out,
        "seconds": ended - started,
        "materialize": materialized - started - quality,
        "gates": quality + judged - materialized,
        "seal": ended - judged,
        "cpu": cpu,
        "anonymous_mb": anonymous,
        "sealed_mb": online.file(scope, spec.name, manifest.id).stat().st_size / 1e6
        if isinstance(online, LmdbStore)
        else 0.0,
        "bare": bare,
    }


def _bare(client: Any, records: int) -> float:
    """Seconds of a loop that does nothing but store so many records of 112 bytes."""
    keys, value = [f"bare:production:Activity:{os.urandom(16).hex()}" for _ in range(records)], b"v" * 112
    started = time.perf_counter()
    for first in range(0, records, 2_000):
        pipeline = client.pipeline(transaction=False)
        for key in keys[first : first + 2_000]:
            pipeline.hset(key, b"h", value)
        pipeline.execute()
    return time.perf_counter() - started


def _case(source: Path, entities: int, rounds: int, threads: int, redis: str | None = None) -> dict[str, Any]:
    """The median round."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=source.parent) as project:
            command = [sys.executable, "-m", "benchmarks.features.publish", "--once", str(source), project]
            memory = 256 if entities <= 100_000 else 1024
            command += ["--threads", str(threads), "--memory", str(memory)]
            if redis is not None:
                import redis as client

                # A snapshot is named by its content: what an earlier round sealed would not be built again.
                client.Redis.from_url(redis).flushall()
                command += ["--redis", redis]
            told = subprocess.run(die_with_parent(command), check=True, stdout=subprocess.PIPE, text=True).stdout
            found.append(json.loads(told.splitlines()[-1]))
    found.sort(key=lambda each: each["seconds"])
    middle = found[len(found) // 2]
    return {
        **middle,
        "rounds": rounds,
        "rows_per_second": middle["entities"] / middle["seconds"],
        "gates_share": middle["gates"] / middle["seconds"],
        "slowest": found[-1]["seconds"],
        "anonymous_mb": max(each["anonymous_mb"] for each in found),
    }


def _into_redis(source: Path, entities: int, rounds: int, threads: int) -> dict[str, Any]:
    from tests.servers import RedisProcess

    server = RedisProcess()
    try:
        server.start()
        found = _case(source, entities, rounds, threads, server.url)
    finally:
        server.remove()
    return {**found, "bare_rows_per_second": entities / found["bare"]}


def run(size: str = "demo", threads: int = 1, stores: tuple[str, ...] = ("lmdb", "redis")) -> dict[str, Any]:
    """Measure; the results as one dictionary, a case for each number of entities, the median round of each."""
    cases, beside = [], None
    with tempfile.TemporaryDirectory() as folder:
        for entities, rounds in SIZES[size]:
            source = Path(folder) / f"{entities}.parquet"
            write(source, entities)
            cases.append(_case(source, entities, rounds, threads))
            if "redis" in stores and beside is None and entities <= 100_000:
                beside = _into_redis(source, entities, rounds, threads)
            source.unlink()
    first = cases[0]
    return {
        "benchmark": "feature_publish",
        "size": size,
        "seed": SEED,
        "features": 10,
        "threads": threads,
        "load": os.getloadavg()[0],
        "cases": cases,
        "redis": beside,
        "met": {
            "rows": first["rows_per_second"] >= GOAL_ROWS,
            "gates": all(case["gates_share"] < GOAL_GATES for case in cases),
            "memory": all(
                case["anonymous_mb"] < (GOAL_ANONYMOUS_MB if case["entities"] <= 100_000 else GOAL_LARGE_MB)
                for case in cases
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    parser.add_argument("--once", nargs=2, metavar=("SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--store", choices=("lmdb", "redis"), action="append", help="both by default")
    parser.add_argument("--redis", help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=256, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.once:
        source, folder = map(Path, chosen.once)
        print(json.dumps(once(source, folder, chosen.threads, chosen.memory, chosen.redis)))
        return
    found = run(chosen.size, chosen.threads, tuple(chosen.store or ("lmdb", "redis")))
    print(
        f"{'':<6}{'entities':>10} {'rows/s':>9} {'seconds':>8} {'CPU':>6} {'materialize':>11} {'gates':>6} "
        f"{'seal':>6} {'share':>6} {'anon MB':>8} {'sealed MB':>9}"
    )
    named = [("lmdb", case) for case in found["cases"]]
    for store, case in [*named, *([("redis", found["redis"])] if found["redis"] is not None else [])]:
        print(
            f"{store:<6}{case['entities']:>10,.0f} {case['rows_per_second']:>9,.0f} {case['seconds']:>8.2f} "
            f"{case['cpu']:>6.2f} "
            f"{case['materialize']:>11.2f} {case['gates']:>6.2f} {case['seal']:>6.2f} {case['gates_share']:>6.1%} "
            f"{case['anonymous_mb']:>8.0f} {case['sealed_mb']:>9.1f}"
        )
    if found["redis"] is not None:
        print(f"a bare loop of pipelined HSET into Redis: {found['redis']['bare_rows_per_second']:,.0f} rows/s")
    print(json.dumps(found))
    if chosen.keep:
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "feature_publish.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
