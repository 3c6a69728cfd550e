"""Batch query = point in time = snapshot with streamed overlay = an oracle, bit for bit, whatever comes early, late,
twice, out of order, as null or exactly on a window's edge."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.property.features import oracle
from tests.property.features.oracle import MINUTE, Known
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import (
    Entity,
    Source,
    col,
    count,
    distinct,
    feature_view,
    first,
    last,
    max,
    mean,
    min,
    quantile,
    std,
    sum,
)
from antiphon.catalog.features.events import Event, StoredEvent
from antiphon.catalog.features.publications import OnlinePublications, Publication
from antiphon.core.clock import ManualClock, from_microseconds, microseconds
from antiphon.core.codec import PlainCodec
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
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import load_rows
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.features.values import EVER
from antiphon.governance.encryption.sealing import AesGcmCodec

SCOPE = Scope()
T = datetime(2013, 4, 10, 12, tzinfo=UTC)
DAY = 1_440


def views(path: str) -> list[FeatureViewSpec]:
    stop = Entity("stop", ["stop"])
    source = Source.stream("passes", history=path, event_time="due", available_at="seen", event_id="id")

    @feature_view(entity=stop, source=source)
    class Recent:
        passes = count(window="2h")
        delay = mean(col.x, window="2h", scale="0.01")
        delay_6h = mean(col.x, window="6h", scale="0.01")
        late = mean(col.x > 0.5, window="6h")
        spread = std(col.x, window="6h", scale="0.5")
        total = sum(col.x * 3 - 1, window="6h", scale="0.001", where=col.flag)
        low = min(col.x, window="6h")
        high = max(col.x, window="6h", scale="0.25")
        name = last(col.name, window="6h")
        earliest = first(col.x, window="2h")
        names = distinct(col.name, window="6h")
        median = quantile(col.x, q=0.5, window="6h", scale="0.01")
        most = quantile(col.x * 1000, q="0.9", window="6h", scale="1")

    @feature_view(entity=stop, source=source)
    class History:
        passes = count(window="3d")
        share = mean((col.x > 0) & ~col.flag.is_null(), window="3d")
        ever = count(window=None)
        newest = last(col.x)
        values = distinct(col.x, window="3d", where=col.flag.is_null())
        kinds = distinct(col.x > 1, window=None)
        least = quantile(col.x, q=0, window=None, scale="0.5")

    return [Recent.spec(), History.spec()]


def expected(events: list[Known], entity: str, t: int) -> dict[str, Any]:
    """What every feature must be, straight from the text of the definitions."""

    def seen(hours: float | None) -> list[Known]:
        return oracle.visible(events, entity, None if hours is None else int(hours * 60 * MINUTE), t)

    def xs(hours: float) -> list[float]:
        # Adding zero: there is one zero.
        return [float(event.payload["x"]) + 0.0 for event in seen(hours) if event.payload.get("x") is not None]

    def fixed(values: list[float], scale: str) -> list[int]:
        steps = [oracle.quantized(value, scale) for value in values]
        return [step for step in steps if step is not None]

    flagged = [e for e in seen(6) if e.payload.get("flag") is True and e.payload.get("x") is not None]
    names = [e.payload["name"] for e in seen(6) if e.payload.get("name") is not None]
    signs = [
        None if e.payload.get("x") is None and e.payload.get("flag") is not None
        else (e.payload.get("x") or 0) > 0 and e.payload.get("flag") is not None
        for e in seen(72)
    ]  # fmt: skip
    shares = [int(sign) for sign in signs if sign is not None]
    every = [float(e.payload["x"]) + 0.0 for e in seen(None) if e.payload.get("x") is not None]
    high = fixed(xs(6), "0.25")
    unflagged = [
        (float(e.payload["x"]) + 0.0, e.payload.get("flag")) for e in seen(72) if e.payload.get("x") is not None
    ]
    return {
        "recent.passes": len(seen(2)),
        "recent.delay": oracle.mean(fixed(xs(2), "0.01"), "0.01"),
        "recent.delay_6h": oracle.mean(fixed(xs(6), "0.01"), "0.01"),
        "recent.late": oracle.mean([int(x > 0.5) for x in xs(6)], "1"),
        "recent.spread": oracle.deviation(fixed(xs(6), "0.5"), "0.5"),
        "recent.total": _sum(fixed([float(e.payload["x"]) * 3.0 - 1.0 for e in flagged], "0.001")) / 1000,
        "recent.low": sorted(xs(6))[0] if xs(6) else None,
        "recent.high": sorted(high)[-1] / 4 if high else None,
        "recent.name": names[-1] if names else None,
        "recent.earliest": xs(2)[0] if xs(2) else None,
        "recent.names": len(set(names)),
        "recent.median": oracle.quantile(fixed(xs(6), "0.01"), "0.5", "0.01"),
        "recent.most": oracle.quantile(fixed([x * 1000.0 for x in xs(6)], "1"), "0.9", "1"),
        "history.passes": len(seen(72)),
        "history.share": oracle.mean(shares, "1"),
        "history.ever": len(seen(None)),
        "history.newest": every[-1] if every else None,
        "history.values": len({x for x, flag in unflagged if flag is None}),
        "history.kinds": len({x > 1 for x in every}),
        "history.least": oracle.quantile(fixed(every, "0.5"), "0", "0.5"),
    }


def _sum(values: list[int]) -> int:
    total = 0
    for value in values:
        total += value
    return total


class Case(NamedTuple):
    events: list[tuple[str, int, int, dict[str, Any], str, int | None]]
    split: int
    step: int
    questions: list[tuple[str, int]]


edges = st.sampled_from([-2 * 60, -6 * 60, -3 * DAY, 0, -60, -DAY, -(7 + 3) * DAY, -12 * 60])
minutes = st.one_of(
    st.integers(-14 * DAY, 2 * DAY), st.integers(-8 * 60, 4 * 60), edges, edges.map(lambda edge: edge + 1)
)
numbers = st.one_of(
    st.none(),
    st.integers(-50, 400),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.sampled_from([0.005, 0.015, -0.005, 2.675, 0.5, -0.0, 1e12, 0.125, 0.375]),
)
payloads = st.fixed_dictionaries(
    {"x": numbers, "flag": st.sampled_from([None, True, False]), "name": st.sampled_from([None, "é", "a", "Z", "b"])}
)
events = st.tuples(
    st.sampled_from("ab"),
    minutes,
    st.one_of(st.just(0), st.integers(-90, 600), st.integers(0, 3 * DAY)),
    payloads,
    st.sampled_from(["history", "log", "both"]),
    st.one_of(st.none(), st.none(), st.integers(-30, 120)),
)
cases = st.builds(
    Case,
    st.lists(events, max_size=40),
    st.integers(0, 40),
    st.integers(1, 7),
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.integers(-6 * DAY, 3 * DAY), st.integers(-60, 400), st.just(0))),
        min_size=1,
        max_size=6,
    ),
)


class MemoryLog:
    """An event log in memory; the first of an id stays, as in the catalog's."""

    def __init__(self) -> None:
        self.stored: list[StoredEvent] = []

    def append(self, event: Event) -> None:
        if all(item.event.event_id != event.event_id for item in self.stored):
            self.stored.append(StoredEvent(len(self.stored) + 1, event))

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredEvent]:
        return self.stored[after : after + limit]

    def end(self, scope: Scope, stream: str) -> int:
        return len(self.stored)


