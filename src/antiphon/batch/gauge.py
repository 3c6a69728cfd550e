"""Measures the supply of engine seconds that batch work gets, as this worker sees it.

Batch work *has work* while at least one of its rows is under way; what it got then are the engine seconds that the
engine reports of rows that ended. Forecasts are made from it (``forecast``). From a row that finds the engine away to
the next that has its answer nothing is measured: an outage is no supply that will come again tomorrow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from antiphon.batch.estimates import Estimates
from antiphon.batch.forecast import BUCKET_SECONDS
from antiphon.batch.row_plan import RowSketch
from antiphon.catalog.batch.batch_work import BatchWork, EngineSupply, RowUsage
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.clock import Clock
from antiphon.core.errors import EngineError, OverloadedError, UnavailableError
from antiphon.core.scope import Scope

TRANSIENT_ERRORS = (UnavailableError, EngineError, OverloadedError)
"""Errors that pass by themselves and are waited for."""


class Gauge:
    """Measures the supply of batch work, one gauge a worker; it is kept in the project's own ``scope``, for all tenants
    share the engine."""

    def __init__(self, measurements: BatchWork, scope: Scope, worker: str, clock: Clock) -> None:
        self.measurements = measurements
        self._scope = scope
        self._worker = worker
        self._clock = clock
        self._under_way = 0
        self._away = False
        self._since = 0.0
        self._seconds = self._engine_seconds = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def row(self) -> Iterator[None]:
        """A row is under way."""
        self._note(begun=1)
        try:
            yield
        except TRANSIENT_ERRORS:
            self._note(away=True)
            raise
        finally:
            self._note(begun=-1)

    def got(self, engine_seconds: float) -> None:
        """A row has ended that took so much of the engine."""
        self._note(away=False, engine_seconds=engine_seconds)

    def _note(self, *, begun: int = 0, away: bool | None = None, engine_seconds: float = 0.0) -> None:
        with self._lock:
            self._count()
            self._under_way += begun
            self._away = self._away if away is None else away
            self._engine_seconds += engine_seconds

    def flush(self) -> None:
        """Keep what was measured since the last time."""
        with self._lock:
            self._count()
            seconds, engine_seconds = self._seconds, self._engine_seconds
            self._seconds = self._engine_seconds = 0.0
        if seconds or engine_seconds:
            began = self._now() // BUCKET_SECONDS * BUCKET_SECONDS
            self.measurements.supply(self._scope, self._worker, EngineSupply(began, seconds, engine_seconds))

    def _count(self) -> None:
        now = self._now()
        if self._under_way and not self._away:
            self._seconds += now - self._since
        self._since = now

    def _now(self) -> float:
        return self._clock.now().timestamp()


@dataclass
class JobMeter:
    """Measures the usage of one job's rows, and estimates the seconds that the rest takes with all that batch work
    gets, as of the last :meth:`keep`; 0 while that is unknown."""

    gauge: Gauge
    estimates: Estimates
    scope: Scope
    job: str
    seconds_left: float = field(init=False, default=0.0)
    _used: RowUsage = field(init=False, default_factory=RowUsage)

    def took(self, row: RowSketch | None, *usages: UsageReceipt) -> None:
        """A row has its answers."""
        engine_seconds = sum(usage.engine_seconds for usage in usages)
        self.gauge.got(engine_seconds)
        self._used += RowUsage(
            rows=1,
            prompt_bytes=0 if row is None else row.prompt_bytes,
            output_limit=0 if row is None else row.output_limit,
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            cached_tokens=sum(usage.cached_prompt_tokens for usage in usages),
            output_tokens=sum(usage.completion_tokens for usage in usages),
            engine_seconds=engine_seconds,
        )

    def keep(self) -> None:
        """Keep what was measured since the last time; call it in a thread."""
        used, self._used = self._used, RowUsage()
        self.gauge.flush()
        if used.rows:
            self.gauge.measurements.used(self.scope, self.job, used)
        self.seconds_left = self.estimates.seconds_left(self.job)
