"""Estimates of the ends of jobs, for orders, workers and views."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Literal

import msgspec

from antiphon.batch.forecast import (
    JobWork,
    SupplyForecast,
    TokenCost,
    Work,
    cost_of,
    delivered_at_ends,
    work_error,
    work_left,
)
from antiphon.catalog.batch.batch_work import BatchWork, ForecastInputs, OpenJob, RowUsage, Sizes
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope

FRESH_SECONDS = 5.0
"""For how long measurements are not looked up again."""

LEAST_MEASURED_SECONDS = 20.0
"""Of batch work that must have been seen before anything is predicted."""

Late = Literal["no", "likely", "certain"]


class Estimate(msgspec.Struct, frozen=True):
    """Estimate of the work left of a job and of its end.

    Attributes:
        prompt_tokens: to be computed, every shared beginning once; ``output_tokens`` to be written.
        engine_seconds: for both.
        earliest, latest: between these it ends four times of five.
        deadline: until when it was ordered; ``late`` says whether it ends after it: ``likely`` when the middle of the
            estimate does, ``certain`` when even ``earliest`` does.
    """

    rows: int
    prompt_tokens: int
    output_tokens: int
    engine_seconds: float
    ends_at: datetime
    earliest: datetime
    latest: datetime
    deadline: datetime | None
    late: Late


class PressingJob(msgspec.Struct, frozen=True):
    """A job with a deadline, in seconds since 1970, and the seconds that its work takes with all that batch gets."""

    job: str
    deadline: float
    seconds_left: float


@dataclass
class Estimates:
    """Estimates from what the catalog's workers measured, which lies in the project's own ``scope``; ``share`` tells a
    tenant's."""

    measurements: BatchWork
    scope: Scope
    clock: Clock
    share: Callable[[str], float] = lambda tenant: 1.0
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _backlog: _Backlog | None = field(init=False, default=None)
    _read_at: float = field(init=False, default=-inf)

    def of(self, tenant: str, jobs: Collection[str]) -> dict[str, Estimate]:
        """Estimates of those jobs of a tenant that have not ended and of which enough is known."""
        if (backlog := self._look()) is None:
            return {}
        return {
            job.id: self._estimate(backlog, job, work, backlog.delivered[job.id])
            for job, work in backlog.work
            if job.tenant == tenant and job.id in jobs
        }

    def of_new(self, tenant: str, alike: str, sizes: Sizes, deadline: datetime | None) -> Estimate | None:
        """Estimates a job that is ordered now; ``None`` while too little batch work was backlog."""
        if (backlog := self._look()) is None:
            return None
        job = OpenJob("", tenant, alike, sizes, deadline=None if deadline is None else deadline.timestamp())
        work = work_left(job, backlog.cost, _alike(backlog.measured, job))
        if work is None:
            return None
        now = self.clock.now().timestamp()
        delivered = delivered_at_ends(_left([*backlog.work, (job, work)], self.share), backlog.supply.rate, now)
        return self._estimate(backlog, job, work, delivered[job.id])

    def seconds_left(self, job: str) -> float:
        """Seconds that the work left of a job takes with all that batch work gets; 0 while that is unknown."""
        if (backlog := self._look()) is None:
            return 0.0
        return next((work.engine_seconds / backlog.supply.rate for one, work in backlog.work if one.id == job), 0.0)

    def pressing(self) -> PressingJob | None:
        """The open job with least laxity, of those that have a deadline; ``None`` while too little is known."""
        if (backlog := self._look()) is None:
            return None
        found = [
            PressingJob(job.id, job.deadline, work.engine_seconds / backlog.supply.rate)
            for job, work in backlog.work
            if job.deadline is not None
        ]
        return min(found, key=lambda one: one.deadline - one.seconds_left, default=None)

    def forget(self) -> None:
        """Look the measurements up again when next asked."""
        with self._lock:
            self._read_at = -inf

    def _estimate(self, backlog: _Backlog, job: OpenJob, work: Work, delivered: float) -> Estimate:
        when = backlog.supply.forecast(delivered, work_error(job))
        late: Late = "no"
        if job.deadline is not None and when.ends > job.deadline:
            late = "certain" if when.earliest > job.deadline else "likely"
        return Estimate(
            rows=work.rows,
            prompt_tokens=round(work.prompt_tokens),
            output_tokens=round(work.output_tokens),
            engine_seconds=round(work.engine_seconds, 3),
            ends_at=_moment(when.ends),
            earliest=_moment(when.earliest),
            latest=_moment(when.latest),
            deadline=None if job.deadline is None else _moment(job.deadline),
            late=late,
        )

    def _look(self) -> _Backlog | None:
        with self._lock:
            now = self.clock.now().timestamp()
            if not 0 <= now - self._read_at < FRESH_SECONDS:
                self._backlog = _backlog(self.measurements.look(self.scope), now, self.share)
                self._read_at = now
            return self._backlog


class _Backlog(msgspec.Struct, frozen=True):
    """Measurements and the work left of every open job."""

    measured: ForecastInputs
    cost: TokenCost
    supply: SupplyForecast
    work: Sequence[tuple[OpenJob, Work]]
    delivered: Mapping[str, float]


def _backlog(measured: ForecastInputs, now: float, share: Callable[[str], float]) -> _Backlog | None:
    cost = cost_of([usage for _, usage in measured.usages])
    if cost is None or sum(one.seconds for one in measured.supplied) < LEAST_MEASURED_SECONDS:
        return None
    work = [(job, left) for job in measured.open if (left := work_left(job, cost, _alike(measured, job))) is not None]
    supply = SupplyForecast(measured.supplied, now)
    return _Backlog(measured, cost, supply, work, delivered_at_ends(_left(work, share), supply.rate, now))


def _left(work: Sequence[tuple[OpenJob, Work]], share: Callable[[str], float]) -> list[JobWork]:
    return [
        JobWork(
            job.id, job.tenant, left.engine_seconds, inf if job.deadline is None else job.deadline, share(job.tenant)
        )
        for job, left in work
    ]


def _alike(measured: ForecastInputs, job: OpenJob) -> RowUsage:
    """RowUsage of the model's rows in other jobs."""
    total = sum((usage for model, usage in measured.usages if model == job.model), RowUsage())
    return total - job.usage


def require_in_time(estimate: Estimate | None, where: str, accept_late: bool) -> None:
    """Raises ``InvalidInputError`` when even the earliest end is past the deadline, and that was not accepted."""
    if estimate is not None and not accept_late and estimate.late == "certain":
        raise InvalidInputError(too_late(estimate), where=where, next_step=ACCEPT_LATE)


ACCEPT_LATE = "Order fewer rows or a longer window, or accept_late to have done what can be done."


def too_late(estimate: Estimate) -> str:
    """Message that an order cannot be kept."""
    return (
        f"The order would end about {estimate.ends_at:%Y-%m-%d %H:%M} UTC, at the earliest {estimate.earliest:%H:%M}, "
        f"after {estimate.deadline:%Y-%m-%d %H:%M}."
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(round(seconds), UTC)
