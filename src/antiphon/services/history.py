"""The history of a project: recorders of its processes, and windows that read what they kept.

What a process counts itself is recorded by it; what is read from the catalog, such as the age of features, by the one
worker of a tenant that has its duties; engines, by the one worker of all that asks them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from antiphon.catalog.measurements import FINEST, KEPT, PLATFORM, MeasurementRows, Measurements, begin_of
from antiphon.core.clock import Clock, parse_duration
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.histograms import quantile
from antiphon.core.scope import Scope
from antiphon.engine.api.engine_metrics import EngineMetrics
from antiphon.engine.api.messages import EngineDescription, EngineLoad
from antiphon.operations.history.measures import measure_of
from antiphon.operations.history.recorder import Families, HistoryRecorder, MetricDifferences
from antiphon.operations.history.window import HistoryColumns, HistoryWindow, period_of
from antiphon.orchestration.worker import HousekeepingTask
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.features.view_status import read_view_ages
from antiphon.services.project.store import Store

_ROLL_UP_SECONDS = 60.0
_LONGEST = max(KEPT.values())

_OF_LATENCY = {"antiphon_requests", "antiphon_answer_seconds", "antiphon_first_byte_seconds"}

LATEST = timedelta(minutes=5)
"""The window of a status."""


class Percentiles(msgspec.Struct, frozen=True):
    """Of ``count`` answers, in seconds to within a bucket of the history; ``None`` when there was none. The platform
    ``failed`` so many requests beside them."""

    count: int
    failed: int
    first_byte_p50: float | None
    first_byte_p99: float | None
    total_p50: float | None
    total_p90: float | None
    total_p99: float | None


class MetricHistory:
    """The history of an environment: read for its tenants, and written by this process of one of them."""

    def __init__(self, rows: MeasurementRows, clock: Clock, tenant: str) -> None:
        self._rows = rows
        self._clock = clock
        self._tenant = tenant
        self._own: HistoryRecorder | None = None

    def recorder(
        self, registry: CollectorRegistry, name: str, refresh: Callable[[], object] = lambda: None
    ) -> HistoryRecorder:
        """Records the registry of this process; its last seconds are read although they are not written yet.

        Args:
            name: of the process, unique among the project's of this machine.
            refresh: brings metrics up to date that are only looked at now and then.
        """
        source = f"{self._tenant}/{name}@{socket.gethostname()}"
        fixed = {"process": source}

        async def look() -> Families:
            refresh()
            return [(fixed, family) for family in registry.collect()]

        differences = MetricDifferences(self._tenant, from_start=True)
        self._own = HistoryRecorder(self._rows, self._clock, source, look, differences)
        return self._own

    def window(
        self,
        tenant: str,
        span: timedelta,
        until: datetime | None = None,
        measures: Collection[str] | None = None,
    ) -> HistoryWindow:
        """Measurements of a tenant in a span that ends at a moment, by default now; of these measures, or of all."""
        now = self._clock.now()
        end = min(now, until or now)
        period = period_of(span, now - (end - span))
        since = begin_of(end - span, period)
        return HistoryWindow(period, since, end, self._rows.read(tenant, period, since, end, measures))

    def columns(
        self,
        tenant: str,
        measure: str,
        span: timedelta,
        until: datetime | None = None,
        *,
        statistic: str | None = None,
        by: Iterable[str] = (),
        where: Mapping[str, str] | None = None,
    ) -> HistoryColumns:
        """One measure over a span, of a tenant, or of the platform where that is whose it is.

        Raises:
            NotFoundError: no such measure. InvalidInputError: it has no such label or statistic.
        """
        found = measure_of(measure)
        owner = tenant if found.by_tenant else PLATFORM
        return self.window(owner, span, until, {found.name}).columns(measure, statistic, tuple(by), where)

    async def latency(self, tenant: str) -> Percentiles:
        """Online answers of the last minutes by all gateways, and of this one up to this moment."""
        now = self._clock.now()
        since = begin_of(now - LATEST, FINEST)
        periods = await asyncio.to_thread(self._rows.read, tenant, FINEST, since, now, _OF_LATENCY)
        if self._own is not None:
            last = Measurements()
            last.add(periods.get(begin_of(now, FINEST), {}))
            last.add(await self._own.unwritten(tenant))
            periods[begin_of(now, FINEST)] = last
        window, online = HistoryWindow(FINEST, since, now, periods), {"path": "online"}
        totals = window.amount("antiphon_answer_seconds", online)
        firsts = window.amount("antiphon_first_byte_seconds", online).buckets
        failed = window.amount("antiphon_requests", {"fault": "platform"}).total
        return Percentiles(
            int(totals.weight), int(failed), quantile(firsts, 0.5), quantile(firsts, 0.99),
            quantile(totals.buckets, 0.5), quantile(totals.buckets, 0.9), quantile(totals.buckets, 0.99),
        )  # fmt: skip


def parse_span(text: str) -> timedelta:
    """Reads the length of a span; raises ``InvalidInputError`` for what is none, or longer than the history."""
    span = parse_duration(text)
    if span > _LONGEST:
        raise InvalidInputError(f"{text!r} is longer than the history.", where="span", next_step="Choose up to 3650d.")
    return span


def parse_labels(text: str) -> dict[str, str]:
    """Reads ``path=batch,application=desk``.

    Raises:
        InvalidInputError: a part has no ``=``.
    """
    parts = [part.partition("=") for part in text.split(",") if part]
    if wrong := [label for label, equal, _ in parts if not equal]:
        raise InvalidInputError(f"{wrong[0]!r} selects nothing.", where="where", next_step="Write label=value.")
    return {label.strip(): value.strip() for label, _, value in parts}


def tenant_recorder(store: Store, platform: FeaturePlatform) -> HistoryRecorder:
    """Records what the catalog tells of the store's own tenant."""
    scope, streams = store.scope, ProjectStreams(store, platform)

    async def look() -> Families:
        return await asyncio.to_thread(lambda: [({}, family) for family in _stored(store, platform, streams, scope)])

    return _recorder(store, f"tenant/{scope.tenant}", look, MetricDifferences(scope.tenant, from_start=False))