class OnePublication:
    """A catalog with one publication."""

    def __init__(self, snapshots: dict[str, str]) -> None:
        self._publication = Publication(SCOPE, 1, snapshots, "", "", T, 0, T)

    def online(self, scope: Scope) -> OnlinePublications:
        return OnlinePublications(self._publication)

    def get(self, scope: Scope, number: int) -> Publication:
        return self._publication


def bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert {name: bits(value) for name, value in found.items()} == {name: bits(value) for name, value in wanted.items()}


def told(x: float, name: str | None = None) -> dict[str, Any]:
    return {"x": x, "flag": True, "name": name}


# What chance finds too seldom: the log knew of an event before the file did, and told it otherwise, first streamed and
# then inside the snapshot; values past the fixed-point range; several events that become visible at one instant.
@example(Case([("a", -30, 20, told(1.0), "both", -10)], 0, 1, [("a", 0), ("a", -15)]))
@example(Case([("a", -30, 20, told(1.0), "both", -10)], 1, 1, [("a", 0), ("a", -15)]))
@example(Case([("a", -30, 20, told(1.0), "both", 10)], 0, 1, [("a", 0), ("a", -5)]))
@example(
    Case([("a", -60 + n, 50 - n, told(float(n), "aZbé"[n % 4]), "history", None) for n in range(12)], 0, 1, [("a", 0)])
)
# The history told of an event that is older than any window, and the log tells of it again after the snapshot.
@example(
    Case([("a", -30 * DAY, 0, told(1.0), "both", 120), ("a", -60, 0, told(2.0), "history", None)], 0, 1, [("a", 0)])
)
@given(cases)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_path_gives_the_same_bits(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(case, Path(folder))


def check(case: Case, folder: Path) -> None:
    base = microseconds(T)
    late = MemoryLog()
    rows: list[dict[str, Any]] = []
    known: list[Known] = []
    for number, (entity, at, lag, payload, where, shift) in enumerate(case.events):
        event_time = base + at * MINUTE
        available = event_time + lag * MINUTE
        identity = f"event-{number}"
        if where in ("history", "both") and available <= base:
            x = payload["x"]
            rows.append(
                {
                    "id": identity,
                    "stop": entity,
                    "due": from_microseconds(event_time),
                    "seen": from_microseconds(available),
                    "x": None if x is None else float(x),
                    "flag": payload["flag"],
                    "name": payload["name"],
                }
            )
            known.append(Known(identity, entity, event_time, available, payload, 0, number))
            if where == "history":
                continue
            # The log tells the same event again, now and then with another moment of availability and content.
            if shift is not None:
                available += shift * MINUTE
                payload = {**payload, "x": 77, "flag": True}
        late.append(
            Event(identity, from_microseconds(event_time), from_microseconds(available), {"stop": entity, **payload})
        )
        known.append(Known(identity, entity, event_time, available, payload, 1, len(late.stored)))
    schema = pa.schema(
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
    pq.write_table(pa.Table.from_pylist(rows + rows[:1], schema=schema), folder / "history.parquet")
    specs = views(str(folder / "history.parquet"))
    questions = [(entity, base + at * MINUTE) for entity, at in case.questions]
    wanted = [expected(known, entity, t) for entity, t in questions]
    limits = ComputeLimits(threads=2, memory=256)
    through = case.split if case.split < len(late.stored) else len(late.stored)

    # The batch query.
    for spec in specs:
        with compute(limits) as connection:
            load_rows(connection, plan_of(spec), scope=SCOPE, log=late, known_by=base)
            for (entity, t), want in zip(questions, wanted, strict=True):
                found = dict(values_at(connection, plan_of(spec), t)).get((entity,))
                if found is None:
                    continue  # An entity without any row: the other paths answer for it.
                prefix = f"{spec.name}."
                same(
                    {prefix + name: computed.value for name, computed in found.items()},
                    {name: value for name, value in want.items() if name.startswith(prefix)},
                )

    # Point in time.
    frame = pa.table(
        {
            "stop": [entity for entity, _ in questions],
            "as_of": pa.array([t for _, t in questions], pa.timestamp("us", tz="UTC")),
        }
    )
    joined = point_in_time(frame, specs, scope=SCOPE, log=late, limits=limits).to_pylist()
    assert len(joined) == len(questions)
    for row, want in zip(joined, wanted, strict=True):
        same({name: row[name] for name in want}, want)

    # Online: a snapshot that includes the log's beginning, the rest streamed, some of it twice.
    clock = ManualClock(T)
    codec = AesGcmCodec(Keys()) if case.step % 2 else PlainCodec()
    lake, online = LocalLake(folder / "lake"), LmdbStore(folder / "online", b"k" * 32, codec)
    overlay = LmdbOverlay(folder / "online", SCOPE)
    try:
        published = {}
        for spec in specs:
            manifest = materialize(
                Materialization(scope=SCOPE, spec=spec, as_of=T, through=through),
                lake=lake,
                log=late,
                clock=clock,
            )
            online.build(manifest, spec, lake)
            published[spec.key] = manifest.id
        consumer = StreamConsumer(SCOPE, log=late, overlay=overlay, online=online, views=specs)
        while consumer.poll(case.step):
            pass
        again = StreamConsumer(SCOPE, log=late, overlay=overlay, online=online, views=specs)
        for spec in specs:
            again.restore(spec, 0, 1)
        reader = FeatureReader(
            SCOPE, publications=OnePublication(published), online=online, clock=clock, overlay=overlay
        )
        versions = {spec.name: spec.definition_version for spec in specs}
        # Each finished row is right up to its last moment, and is not served any later.
        for spec in specs:
            opened = online.open(SCOPE, spec.name, published[spec.key])
            for entity, row in zip("ab", opened.finished(online.entity_hashes("stop", ["a", "b"])), strict=True):
                if row is not None:
                    moments = {row.since - 1, row.since, row.until - 1, row.until} if row.until < EVER else {row.since}
                    questions += [(entity, t) for t in sorted(moments)]
        wanted += [expected(known, entity, t) for entity, t in questions[len(wanted) :]]
        vectors = reader.read_many(
            versions, [{"stop": entity} for entity, _ in questions], [from_microseconds(t) for _, t in questions]
        )
        for vector, want in zip(vectors, wanted, strict=True):
            same({name: item.value for name, item in vector.values.items()}, want)
    finally:
        overlay.close()
        online.close()


def test_the_oracle_knows_an_answer_by_hand() -> None:
    at = microseconds(T)
    known = [
        Known("1", "a", at - 30 * MINUTE, at - 40 * MINUTE, {"x": 1.0, "flag": True, "name": "n"}, 0, 0),
        Known("2", "a", at - 10 * MINUTE, at + MINUTE, {"x": 9.0, "flag": True, "name": "m"}, 1, 1),
        Known("3", "a", at - 120 * MINUTE, at - 120 * MINUTE, {"x": 5.0, "flag": None, "name": None}, 0, 1),
    ]
    found = expected(known, "a", at)
    assert found["recent.passes"] == 1  # one not seen yet, one exactly at the open edge
    assert found["recent.delay"] == 1.0
    assert found["recent.delay_6h"] == 3.0
    assert math.isclose(found["recent.total"], 2.0)
    assert found["recent.name"] == "n"
    assert timedelta(minutes=1) == timedelta(microseconds=MINUTE)
