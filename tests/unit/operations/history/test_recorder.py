"""A recorder keeps differences: nothing counts twice, and what could not be written is written later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from tests.unit.catalog.examples import NOON

from antiphon.catalog.measurements import PLATFORM, Amount, Measurements
from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.core.histograms import Histogram, bucket_of
from antiphon.operations.history.recorder import Families, HistoryRecorder, MetricDifferences


class Metrics:
    """A registry with one metric of each kind, of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("tenant", "application", "path", "status")
        self.requests = Counter("antiphon_requests", "", labels, registry=self.registry)
        self.in_flight = Gauge("antiphon_in_flight", "", registry=self.registry)
        self.ignored = Counter("antiphon_stream_late_events", "", registry=self.registry)
        self.seconds = Histogram(
            "antiphon_answer_seconds", "", ("tenant", "application", "path", "origin"), registry=self.registry,
            bounds=(1.0,),
        )  # fmt: skip

    def families(self) -> Families:
        return [({}, family) for family in self.registry.collect()]


def test_counts_are_differences_and_levels_hold_for_their_time() -> None:
    metrics, differences = Metrics(), MetricDifferences("ours", from_start=True)
    metrics.requests.labels("shop", "desk", "online", "200").inc(3)
    metrics.ignored.inc()
    metrics.in_flight.set(2)
    metrics.seconds.observe(("shop", "desk", "online", "generated"), 0.3)
    requests = ("antiphon_requests", ("desk", "online", "200", ""))
    seconds = ("antiphon_answer_seconds", ("desk", "online", "generated"))
    first = differences.read(metrics.families(), 10)
    assert first["shop"] == {requests: Amount(3.0), seconds: Amount(0.3, 1.0, 0.0, {bucket_of(0.3): 1})}
    assert first[PLATFORM] == {("antiphon_in_flight", ()): Amount(20.0, 10.0, 2.0)}
    metrics.requests.labels("shop", "desk", "online", "200").inc(1)
    metrics.seconds.observe(("shop", "desk", "online", "generated"), 0.7)
    assert differences.read(metrics.families(), 5, keep=False) == differences.read(metrics.families(), 5, keep=False)
    second = differences.read(metrics.families(), 10)["shop"]
    assert second[requests] == Amount(1.0)
    assert second[seconds].buckets == {bucket_of(0.7): 1}
    assert "shop" not in differences.read(metrics.families(), 10)


def test_a_level_that_is_a_truth_value_is_a_number() -> None:
    metrics = Metrics()
    metrics.in_flight.set(True)
    (measured,) = MetricDifferences("ours", from_start=True).read(metrics.families(), 10).values()
    assert Measurements.unpacked(measured.packed()) == measured


def test_what_was_counted_before_the_first_look_at_another_process_is_not_new() -> None:
    metrics, differences = Metrics(), MetricDifferences("ours", from_start=False)
    metrics.requests.labels("shop", "desk", "online", "200").inc(500)
    assert "shop" not in differences.read(metrics.families(), 10)
    metrics.requests.labels("shop", "desk", "online", "200").inc(2)
    (amount,) = differences.read(metrics.families(), 10)["shop"].values()
    assert amount.total == 2


def test_a_counter_that_begins_anew_counts_from_zero() -> None:
    differences = MetricDifferences("ours", from_start=False)
    for count, expected in ((500, None), (510, 10.0), (4, 4.0)):
        metrics = Metrics()
        metrics.requests.labels("shop", "desk", "online", "200").inc(count)
        found = differences.read(metrics.families(), 10).get("shop", {})
        assert next((one.total for one in found.values()), None) == expected


class Rows:
    """Rows that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.written = Measurements()

    def append(self, process: str, at: datetime, measured: Mapping[str, Measurements]) -> None:
        if self.away:
            raise UnavailableError("The catalog is away.")
        self.written.add(measured["shop"])


async def test_what_could_not_be_written_is_written_later_and_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics, rows = Metrics(), Rows()

    async def look() -> Families:
        return metrics.families()

    recorder = HistoryRecorder(
        rows,
        ManualClock(NOON),
        "gateway",
        look,
        MetricDifferences("shop", from_start=True),  # type: ignore[arg-type]
    )
    counter = metrics.requests.labels("shop", "desk", "online", "200")
    rows.away = True
    for _ in range(3):
        counter.inc()
        await recorder.record()
    assert len(caplog.records) == 1
    assert [one.total for one in (await recorder.unwritten("shop")).values()] == [3.0]
    counter.inc()
    assert [one.total for one in (await recorder.unwritten("shop")).values()] == [4.0]
    assert await recorder.unwritten("rival") == {}
    rows.away = False
    await recorder.record()
    await recorder.record()
    assert [one.total for one in rows.written.values()] == [4.0]
    assert await recorder.unwritten("shop") == {}
