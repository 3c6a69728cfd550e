"""Flips of publications under readers: torn batches, how long a flip takes, and whether anybody goes back.

    python -m benchmarks.features.flips [--size ci|demo|full] [--store lmdb|redis] [--no-peer]

Two views of the same entities have snapshots of several generations; every value says which generation it is of. One
process flips: it publishes both views of a later generation at once, or rolls back, by chance (seed declared), every
20 to 80 ms. Meanwhile other processes read 50 random entities of both views a batch and judge each batch by its values
alone (``benchmarks/features/torn.py``, which imports nothing of ours): one asks the catalog before every batch and
keeps no rows, the other reads as a gateway does, under its lease. What a publication's values are must also be the
generation that was published under its number. A flip is timed from the call to the catalog's commit, with nobody
reading and under the readers; and from the commit until a reader serves it. A client of two gateways hands its last
publication on as the minimum, then does without it, and must never see an older one.

Beside it Feast re-materializes two views while its own client reads them, judged likewise (``feast_peer.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.features.feast_process import FeastMissing, FeastProcess
from benchmarks.features.flip_reader import online_store

from antiphon import Entity, Source, col, count, feature_view, last
from antiphon import sum as added
from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.features.publications import LONGEST_LEASE, NOTICE, Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.child_process import start_child
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.publication.publish import Publisher

RESULTS = Path(__file__).parents[1] / "results"
SCOPE = Scope()
SEED = 20240102
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
BETWEEN = (0.02, 0.08)
GOAL_P99_MS = 20.0
READERS = {"asking": (0.0, 0), "leased": (LONGEST_LEASE, 4_096)}
"""Lease in seconds and rows kept of each of the two that read batches."""


class Size(NamedTuple):
    """Least batches of all readers and least moves that each of them sees, entities of a view, generations, flips with
    nobody reading, reads of the client, seconds of Feast, and the most seconds that readers may take."""

    batches: int
    moves: int
    entities: int
    generations: int
    quiet: int
    reads: int
    peer_seconds: float
    longest: float


SIZES = {
    "ci": Size(1_000, 10, 100, 4, 30, 200, 5.0, 60.0),
    "demo": Size(10_000, 50, 500, 5, 100, 500, 15.0, 150.0),
    "full": Size(100_000, 500, 2_000, 6, 500, 3_000, 60.0, 3_600.0),
}


def views(file: Path) -> list[FeatureViewSpec]:
    entity = Entity("entity", ["entity"])
    source = Source.table("told", path=str(file), event_time="at")

    @feature_view(entity=entity, source=source)
    class Left:
        newest = last(col.x)
        told = count(window=None)
        total = added(col.x, window=None, scale="1")

    @feature_view(entity=entity, source=source)
    class Right:
        newest = last(col.x)
        told = count(window=None)
        total = added(col.x, window=None, scale="1")

    return [Left.spec(), Right.spec()]


class Flipper:
    """Publishes and rolls back, and remembers which generation each publication is."""

    def __init__(
        self,
        folder: Path,
        redis: str,
        size: Size,
        *,
        atomic: bool = True,
        notice: float = NOTICE,
        catalog: str | None = None,
    ) -> None:
        import pyarrow
        import pyarrow.parquet

        file = folder / "told.parquet"
        drawn = [(entity, generation) for generation in range(size.generations) for entity in range(size.entities)]
        columns = {
            "entity": pyarrow.array([str(entity) for entity, _ in drawn]),
            "at": pyarrow.array(
                [FIRST + timedelta(hours=turn) for _, turn in drawn], pyarrow.timestamp("us", tz="UTC")
            ),
            "x": pyarrow.array([float(generation) for _, generation in drawn]),
        }
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        specs, clock = views(file), SystemClock()
        self._database = Database.open(catalog or f"sqlite:///{folder}/catalog.db")
        self._database.migrate()
        definitions, lake = DefinitionVersions(self._database), LocalLake(folder / "lake")
        for spec in specs:
            definitions.put(SCOPE, spec)
        online, self._close_online = online_store(folder, redis)
        self._publisher = Publisher(FeatureCatalog(self._database, SCOPE, lake, notice=notice), online=online)
        self._made: list[list[tuple[SnapshotManifest, FeatureViewSpec]]] = []
        for generation in range(size.generations):
            as_of = FIRST + timedelta(hours=generation)
            wanted = [Materialization(scope=SCOPE, spec=spec, as_of=as_of) for spec in specs]
            manifests = [materialize(one, lake=lake, log=None, clock=clock) for one in wanted]
            made = list(zip(manifests, specs, strict=True))
            self._made.append([(self._publisher.prepare(manifest, spec), spec) for manifest, spec in made])
        publications = self._publisher.catalog.publications
        self._committed_at: dict[int, float] = {}
        self._serve, publications.serve = publications.serve, self._noted  # type: ignore[method-assign]
        self._atomic = atomic
        self._chance = random.Random(SEED)
        self.generation_of: dict[int, int] = {}
        self.committed: list[tuple[int, float]] = []
        """Number of each publication and the monotonic second of the commit of its row."""
        self._current = 0
        self._publish(0)
        versions = {spec.name: spec.definition_version for spec in specs}
        told = {"versions": versions, "entities": size.entities, "catalog": self._database.backend.url}
        (folder / "told.json").write_text(json.dumps(told))

    def flip(self) -> tuple[str, float]:
        """Publish a later generation or roll back to another one; which, and seconds from the call to the commit."""
        later = range(self._current + 1, len(self._made))
        back = [generation for generation in set(self.generation_of.values()) if generation != self._current]
        if later and (not back or self._chance.random() < 0.5):
            return "publish", self._publish(self._chance.choice(later))
        generation = self._chance.choice(sorted(back))
        to = max(number for number, known in self.generation_of.items() if known == generation)
        started = time.monotonic()
        publication = self._publisher.rollback(to, reason="flip", principal="bench")
        self._note(publication.number, generation)
        return "rollback", self.committed[-1][1] - started

    def _publish(self, generation: int) -> float:
        started = time.monotonic()
        made = self._made[generation]
        for part in [made] if self._atomic or not self.generation_of else [[one] for one in made]:
            if part[0] is not made[0]:
                # Between the two of a pair that is not atomic: what the checker is there to find.
                time.sleep(BETWEEN[1])
            publication = self._publisher.publish(part, reason="flip", principal="bench")
            assert publication is not None
            self._note(publication.number, generation)
        return self.committed[-1][1] - started

    def _noted(self, announced: Publication) -> Publication:
        self._committed_at.setdefault(announced.number, time.monotonic())
        return self._serve(announced)

    def _note(self, number: int, generation: int) -> None:
        self.committed.append((number, self._committed_at[number]))
        self.generation_of[number] = generation
        self._current = generation

    def close(self) -> None:
        self._close_online()
        self._database.close()


def start(*arguments: str) -> subprocess.Popen[str]:
    process = start_child(
        [sys.executable, "-m", "benchmarks.features.flip_reader", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.kill()
        process.communicate(timeout=30)
        raise RuntimeError("A reader did not start.")
    return process


def measure(folder: Path, redis: str, size: Size, *, atomic: bool = True, notice: float = NOTICE) -> dict[str, Any]:
    """One store: flips with nobody reading, then under readers and a client of two gateways.

    Args:
        atomic: ``False`` publishes one view after the other, which the checker must find.
        notice: of publications; without any a client of two gateways must be found going back.
    """
    flipper = Flipper(folder, redis, size, atomic=atomic, notice=notice)
    quiet = [flipper.flip() for _ in range(size.quiet)]
    each = str(size.batches // len(READERS))
    place = (str(folder), redis)
    results = {name: folder / f"{name}.json" for name in (*READERS, "client")}
    readers = {
        name: start(
            "hammer", *place, str(results[name]), each, str(size.moves), str(SEED + number), str(lease), str(kept)
        )
        for number, (name, (lease, kept)) in enumerate(READERS.items())
    }
    asked = (str(size.reads), str(SEED), "2", str(READERS["leased"][0]), "1")
    readers["client"] = start("client", *place, str(results["client"]), *asked)
    chance, busy = random.Random(SEED), []
    first_flip = len(flipper.committed)
    try:
        for process in readers.values():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        until = time.monotonic() + size.longest
        while any(process.poll() is None for process in readers.values()):
            if time.monotonic() > until:
                raise TimeoutError(f"The readers took longer than {size.longest:.0f} s.")
            busy.append(flipper.flip())
            time.sleep(chance.uniform(*BETWEEN))
    finally:
        for process in readers.values():
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=30)
        flipper.close()
    told = {name: json.loads(result.read_text()) for name, result in results.items()}
    hammers = {name: told[name] for name in READERS}
    wrong = sum(
        len(one["wrong"]) + sum(flipper.generation_of[number] != generation for number, generation in one["told"])
        for one in hammers.values()
    )
    return {
        "batches": sum(one["batches"] for one in hammers.values()),
        "torn": sum(one["torn"] for one in hammers.values()) + told["client"]["torn"],
        "of_another_publication": wrong,
        "flips": len(busy),
        "flip_ms": percentiles([taken for _, taken in quiet]),
        "flip_under_readers_ms": percentiles([taken for what, taken in busy if what == "publish"]),
        "rollback_under_readers_ms": percentiles([taken for what, taken in busy if what == "rollback"]),
        "commit_to_served_ms": {
            name: percentiles(until_served(flipper.committed[first_flip:], one["seen"]))
            for name, one in hammers.items()
        },
        "backward_in_one_reader": sum(one["backward"] for one in hammers.values()),
        "client": {name: value for name, value in told["client"].items() if name not in ("seen", "took")},
    }


def until_served(committed: list[tuple[int, float]], seen: list[list[float]]) -> list[float]:
    """Seconds from each commit until a batch was first served from that publication or a later one."""
    numbers = [number for number, _ in seen]
    found = []
    for number, at in committed:
        place = bisect_left(numbers, number)
        if place < len(numbers) and at >= seen[0][1]:
            found.append(max(0.0, seen[place][1] - at))
    return found


def percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {"of": 0}
    found = {"of": len(ordered), "p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)]}
    found["most"] = ordered[-1]
    return {name: value if name == "of" else round(value * 1e3, 2) for name, value in found.items()}


@contextmanager
def redis_server() -> Iterator[str]:
    from tests.servers import RedisProcess

    server = RedisProcess()
    try:
        server.start()
        yield server.url
    finally:
        server.remove()


def peer_torn(folder: Path, size: Size, redis: str | None) -> dict[str, Any]:
    """Feast's torn batches, on SQLite beside LMDB and on Redis."""
    found: dict[str, Any] = {}
    with FeastProcess() as feast:
        found["versions"] = feast.versions
        asked = {"seconds": size.peer_seconds, "entities": size.entities, "asked": 50}
        found["sqlite"] = feast.ask("torn", folder=str(folder / "sqlite"), store="sqlite", **asked)
        if redis is not None:
            address = redis.removeprefix("redis://").partition("/")[0]
            found["redis"] = feast.ask("torn", folder=str(folder / "redis"), store="redis", redis=address, **asked)
    return found


