"""A registry goes to a collector as a scrape would show it, whatever a look for it comes to."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from antiphon.core.otlp_metrics import metrics_data, registry_reader


class Kept(MetricExporter):
    """Keeps what it is given to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.sent.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        pass


def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("antiphon_requests", "", ("status",), registry=made).labels("200").inc(3)
    Gauge("antiphon_file_bytes", "", registry=made).set(7)
    seconds = Histogram("antiphon_first_byte_seconds", "", ("application",), registry=made, buckets=(0.1, 1.0))
    for value in (0.05, 0.5, 0.6, 9.0):
        seconds.labels("desk").observe(value)
    return made


def test_kinds_units_and_buckets_are_kept_and_the_conventions_name_stands_beside() -> None:
    data = metrics_data(registry().collect(), Resource.create({}), 5)
    found = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    (counted,) = found["antiphon_requests"].data.data_points
    assert (counted.value, counted.attributes, counted.start_time_unix_nano) == (3, {"status": "200"}, 5)
    assert (found["antiphon_file_bytes"].unit, found["antiphon_file_bytes"].data.data_points[0].value) == ("By", 7)
    for name in ("antiphon_first_byte_seconds", "gen_ai.server.time_to_first_token"):
        (point,) = found[name].data.data_points
        assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([1, 2, 1], [0.1, 1.0])
        assert (point.count, point.sum, found[name].unit) == (4, pytest.approx(10.15), "s")


def test_a_look_that_fails_leaves_the_metrics_of_before_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away() -> None:
        raise ConnectionError("what somebody wrote")

    kept = Kept()
    reader = registry_reader(kept, registry(), Resource.create({}), away)
    try:
        reader.collect()
        reader.collect()
    finally:
        reader.shutdown()
    assert len(kept.sent) >= 2
    assert "Metrics are sent as they were known before" in caplog.text
    assert "what somebody wrote" not in caplog.text
