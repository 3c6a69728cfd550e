"""Every way to read a feature, held together bit for bit on generated views, events and moments.

    python -m benchmarks.features.read_paths [--size ci|demo|full] [--store lmdb|redis] [--record]

A cell is a feature (an aggregate over a window) of one entity's events at one moment. Each is read in four ways: as the
gateway does (finished rows and kept rows where they hold), from the entity's state alone, by the point-in-time join,
and by ``benchmarks/features/read_paths_oracle.py``, which is plain Python over the list of events and shares nothing
with the others. Values must agree in every bit; of the two readings online also event times, offsets and the age that
freshness is judged by. Views have one to twelve features of every aggregate but ``embed`` (one in four counts alone),
windows of a second to a month and of all time; events are null, late, early, far away, of one instant, on a window's
edge to the microsecond, and streamed after the snapshot; entities have none, few, or more than fit into one record.

Then it is shown that the comparison can fail: mutants of the finished rows, one of them the mark of an empty window
that was once taken for a time, must each be found. Seeds are declared: a case is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.features.read_paths_cases import BASE, SEED, Case, T, case_of, view_of
from benchmarks.features.read_paths_oracle import SourceEvent, expected

from antiphon.catalog.features.events import Event, StoredEvent
from antiphon.catalog.features.publications import OnlinePublications, Publication
from antiphon.core.clock import ManualClock, from_microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.snapshots.finished import NO_TIME
from antiphon.features.plan import plan_of
from antiphon.features.ports import OnlineSnapshots, OpenedSnapshot, StreamedOverlay
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.features.values import EntityRow

RESULTS = Path(__file__).parents[1] / "results" / "read_paths.jsonl"
SCOPE = Scope()
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("stop", pa.string()),
        ("due", pa.timestamp("us", tz="UTC")),
        ("seen", pa.timestamp("us", tz="UTC")),
        ("x", pa.float64()),
        ("flag", pa.bool_()),
        ("name", pa.string()),
    ]
)
SIZES = {"ci": 4_000, "demo": 100_000, "full": 1_000_000}
"""Cells at least."""
MUTANT_CELLS = 20_000
"""Cells that a mutant is looked for in at most."""


class Difference(NamedTuple):
    """A cell that two ways read differently."""

    case: int
    path: str
    feature: str
    entity: str
    moment: int
    found: Any
    wanted: Any


class EventLog:
    """An event log in memory."""

    def __init__(self, events: Sequence[SourceEvent]) -> None:
        self._stored = [
            StoredEvent(
                place,
                Event(
                    event.id,
                    from_microseconds(event.due),
                    from_microseconds(event.available),
                    {"stop": event.entity, "x": event.x, "flag": event.flag, "name": event.name},
                ),
            )
            for place, event in enumerate(events, 1)
        ]

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredEvent]:
        return self._stored[after : after + limit]

    def end(self, scope: Scope, stream: str) -> int:
        return len(self._stored)


class OnePublication:
    """A catalog with one publication."""

    def __init__(self, snapshots: dict[str, str]) -> None:
        self._publication = Publication(SCOPE, 1, snapshots, "", "", T, 0, T)

    def online(self, scope: Scope) -> OnlinePublications:
        return OnlinePublications(self._publication)

    def get(self, scope: Scope, number: int) -> Publication:
        return self._publication


Changed = Callable[[list[EntityRow | None]], list[EntityRow | None]]


class ChangedSnapshot:
    """An opened snapshot whose finished rows are changed before they are handed out."""

    def __init__(self, opened: OpenedSnapshot, change: Changed) -> None:
        self._opened, self._change = opened, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        return self._change(self._opened.finished(entities))


class ChangedSnapshots:
    """A store whose snapshots hand out changed finished rows."""

    def __init__(self, online: OnlineSnapshots, change: Changed) -> None:
        self._online, self._change = online, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._online, name)

    def open(self, scope: Scope, view: str, snapshot: str) -> Any:
        return ChangedSnapshot(self._online.open(scope, view, snapshot), self._change)


def _none(rows: list[EntityRow | None]) -> list[EntityRow | None]:
    return [None] * len(rows)


def _each(change: Callable[[EntityRow], EntityRow]) -> Changed:
    return lambda rows: [None if row is None else change(row) for row in rows]


def _marked(row: EntityRow) -> EntityRow:
    """A row of counts of nothing as it was: the mark for no time taken for a time."""
    if None in row.values:
        return row
    return msgspec.structs.replace(row, event_times=tuple(NO_TIME if at is None else at for at in row.event_times))


MUTANTS: dict[str, Changed] = {
    "mark taken for a time": _each(_marked),
    "holds a microsecond too long": _each(lambda row: msgspec.structs.replace(row, until=row.until + 1)),
    "null is 0": _each(lambda row: msgspec.structs.replace(row, values=tuple(value or 0 for value in row.values))),
    "age of nothing": _each(lambda row: msgspec.structs.replace(row, oldest=0)),
    "another entity's row": lambda rows: [*rows[1:], *rows[:1]],
}


class Stores(NamedTuple):
    """Places in which a case is built and read."""

    online: OnlineSnapshots
    overlay: StreamedOverlay


@contextmanager
def lmdb_stores(folder: Path) -> Iterator[Stores]:
    stores = Stores(LmdbStore(folder / "online", b"k" * 32), LmdbOverlay(folder / "online", SCOPE))
    try:
        yield stores
    finally:
        stores.overlay.close()
        stores.online.close()


@contextmanager
def redis_stores(url: str) -> Iterator[Stores]:
    from antiphon.features.online.redis.overlay import RedisOverlay
    from antiphon.features.online.redis.server import RedisServer
    from antiphon.features.online.redis.store import RedisStore

    server = RedisServer(url)
    server.client.flushall()
    try:
        yield Stores(RedisStore(server, b"k" * 32), RedisOverlay(server, SCOPE))
    finally:
        server.close()


def check(number: int, case: Case, stores: Stores, folder: Path, change: Changed | None = None) -> list[Difference]:
    """Read every cell of a case in every way.

    Args:
        change: of the finished rows, for mutants.
    """
    told = [event for event in case.events if event.available <= BASE]
    later = EventLog([event for event in case.events if event.available > BASE])
    pq.write_table(pa.Table.from_pylist([event.row() for event in told], schema=SCHEMA), folder / "events.parquet")
    spec, clock = view_of(case, str(folder / "events.parquet")), ManualClock(T)
    log = later if case.streams else None
    lake = LocalLake(folder / "lake")
    manifest = materialize(Materialization(scope=SCOPE, spec=spec, as_of=T, through=0), lake=lake, log=log, clock=clock)
    stores.online.build(manifest, spec, lake)
    if log is not None:
        consumer = StreamConsumer(SCOPE, log=log, overlay=stores.overlay, online=stores.online, views=[spec])
        while consumer.poll(500):
            pass
    publications = OnePublication({spec.key: manifest.id})

    def reader(online: Any, kept: int) -> FeatureReader:
        return FeatureReader(
            SCOPE, publications=publications, online=online, clock=clock, overlay=stores.overlay, kept=kept
        )

    fast = reader(stores.online if change is None else ChangedSnapshots(stores.online, change), 1_000)
    slow = reader(ChangedSnapshots(stores.online, _none), 0)
    names = {name: f"{spec.name}.{name}" for name in case.features}
    wanted = expected(case.features, case.events, case.asked, BASE)
    found = list(_differences_of_rows(number, spec, case, fast, slow))
    found += _differences(number, case, "gateway", names, wanted, _as_read(fast, spec, case))
    found += _differences(number, case, "point in time", names, wanted, _joined(spec, case, log))
    return found


def _as_read(fast: FeatureReader, spec: FeatureViewSpec, case: Case) -> list[Mapping[str, tuple[Any, Any]] | Exception]:
    """Values and event times as the gateway hands them on, or what was raised instead."""
    views = {spec.name: spec.definition_version}
    found: list[Mapping[str, tuple[Any, Any]] | Exception] = []
    for entity, moment in case.asked:
        try:
            vector = fast.read(views, {"stop": entity}, from_microseconds(moment))
            found.append({name: (one.value, one.event_time) for name, one in vector.values.items()})
        except Exception as error:
            found.append(error)
    return found


def _joined(spec: FeatureViewSpec, case: Case, log: EventLog | None) -> list[Mapping[str, tuple[Any, Any]] | Exception]:
    instants = pa.array([moment for _, moment in case.asked], pa.timestamp("us", tz="UTC"))
    frame = pa.table({"stop": [entity for entity, _ in case.asked], "as_of": instants})
    limits = ComputeLimits(threads=2, memory=256)
    return [
        {name: (value, ...) for name, value in row.items()}
        for row in point_in_time(frame, [spec], scope=SCOPE, log=log, limits=limits).to_pylist()
    ]


def _differences_of_rows(
    number: int, spec: FeatureViewSpec, case: Case, fast: FeatureReader, slow: FeatureReader
) -> Iterator[Difference]:
    """Rows in bulk, all at the snapshot's moment first, so that later ones meet kept rows."""
    views = {spec.name: spec.definition_version}
    entities = list(dict.fromkeys(entity for entity, _ in case.asked))
    for asked in ([(entity, BASE) for entity in entities], case.asked):
        keys, moments = [{"stop": entity} for entity, _ in asked], [moment for _, moment in asked]
        ((_, rows),) = fast.rows(views, keys, moments).views
        ((_, anew),) = slow.rows(views, keys, moments).views
        for (entity, moment), one, other in zip(asked, rows, anew, strict=True):
            offsets = [row.offsets or (None,) * len(row.values) for row in (one, other)]
            for place, feature in enumerate(plan_of(spec).features):
                pair = [
                    (bits(row.values[place]), row.event_times[place], known[place], row.oldest)
                    for row, known in zip((one, other), offsets, strict=True)
                ]
                if pair[0] != pair[1]:
                    yield Difference(number, "row and state", feature.name, entity, moment, *pair)


