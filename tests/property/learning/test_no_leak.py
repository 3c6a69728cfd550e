"""No row of a dataset holds anything from after its moment or its cutoff, against plain Python over the same events,
and against a world in which the future was something else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from antiphon import Entity, Source, col, count, feature_view, last, sum
from antiphon.catalog.features.events import Event, StoredEvent
from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.source import SourceSpec
from antiphon.learning.datasets.rows import DatasetRowBuilder

SCOPE = Scope()
CUTOFF = datetime(2013, 4, 10, 12, tzinfo=UTC)
STOPS = ("a", "b")
FIRST, LAST, MATURITY = -120, -15, 20
"""Minutes before and after the cutoff; moments are in ``(FIRST, LAST]``."""


class Passing(NamedTuple):
    """An event; minutes from the cutoff. ``logged`` 0: in the file, else its offset in the log."""

    identity: int
    stop: str
    at: int
    seen: int
    x: int
    logged: bool


class Asked(NamedTuple):
    """A row of the outcome's history."""

    identity: int
    stop: str
    at: int
    known: int
    label: str | None


class Served(NamedTuple):
    """A prediction with its joined label."""

    stop: str
    at: int
    known: int
    label: str
    value: int


def when(minutes: int) -> datetime:
    return CUTOFF + timedelta(minutes=minutes)


def views(path: str) -> FeatureViewSpec:
    @feature_view(
        entity=Entity("stop", ["stop"]),
        source=Source.stream("passes", history=path, event_time="due", available_at="seen", event_id="id"),
    )
    class Recent:
        passes = count(window="60m")
        total = sum(col.x, window="60m", scale="1")
        newest = last(col.x)

    return Recent.spec()


class Log:
    """The event log in memory, which others go on appending to."""

    def __init__(self, events: Sequence[Passing]) -> None:
        self.stored = [
            StoredEvent(
                offset,
                Event(f"l{event.identity}", when(event.at), when(event.seen), {"stop": event.stop, "x": event.x}),
            )
            for offset, event in enumerate(events, 1)
        ]

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> Sequence[StoredEvent]:
        return self.stored[after : after + limit]

    def end(self, scope: Scope, stream: str) -> int:
        return len(self.stored)


class Fakes:
    """Outcomes, receipts, releases and definitions in memory."""

    def __init__(self, served: Sequence[Served], spec: FeatureViewSpec) -> None:
        self.served = served
        self.spec = spec

    def scored(self, scope: Scope, application: str, outcome: str, **_: Any) -> list[OutcomeRecord]:
        return [
            OutcomeRecord(
                id=f"o{number}", scope=SCOPE, application=application, kind="label", status="joined", value=one.label,
                available_at=when(one.known), created_at=CUTOFF, prediction=f"p{number}", release="r", role="live",
                as_of=when(one.at), entity={"stop": one.stop},
            )
            for number, one in enumerate(self.served)
        ]  # fmt: skip

    def get(self, scope: Scope, name: str, version: str | None = None) -> Any:
        from tests.unit.catalog.examples import receipt

        if version is not None:
            return self.spec
        if name == "r":
            return type("Release", (), {"bundle": type("B", (), {"application": self})})
        if not name.startswith("p"):
            raise NotFoundError(name)
        one = self.served[int(name[1:])]
        value = FeatureReceipt("recent.total", one.value, None, "v", None, when(one.at), 0.0, "fresh")
        return receipt(name, as_of=when(one.at), features=(value,))

    @property
    def versions(self) -> dict[str, str]:
        return {"recent": self.spec.definition_version}


minutes = st.integers(-200, 90) | st.sampled_from(
    [edge + near for edge in (FIRST, LAST, -MATURITY, LAST - 60, 0) for near in (-1, 0, 1)]
)
stops = st.sampled_from(STOPS)
passings = st.lists(
    st.builds(Passing, st.integers(0, 12), stops, minutes, minutes, st.integers(-9, 9), st.booleans()), max_size=25
)
questions = st.lists(
    st.builds(Asked, st.integers(0, 15), stops, minutes, minutes, st.sampled_from(["yes", "no", "maybe", None])),
    max_size=25,
)
predictions = st.lists(
    st.builds(Served, stops, minutes, minutes, st.sampled_from(["yes", "no"]), st.integers(50, 59)), max_size=6
)


