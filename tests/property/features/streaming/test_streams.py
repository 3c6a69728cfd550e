"""Whatever happens to a stream, every reading is right: events in any order, twice, late, early, null or NaN, on a
window's edge; a consumer that dies before or after its transaction and starts again; snapshots that take over while it
is behind; events that are pruned, and come back with a publication that needs them.

At any moment an online read knows exactly the history and the log through the greater of the consumer's and the
snapshot's offset; once everything is consumed it equals the batch query and the point-in-time join, bit for bit.
``STREAM_EXAMPLES=500`` looks further.
"""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.property.features import oracle
from tests.property.features.oracle import MINUTE, Known
from tests.property.features.test_equality import DAY, SCOPE, MemoryLog, T, edges, same

from antiphon import Entity, Source, col, count, distinct, feature_view, last, max, mean, min, sum
from antiphon.catalog.features.events import Event
from antiphon.catalog.features.publications import OnlinePublications, Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import ManualClock, from_microseconds, microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.batch_values import values_at
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import load_rows
from antiphon.features.streaming.consumer import StreamConsumer

EXAMPLES = int(os.environ.get("STREAM_EXAMPLES", "4"))
LIMITS = ComputeLimits(threads=1, memory=256)
BASE = microseconds(T)
QUESTIONS = [(entity, BASE + at * MINUTE) for entity in "ab" for at in (0, -90, 300, 2 * DAY)]


def view(path: str) -> FeatureViewSpec:
    stop = Entity("stop", ["stop"])
    source = Source.stream("passes", history=path, event_time="due", available_at="seen", event_id="id")

    @feature_view(entity=stop, source=source)
    class Recent:
        passes = count(window="2h")
        total = sum(col.x, window="6h", scale="0.01")
        delay = mean(col.x, window="2h", scale="0.01")
        low = min(col.x, window="6h")
        high = max(col.x, window="6h", scale="0.25")
        newest = last(col.x, window="6h")
        values = distinct(col.x, window="3d")
        ever = count(window=None)

    return Recent.spec()


def expected(events: list[Known], entity: str, t: int) -> dict[str, Any]:
    """The features straight from their definitions; a value that is no number counts as none."""

    def seen(hours: float | None) -> list[Known]:
        return oracle.visible(events, entity, None if hours is None else int(hours * 60 * MINUTE), t)

    def xs(hours: float) -> list[float]:
        found = [event.payload["x"] for event in seen(hours)]
        return [float(x) + 0.0 for x in found if x is not None and not math.isnan(x)]

    def fixed(values: list[float], scale: str) -> list[int]:
        return [step for value in values if (step := oracle.quantized(value, scale)) is not None]

    cents, quarters, whole = fixed(xs(6), "0.01"), sorted(fixed(xs(6), "0.25")), xs(6)
    together = 0
    for step in cents:
        together += step
    return {
        "recent.passes": len(seen(2)),
        "recent.total": together / 100,
        "recent.delay": oracle.mean(fixed(xs(2), "0.01"), "0.01"),
        "recent.low": sorted(whole)[0] if whole else None,
        "recent.high": quarters[-1] / 4 if quarters else None,
        "recent.newest": whole[-1] if whole else None,
        "recent.values": len(set(xs(72))),
        "recent.ever": len(seen(None)),
    }


class JsonLog(MemoryLog):
    """Payloads as both logs keep them, through JSON."""

    def append(self, event: Event) -> None:
        payload = msgspec.json.decode(msgspec.json.encode(event.payload))
        super().append(msgspec.structs.replace(event, payload=payload))


class Killed(Exception):
    """Stands for the death of a process."""


class Dying:
    """An overlay whose process dies at its first transaction: before it, or after it."""

    def __init__(self, overlay: LmdbOverlay, before: bool) -> None:
        self._overlay = overlay
        self._before = before

    def apply(self, *arguments: Any) -> None:
        if not self._before:
            self._overlay.apply(*arguments)
        raise Killed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._overlay, name)