def _differences(
    number: int,
    case: Case,
    path: str,
    names: Mapping[str, str],
    wanted: Sequence[Mapping[str, tuple[Any, int | None]]],
    found: Sequence[Mapping[str, tuple[Any, Any]] | Exception],
) -> Iterator[Difference]:
    for (entity, moment), cells, known in zip(case.asked, wanted, found, strict=True):
        for name, (value, at) in cells.items():
            if isinstance(known, Exception):
                yield Difference(number, path, name, entity, moment, repr(known), value)
                continue
            # The join fits encodings at each moment's own midnight, which a snapshot cannot know.
            if (
                path == "point in time"
                and moment > BASE
                and case.features[name]["aggregate"] in ("frequency", "target")
            ):
                continue
            got, time_found = known[names[name]]
            time_wanted = time_found if time_found is ... else None if at is None else from_microseconds(at)
            if bits(got) != bits(value) or time_found != time_wanted:
                yield Difference(number, path, name, entity, moment, (got, time_found), (value, time_wanted))


def bits(value: Any) -> Any:
    """A value so that only the same bits are equal."""
    return value.hex() if isinstance(value, float) else (type(value), value)


def run(
    cells: int, stores: Callable[[Path], Any], change: Changed | None = None, most: int = 5
) -> tuple[int, Counter[str], list[Difference]]:
    """Check cases until there were so many cells: how many there were, by aggregate, and up to ``most`` differences."""
    number, by_aggregate, found = 0, Counter[str](), list[Difference]()
    while by_aggregate.total() < cells and len(found) < most:
        case = case_of(number)
        with tempfile.TemporaryDirectory() as folder, stores(Path(folder)) as opened:
            found += check(number, case, opened, Path(folder), change)
        for one in case.features.values():
            by_aggregate[one["aggregate"]] += len(case.asked)
        number += 1
    return number, by_aggregate, found


