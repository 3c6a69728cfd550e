"""The recent past of this gateway on one time axis: latency, batch progress, freshness, engine load.

A sampler looks every ``PERIOD`` seconds while the gateway runs; the dashboard draws what it kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import datetime, timedelta

import msgspec

from antiphon.core.pauses import ended_together
from antiphon.core.scope import Scope
from antiphon.gateway.admin.status import status
from antiphon.gateway.measurements import GatewayMetrics, percentiles
from antiphon.gateway.services import GatewayServices

PERIOD = 2.0
KEPT = 1_800
MOST = 64
LATENCY_WINDOW = 15.0
"""Seconds of answers behind one sample's percentiles: short enough to move, long enough to hold some."""
SHOWN_AFTER_END = 3 * PERIOD
"""A job stays in the samples for so many seconds after its end, so that its line reaches 100 %."""

_log = logging.getLogger("antiphon.gateway")


class Sample(msgspec.Struct, frozen=True):
    """One look. Latencies in seconds, ``None`` without answers; ``batch`` is rows done, and rows wanted, of the
    jobs that run or have just ended; ``freshness`` is view to age in seconds."""

    at: datetime
    p50: float | None
    p99: float | None
    batch_done: int
    batch_total: int
    running_online: int | None
    running_batch: int | None
    freshness: dict[str, float | None]


class MetricsHistory:
    """Samples of one scope, oldest first."""

    def __init__(self, services: GatewayServices, measurements: GatewayMetrics, scope: Scope) -> None:
        self._services = services
        self._measurements = measurements
        self._scope = scope
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)

    async def look(self) -> Sample:
        """Take one sample and keep it."""
        seen = await status(self._services, self._measurements, self._scope, None)
        now = self._services.clock.monotonic()
        recent = percentiles(self._measurements.since(now - LATENCY_WINDOW, self._scope.tenant))
        ended_since = seen.at - timedelta(seconds=SHOWN_AFTER_END)
        active = [
            job
            for job in seen.jobs
            if job.status in ("queued", "running", "finalizing")
            or (job.updated_at is not None and job.updated_at >= ended_since)
        ]
        load = seen.engine.load
        sample = Sample(
            at=seen.at,
            p50=recent.total_p50,
            p99=recent.total_p99,
            batch_done=sum(job.rows_done for job in active),
            batch_total=sum(job.total or 0 for job in active),
            running_online=load.running_online if load else None,
            running_batch=load.running_batch if load else None,
            freshness={view.view: view.age_seconds for view in seen.freshness},
        )
        self._samples.append(sample)
        return sample


class Histories:
    """One history per tenant, begun when somebody of that tenant first looks; nobody sees another's."""

    def __init__(self, services: GatewayServices, measurements: GatewayMetrics) -> None:
        self._services = services
        self._measurements = measurements
        self._by_tenant: dict[str, MetricsHistory] = {}
        self.of(Scope(services.settings.project.tenant, services.environment))

    def of(self, scope: Scope) -> MetricsHistory:
        """The history of a scope's tenant. Past ``MOST`` tenants the one that began first is forgotten."""
        history = self._by_tenant.get(scope.tenant)
        if history is None:
            if len(self._by_tenant) >= MOST:
                del self._by_tenant[next(iter(self._by_tenant))]
            history = self._by_tenant[scope.tenant] = MetricsHistory(self._services, self._measurements, scope)
        return history

    async def run(self) -> None:
        """Look until cancelled; a look that fails is logged and does not end the looking."""
        failing = False
        while True:
            for history in tuple(self._by_tenant.values()):
                try:
                    await history.look()
                    failing = False
                except Exception:
                    if not failing:
                        _log.exception("The sampler failed; it will go on trying")
                    failing = True
            await asyncio.sleep(ended_together(PERIOD, asyncio.get_running_loop().time()))
