"""The metrics of a Prometheus registry as OTLP: read at an interval, sent by OpenTelemetry's reader and exporter.

Names and types are the same as a scrape's. Those that the conventions for generative systems have a name for are sent
under it as well (:data:`antiphon.core.telemetry.GENAI_METRICS`), with the application as the model that was asked for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family

from antiphon.core.logs import described
from antiphon.core.telemetry import GENAI, GENAI_METRICS, PROVIDER

_log = logging.getLogger("antiphon.telemetry")

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNITS = {"_seconds": "s", "_bytes": "By"}
_CHAT = {GENAI["operation"]: "chat", GENAI["provider"]: PROVIDER}

# A scrape knows neither the least nor the greatest value; OTLP leaves both out.
_UNKNOWN: Any = None

_Labels = tuple[tuple[str, str], ...]


def registry_reader(
    exporter: MetricExporter, registry: CollectorRegistry, resource: Resource, refresh: Callable[[], Any]
) -> PeriodicExportingMetricReader:
    """Sends a registry's metrics at an interval from now on, and once more when it is shut down."""
    reader, since = PeriodicExportingMetricReader(exporter), time.time_ns()

    def collect(reader: Any, timeout_millis: float) -> MetricsData:
        try:
            refresh()
        except Exception as error:  # Whatever it is, the thread that sends would end with it.
            _log.warning("Metrics are sent as they were known before: %s", described(error))
        return metrics_data(registry.collect(), resource, since)

    # In place of a meter provider, whose instruments nothing here uses.
    reader._set_collect_callback(collect)
    return reader


def metrics_data(families: Iterable[Family], resource: Resource, since: int) -> MetricsData:
    """The families as OTLP carries them, cumulative ``since`` so many nanoseconds since 1970."""
    metrics = list(_metrics(families, since, time.time_ns()))
    scope = ScopeMetrics(InstrumentationScope("antiphon"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metrics(families: Iterable[Family], since: int, now: int) -> Iterator[Metric]:
    for family in families:
        unit = next((unit for suffix, unit in _UNITS.items() if family.name.endswith(suffix)), "")
        data = _data(family, since, now)
        if data is None:
            continue
        yield Metric(family.name, family.documentation, unit, data)
        if (conventional := GENAI_METRICS.get(family.name)) is not None and isinstance(data, Histogram):
            yield Metric(conventional, family.documentation, unit, _as_conventional(data))


def _data(family: Family, since: int, now: int) -> Sum | Gauge | Histogram | None:
    if family.type == "histogram":
        return Histogram(list(_histograms(family, since, now)), _CUMULATIVE)
    counted = family.type == "counter"
    points = [
        NumberDataPoint(sample.labels, since if counted else 0, now, sample.value)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    if not points:
        return None
    return Sum(points, _CUMULATIVE, is_monotonic=True) if counted else Gauge(points)


class _Distribution(msgspec.Struct):
    bounds: list[float] = []
    cumulative: list[float] = []
    total: float = 0.0


def _histograms(family: Family, since: int, now: int) -> Iterator[HistogramDataPoint]:
    found: dict[_Labels, _Distribution] = {}
    for sample in family.samples:
        labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        one = found.setdefault(labels, _Distribution())
        if sample.name.endswith("_bucket"):
            one.bounds.append(float(sample.labels["le"]))
            one.cumulative.append(sample.value)
        elif sample.name.endswith("_sum"):
            one.total = sample.value
    for labels, one in found.items():
        counts = [int(upper - lower) for lower, upper in zip([0.0, *one.cumulative], one.cumulative, strict=False)]
        bounds = [bound for bound in one.bounds if not math.isinf(bound)]
        yield HistogramDataPoint(dict(labels), since, now, sum(counts), one.total, counts, bounds, _UNKNOWN, _UNKNOWN)


def _as_conventional(data: Histogram) -> Histogram:
    points = []
    for point in data.data_points:
        labels = dict(point.attributes or {})
        model = {GENAI["model"]: labels.pop("application")} if "application" in labels else {}
        own = {f"antiphon.{name}": value for name, value in labels.items()}
        points.append(
            HistogramDataPoint(
                _CHAT | model | own, point.start_time_unix_nano, point.time_unix_nano, point.count, point.sum,
                point.bucket_counts, point.explicit_bounds, point.min, point.max,
            )
        )  # fmt: skip
    return Histogram(points, data.aggregation_temporality)