def _stores(kind: str) -> tuple[Callable[[Path], Any], Callable[[], None]]:
    """A case's stores by folder, and what ends the server behind them."""
    if kind == "lmdb":
        return lmdb_stores, lambda: None
    from tests.servers import RedisProcess

    server = RedisProcess()
    server.start()
    return lambda _: redis_stores(server.url), server.remove


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--store", choices=("lmdb", "redis"), default="lmdb")
    parser.add_argument("--record", action="store_true", help="append the JSON line to benchmarks/results")
    options = parser.parse_args(arguments)
    stores, end = _stores(options.store)
    started = time.perf_counter()
    try:
        cases, by_aggregate, found = run(SIZES[options.size], stores)
        seconds = time.perf_counter() - started
        mutants = {name: len(run(MUTANT_CELLS, stores, change, most=1)[2]) > 0 for name, change in MUTANTS.items()}
    finally:
        end()
    for aggregate, cells in sorted(by_aggregate.items()):
        print(f"{aggregate:>10} {cells:>9,} cells")
    for one in found:
        print(f"DIFFERENT  {one}")
    for name, caught in mutants.items():
        print(f"{'found' if caught else 'MISSED':>10} mutant: {name}")
    line = {
        "benchmark": "read_paths",
        "size": options.size,
        "store": options.store,
        "seed": SEED,
        "cases": cases,
        "cells": by_aggregate.total(),
        "differences": len(found),
        "mutants": len(mutants),
        "mutants_found": sum(mutants.values()),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(line))
    if options.record:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
    return 0 if not found and all(mutants.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