class Publications:
    """A catalog's publications of one view."""

    def __init__(self) -> None:
        self.made: list[Publication] = []

    def publish(self, key: str, snapshot: str) -> None:
        self.made.append(Publication(SCOPE, len(self.made) + 1, {key: snapshot}, "", "", T, 0, T))

    def online(self, scope: Scope) -> OnlinePublications:
        return OnlinePublications(self.made[-1])

    def get(self, scope: Scope, number: int) -> Publication:
        return self.made[number - 1]


class Played:
    """One stream and what happened to it so far."""

    def __init__(self, folder: Path, events: list[tuple[str, int, int, float | None, str]]) -> None:
        self.log, self.history = JsonLog(), list[Known]()
        self.waiting: list[Event] = []
        rows = []
        for number, (entity, at, lag, x, where) in enumerate(events):
            event_time, available = BASE + at * MINUTE, BASE + (at + lag) * MINUTE
            identity = f"event-{number}"
            stamps = from_microseconds(event_time), from_microseconds(available)
            if where != "log" and available <= BASE:
                rows.append({"id": identity, "stop": entity, "due": stamps[0], "seen": stamps[1], "x": x})
                self.history.append(Known(identity, entity, event_time, available, {"x": x}, 0, number))
            if where != "history" or available > BASE:
                self.waiting.append(Event(identity, *stamps, {"stop": entity, "x": x}))
        stamp = pa.timestamp("us", tz="UTC")
        columns = [("id", pa.string()), ("stop", pa.string()), ("due", stamp), ("seen", stamp), ("x", pa.float64())]
        pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), folder / "history.parquet")
        self.spec = view(str(folder / "history.parquet"))
        self.prefix = view_prefix(self.spec.key)
        self.clock = ManualClock(T)
        self.lake, self.online = LocalLake(folder / "lake"), LmdbStore(folder / "online", b"k" * 32)
        self.overlay = LmdbOverlay(folder / "online", SCOPE)
        self.publications, self.manifests = Publications(), list[SnapshotManifest]()
        self.at = 0
        self.consumer = self.started()
        self.publish()
        self.reader = FeatureReader(
            SCOPE, publications=self.publications, online=self.online, clock=self.clock, overlay=self.overlay, lease=0.0
        )

    def started(self, overlay: Any = None) -> StreamConsumer:
        return StreamConsumer(
            SCOPE, log=self.log, overlay=overlay or self.overlay, online=self.online, views=[self.spec]
        )

    def append(self, number: int) -> None:
        """The next events, after some that were sent before."""
        for event in (*self.waiting[:1], *self.waiting[self.at : self.at + number]):
            self.log.append(event)
        self.at += number

    def resend(self, number: int) -> None:
        for event in self.waiting[: self.at][-number:]:
            self.log.append(msgspec.structs.replace(event, payload={**event.payload, "x": 777.0}))

    def consume(self, number: int) -> None:
        self.consumer.poll(number)

    def die(self, number: int) -> None:
        with suppress(Killed):
            self.started(Dying(self.overlay, before=number % 2 == 0)).poll(number)
        self.consumer = self.started()

    def publish(self, number: int = 0) -> None:
        wanted = Materialization(scope=SCOPE, spec=self.spec, as_of=T)
        made = materialize(wanted, lake=self.lake, log=self.log, clock=self.clock, limits=LIMITS)
        self.online.build(made, self.spec, self.lake)
        self.manifests.append(made)
        self.publications.publish(self.spec.key, made.id)

    def prune(self, number: int) -> None:
        """Keep what the last publications need."""
        kept = self.manifests[-(1 + number % 2) :]
        least = sorted(manifest.stream_offset or 0 for manifest in kept)[0]
        self.overlay.prune(self.prefix, least, len(self.manifests))

    def back(self, number: int) -> None:
        manifest = self.manifests[number % len(self.manifests)]
        self.consumer.restore(self.spec, manifest.stream_offset or 0, len(self.manifests) + 1)
        self.manifests.append(manifest)
        self.publications.publish(self.spec.key, manifest.id)

    def check(self) -> list[dict[str, Any]]:
        """Every question, online, against the oracle."""
        consumed = self.overlay.read([self.prefix]).offsets[self.prefix]
        included = self.manifests[-1].stream_offset or 0
        known = list(self.history)
        for stored in self.log.stored[: consumed if consumed > included else included]:
            event, entity = stored.event, stored.event.payload["stop"]
            times = microseconds(event.event_time), microseconds(event.available_at)
            known.append(Known(event.event_id, entity, *times, event.payload, 1, stored.offset))
        wanted = [expected(known, entity, t) for entity, t in QUESTIONS]
        vectors = self.reader.read_many(
            {self.spec.name: self.spec.definition_version},
            [{"stop": entity} for entity, _ in QUESTIONS],
            [from_microseconds(t) for _, t in QUESTIONS],
        )
        for vector, want in zip(vectors, wanted, strict=True):
            same({name: item.value for name, item in vector.values.items()}, want)
        return wanted

    def close(self) -> None:
        self.overlay.close()
        self.online.close()