def engine_recorder(store: Store, describe: Callable[[], Awaitable[EngineDescription]]) -> HistoryRecorder:
    """Records the engines of the environment; one that is away is recorded again when it answers."""

    async def look() -> Families:
        try:
            described = await describe()
        except UnavailableError:
            return ()
        instances = {one.name: one.load for one in described.instances if one.answers} or {"engine": described.load}
        return [
            ({"engine": name}, family)
            for name, load in instances.items()
            for family in EngineMetrics(partial(_same, load)).collect()
        ]

    return _recorder(store, "engines", look, MetricDifferences(store.scope.tenant, from_start=False))


def _same(load: EngineLoad) -> EngineLoad:
    return load


def rolling_up(store: Store) -> HousekeepingTask:
    """The task that adds what was recorded to the longer periods."""

    def roll_up() -> None:
        store.measurements.roll_up()

    return HousekeepingTask(roll_up, every=_ROLL_UP_SECONDS, name="Rolled the history up")


def _recorder(
    store: Store, source: str, look: Callable[[], Awaitable[Families]], differences: MetricDifferences
) -> HistoryRecorder:
    return HistoryRecorder(store.measurements, store.database.clock, source, look, differences)


def _stored(store: Store, platform: FeaturePlatform, streams: ProjectStreams, scope: Scope) -> Iterator[Metric]:
    ages = GaugeMetricFamily("antiphon_feature_age_seconds", "", labels=("view",))
    stale = GaugeMetricFamily("antiphon_application_stale", "", labels=("application",))
    late: dict[str, bool] = {}
    views = platform.views() if platform.serves(scope) else {}
    for view in read_view_ages(store, views):
        if view.age_seconds is not None:
            ages.add_metric((view.view,), view.age_seconds)
        for application in view.contracts:
            late[application] = late.get(application, False) or application in view.stale_for
    for application, is_late in late.items():
        stale.add_metric((application,), float(is_late))
    yield from (ages, stale)
    waiting = GaugeMetricFamily("antiphon_runs_waiting", "", labels=("workflow",))
    for workflow, count in store.runs.waiting(scope).items():
        waiting.add_metric((workflow,), count)
    yield waiting
    yield GaugeMetricFamily("antiphon_batch_rows_waiting", "", value=store.jobs.rows_waiting(scope))
    lags = GaugeMetricFamily("antiphon_stream_waiting_seconds", "", labels=("stream",))
    for stream in streams.status(scope, views):
        if stream.problem is None:
            lags.add_metric((stream.stream,), stream.lag_seconds)
    yield lags