def run(size: str, peer: bool = True, stores: tuple[str, ...] = ("lmdb", "redis")) -> dict[str, Any]:
    """Measure at a size.

    Raises:
        FeastMissing: the peer is asked for and not installed.
    """
    chosen = SIZES[size]
    line: dict[str, Any] = {
        "benchmark": "feature_flips", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": size,
        "entities": chosen.entities, "seed": SEED, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="feature-flips-") as name:
        folder = Path(name)
        for store in stores:
            (folder / store).mkdir()
            if store == "lmdb":
                line[store] = measure(folder / store, "-", chosen)
            else:
                with redis_server() as url:
                    line[store] = measure(folder / store, url, chosen)
        if peer:
            with redis_server() as url:
                line["feast"] = peer_torn(folder / "feast", chosen, url if "redis" in stores else None)
    held = [line[store] for store in stores]
    line["torn"] = sum(one["torn"] + one["of_another_publication"] for one in held)
    line["backward"] = sum(
        one["client"]["backward"] + one["client"]["backward_without_minimum"] + one["backward_in_one_reader"]
        for one in held
    )
    line["worst_p99_ms"] = max(
        one[what]["p99"] for one in held for what in ("flip_under_readers_ms", "rollback_under_readers_ms")
    )
    line["goal_p99"] = line["worst_p99_ms"] < GOAL_P99_MS
    return line


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--store", choices=("lmdb", "redis"), action="append")
    parser.add_argument("--no-peer", action="store_true", help="leave Feast out")
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    options = parser.parse_args(arguments)
    stores = tuple(options.store or ("lmdb", "redis"))
    try:
        line = run(options.size, not options.no_peer, stores)
    except FeastMissing as error:
        sys.stderr.write(f"{error} Or leave it out: --no-peer.\n")
        return 3
    for store in stores:
        one = line[store]
        print(f"{store}: {one['batches']} batches, {one['torn']} torn, {one['of_another_publication']} mislabelled")
        for what in ("flip_ms", "flip_under_readers_ms", "rollback_under_readers_ms"):
            print(f"  {what:28} {one[what]}")
        for name, times in one["commit_to_served_ms"].items():
            print(f"  served, reader {name:12} {times}")
        print(f"  client of two gateways       {one['client']}")
    for store, one in line.get("feast", {}).items():
        print(f"Feast {store}: {one}")
    print(json.dumps(line))
    if options.keep:
        with (RESULTS / "feature_flips.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if not line["torn"] and not line["backward"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