numbers = st.one_of(
    st.none(),
    st.just(math.nan),
    st.floats(-1e5, 1e5, allow_nan=False),
    st.sampled_from([0.005, 0.015, -0.005, 2.675, -0.0, 1e13, 0.125, 1.0]),
)
events = st.tuples(
    st.sampled_from("ab"),
    st.one_of(st.integers(-4 * DAY, DAY), st.integers(-8 * 60, 5 * 60), edges, edges.map(lambda edge: edge + 1)),
    st.one_of(st.just(0), st.integers(-90, 400)),
    numbers,
    st.sampled_from(["log", "log", "log", "history", "both"]),
)
happenings = st.tuples(
    st.sampled_from(
        ["append", "append", "append", "consume", "consume", "resend", "die", "die", "publish", "prune", "back"]
    ),
    st.integers(1, 9),
)


@example([("a", n - 5, n, float(n), "log") for n in range(6)], [("append", 3), ("die", 2), ("die", 3), ("append", 3)])
@example(
    [("a", -n, 0, float(n), "log") for n in range(8)],
    [("append", 4), ("consume", 9), ("publish", 1), ("prune", 2), ("append", 4), ("consume", 9), ("back", 2)],
)
@given(st.lists(events, max_size=25), st.lists(happenings, max_size=10))
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
def test_every_reading_is_right_whatever_happens_to_the_stream(
    events: list[tuple[str, int, int, float | None, str]], happenings: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        played = Played(Path(folder), events)
        try:
            for name, number in happenings:
                getattr(played, name)(number)
                played.check()
            played.append(len(played.waiting))
            while played.consumer.poll(4):
                pass
            finally_equal(played)
        finally:
            played.close()


def finally_equal(played: Played) -> None:
    """Batch and point in time say what online says, once everything is consumed."""
    wanted = played.check()
    plan = plan_of(played.spec)
    with compute(LIMITS) as connection:
        load_rows(connection, plan, scope=SCOPE, log=played.log, known_by=BASE)
        every = {t: dict(values_at(connection, plan, t)) for t in sorted({t for _, t in QUESTIONS})}
        for (entity, t), want in zip(QUESTIONS, wanted, strict=True):
            found = every[t].get((entity,))
            if found is not None:
                same({f"recent.{name}": computed.value for name, computed in found.items()}, want)
    frame = pa.table(
        {
            "stop": [entity for entity, _ in QUESTIONS],
            "as_of": pa.array([t for _, t in QUESTIONS], pa.timestamp("us", tz="UTC")),
        }
    )
    joined = point_in_time(frame, [played.spec], scope=SCOPE, log=played.log, limits=LIMITS).to_pylist()
    for row, want in zip(joined, wanted, strict=True):
        same({name: row[name] for name in want}, want)


def test_the_oracle_knows_an_answer_by_hand() -> None:
    known = [
        Known("1", "a", BASE - 30 * MINUTE, BASE - 40 * MINUTE, {"x": 1.0}, 0, 0),
        Known("2", "a", BASE - 10 * MINUTE, BASE + MINUTE, {"x": 9.0}, 1, 1),
        Known("3", "a", BASE - 120 * MINUTE, BASE - 120 * MINUTE, {"x": math.nan}, 0, 1),
    ]
    found = expected(known, "a", BASE)
    assert (found["recent.passes"], found["recent.ever"]) == (1, 2)
    assert (found["recent.total"], found["recent.newest"], found["recent.values"]) == (1.0, 1.0, 1)
    assert timedelta(minutes=1) == timedelta(microseconds=MINUTE)