def made(folder: Path, events: Sequence[Passing], asked: Sequence[Asked], served: Sequence[Served]) -> Any:
    stamp = pa.timestamp("us", tz="UTC")
    filed = [event for event in events if not event.logged]
    pq.write_table(
        pa.table(
            {
                "id": pa.array([f"f{event.identity}" for event in filed], pa.string()),
                "stop": pa.array([event.stop for event in filed], pa.string()),
                "due": pa.array([when(event.at) for event in filed], stamp),
                "seen": pa.array([when(event.seen) for event in filed], stamp),
                "x": pa.array([event.x for event in filed], pa.int64()),
            }
        ),
        folder / "passes.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "id": pa.array([f"q{one.identity}" for one in asked], pa.string()),
                "stop": pa.array([one.stop for one in asked], pa.string()),
                "asked": pa.array([when(one.at) for one in asked], stamp),
                "known": pa.array([when(one.known) for one in asked], stamp),
                "late": pa.array([one.label for one in asked], pa.string()),
            }
        ),
        folder / "flown.parquet",
    )
    spec = views(str(folder / "passes.parquet"))
    log = Log([event for event in events if event.logged])
    fakes: Any = Fakes(served, spec)
    maker = DatasetRowBuilder(
        SCOPE, outcomes=fakes, receipts=fakes, texts=fakes, releases=fakes, definitions=fakes, log=log
    )
    return maker.make(
        DatasetSpec(
            application="desk",
            kind="training",
            property="late",
            positive="yes",
            cutoff=CUTOFF,
            first=when(FIRST),
            last=when(LAST),
            maturity_seconds=MATURITY * 60,
            origins=("history", "receipts"),
            examples=1_000,
            seed=0,
            views=fakes.versions,
            entity_keys=("stop",),
            labels=("yes", "no"),
            history=SourceSpec("flown", "table", "asked", "known", event_id="id", path=str(folder / "flown.parquet")),
            offsets={"passes": log.end(SCOPE, "passes")},
        )
    )


def told_once(events: Sequence[Any], available: str) -> list[Any]:
    """Of events with the same id, entity and time the one available earliest."""
    best: dict[Any, Any] = {}
    for event in events:
        place = (event.identity, event.stop, event.at, getattr(event, "logged", None))
        if place not in best or getattr(event, available) < getattr(best[place], available):
            best[place] = event
    return list(best.values())


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(passings, questions, predictions)
def test_every_row_is_of_what_was_known_then(events: list[Passing], asked: list[Asked], served: list[Served]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = made(Path(folder), events, unambiguous(asked), served).rows
    columns = {column.name: column.values for column in rows.columns}
    found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    expected = []
    taken = {(one.stop, one.at) for one in served if permitted(one)}
    for one in told_once(unambiguous(asked), "known"):
        if permitted(one) and one.label in ("yes", "no") and (one.stop, one.at) not in taken:
            expected.append(("history", one.stop, one.at, one.label))
    for place in taken:
        first = min(
            (one for one in served if permitted(one) and (one.stop, one.at) == place),
            key=lambda one: (one.known, f"p{served.index(one)}"),
        )
        expected.append(("receipts", first.stop, first.at, first.label))
    assert sorted((row["drawn_from"], row["stop"], offset(row["moment"]), row["label"]) for row in found) == sorted(
        expected
    )
    for row in found:
        t = offset(row["moment"])
        assert FIRST < t <= LAST
        assert t + MATURITY <= 0
        assert t <= offset(row["label_at"]) <= 0
        if row["drawn_from"] == "receipts":
            assert 50 <= row["recent.total"] <= 59  # as it was served, not as it would be computed
            continue
        known = [
            event
            for event in told_once(events, "seen")
            if event.stop == row["stop"] and event.at <= t and event.seen <= t
        ]
        window = [event for event in known if event.at > t - 60]
        assert row["recent.passes"] == len(window)
        total = 0
        for event in window:
            total += event.x
        assert row["recent.total"] == total
        assert (row["recent.newest"] is None) == (not known)
        if known:
            latest = max(event.at for event in known)
            assert row["recent.newest"] in {event.x for event in known if event.at == latest}
            assert offset(row["recent.newest.event_time"]) == latest


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(passings, questions, predictions, st.randoms(use_true_random=False))
def test_another_future_gives_the_same_dataset(
    events: list[Passing], asked: list[Asked], served: list[Served], random: Any
) -> None:
    """What becomes known after the last moment (events) or after the cutoff (labels) is replaced by something else."""
    other_events = [
        event if event.seen <= LAST else event._replace(x=random.randint(-9, 9), stop=random.choice(STOPS))
        for event in events
        if event.seen <= LAST or random.random() < 0.7
    ]
    other_asked = [
        one if one.known <= 0 else one._replace(label=random.choice(["yes", "no"]), stop=random.choice(STOPS))
        for one in unambiguous(asked)
        if one.known <= 0 or random.random() < 0.7
    ]
    with tempfile.TemporaryDirectory() as folder:
        first = made(Path(folder), events, unambiguous(asked), served)
        second = made(Path(folder), other_events, other_asked, [one for one in served if one.known <= 0])
    assert values(first.rows) == values(second.rows)


def values(rows: Any) -> Any:
    """Without predictions' ids, which the order of the fakes decides."""
    return [(column.name, column.values) for column in rows.columns if column.name != "prediction"]


def permitted(one: Any) -> bool:
    return FIRST < one.at <= LAST and one.at + MATURITY <= 0 and one.at <= one.known <= 0


def offset(microseconds: int) -> int:
    return round((microseconds - CUTOFF.timestamp() * 1e6) / 60e6)


def unambiguous(asked: Sequence[Asked]) -> list[Asked]:
    """Without rows that tell one outcome in two ways at one instant: which of them is meant nobody could say."""
    seen: dict[Any, Asked] = {}
    for one in asked:
        seen.setdefault((one.identity, one.stop, one.at, one.known), one)
    return list(seen.values())
