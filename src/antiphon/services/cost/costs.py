"""Costs of one tenant: charges of a time, their sums, a forecast, a review and an export."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, get_args

from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.catalog.ledger import SharedTime
from antiphon.catalog.serving.receipt import SEEN_ROLES
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.durable.run import Run
from antiphon.operations.cost.energy import EnergyFigures
from antiphon.operations.cost.forecast import CostForecast, forecast
from antiphon.operations.cost.price_book import OPENING, hour_of, next_hour
from antiphon.operations.cost.rating import Charge, charges, shared_charges
from antiphon.operations.cost.review import CostReview, MetricGain, ReleaseReview, TrainingReview
from antiphon.operations.cost.summary import CostSummary, summarize
from antiphon.services.cost.prices import ProjectPrices
from antiphon.services.learning.outcomes import monitor
from antiphon.services.project.store import Store

HISTORY = timedelta(days=56)
"""Days that a forecast looks back."""

RECENT = timedelta(days=30)
"""The time of a sum that names none."""

MOST_RUNS = 50
"""Trainings that are searched for an application's last one."""


class ProjectCosts:
    """Costs of one tenant in one project's environment.

    What belongs to no tenant (idle engines), or to one that was erased, is a cost of the tenant that the project's
    settings name, which administers the installation.
    """

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self.prices = ProjectPrices(store)

    def charges(self, since: datetime | None = None, until: datetime | None = None) -> list[Charge]:
        """Charges that are booked in the hours of ``since <= hour < until``, in their order; of the last 30 days by
        default.

        Raises:
            InvalidInputError: the time ends before it begins.
        """
        begin, end = self._span(since, until)
        self.prices.follow_settings()
        book, ledger, environment = self.prices.book(), self._store.ledger, self._scope.environment
        # A price that was recorded in this time may correct hours from long before it.
        corrected = [
            one.since
            for one in book.records
            if one.since != OPENING and begin <= one.recorded_at < end + timedelta(hours=1)
        ]
        earliest = min([begin, *corrected])
        found = charges(ledger.entries(self._scope, earliest, end), book)
        if self._scope.tenant == self._store.scope.tenant:
            measured = ledger.shared(environment, earliest, end)
            for of in get_args(SharedTime):
                answered = ledger.engine_time(environment, earliest, end, of)
                found += shared_charges(measured, answered, ledger.measured_since(environment, of), book, of)
            found += charges([one for one in measured if one.resource == "memory"], book)
            found += charges(ledger.erased(environment, earliest, end), book)
        found = [one for one in found if begin <= one.booked < end]
        return sorted(found, key=lambda one: (one.booked, one.entry.hour))

    def of_work(self, work: Sequence[str]) -> list[Charge]:
        """Charges of what runs and batch jobs used, whenever that was.

        They are rated by themselves: beside other work of their hour they may be a micro-unit more or less an hour and
        resource.
        """
        self.prices.follow_settings()
        return charges(self._store.ledger.of_work(self._scope, work), self.prices.book())

    def sums_of_work(self, work: Sequence[str]) -> dict[str, int]:
        """Sums, in micro-units, that each of these runs and batch jobs cost so far."""
        sums = dict.fromkeys(work, 0)
        for one in self.of_work(work):
            if one.kind != "saved":
                sums[one.entry.work] += one.micros
        return sums

    def summary(
        self, by: Sequence[str] = ("application",), since: datetime | None = None, until: datetime | None = None
    ) -> CostSummary:
        """Sums of :meth:`charges`; raises ``InvalidInputError`` for a dimension that there is none of."""
        found = self.charges(since, until)
        return summarize(found, by, self.currency, self.energy)

    @property
    def energy(self) -> EnergyFigures:
        """Power as the settings declare it now, by which the energy of charges is estimated."""
        engines = self._store.ledger.measured_since(self._scope.environment)
        return EnergyFigures(self._store.settings.energy, engines)

    @property
    def currency(self) -> str:
        """The currency of every amount."""
        return self.prices.currency

    def forecast(self, days: int = 30) -> CostForecast | None:
        """The forecast of what the next days cost; ``None`` before there was a week that is over."""
        now = self._store.database.clock.now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        daily: dict[date, int] = {}
        for one in self.charges(today - HISTORY, today):
            if one.kind == "usage":
                day = one.booked.date()
                daily[day] = daily.get(day, 0) + one.micros
        return forecast(daily, now.date(), days, self.currency)

    def review(self, application: str, since: datetime | None = None, until: datetime | None = None) -> CostReview:
        """The review of an application.

        Raises:
            NotFoundError: there is no such application. InvalidInputError: the time ends before it begins.
        """
        begin, end = self._span(since, until)
        found = [one for one in self.charges(begin, end) if one.entry.application == application]
        if not found and application not in (known := self._store.releases.applications(self._scope)):
            raise NotFoundError(
                f"There is no application {application!r}.",
                where="application",
                next_step=nearest(application, known, "`antiphon apply` applies those of definitions.py."),
            )
        return CostReview(
            application=application,
            since=begin,
            until=min(end, self._store.database.clock.now()),
            currency=self.currency,
            micros=_sum(found),
            training=self._training(application),
            releases=self._releases(application, found, begin, end),
        )

    def _span(self, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
        now = self._store.database.clock.now()
        end = next_hour(now) if until is None else hour_of(until)
        begin = end - RECENT if since is None else hour_of(since)
        if begin >= end:
            raise InvalidInputError(
                "The time ends before it begins.", where="until", next_step="Name a later end, or an earlier beginning."
            )
        return begin, end

    def _training(self, application: str) -> TrainingReview | None:
        run = self._last_training(application)
        if run is None or run.ended_at is None:
            return None
        release = str((run.result or {}).get("release") or "")
        found = self.charges(run.created_at, None)
        of_run = [one for one in found if one.entry.work == run.id]
        of_processes = [one for one in of_run if one.entry.resource in ("training_processor", "memory")]
        evaluation = self._store.evaluations.latest(self._scope, release) if release else None
        gained = () if evaluation is None else _gains(evaluation)
        return TrainingReview(
            run=run.id,
            ended_at=run.ended_at,
            release=release,
            against=None if evaluation is None else evaluation.against,
            worker_micros=_sum(of_run) - _sum(of_processes),
            process_micros=_sum(of_processes),
            evaluation_micros=_sum(
                [one for one in found if one.entry.role == "evaluation" and release and one.entry.release == release]
            ),
            rows=None if evaluation is None else evaluation.rows,
            passed=None if evaluation is None else evaluation.passed,
            gains=gained,
        )

    def _last_training(self, application: str) -> Run | None:
        runs = self._store.runs.list(self._scope, MOST_RUNS, workflow="train", status="succeeded")
        return next((run for run in runs if run.arguments.get("application") == application), None)

    def _releases(
        self, application: str, found: Sequence[Charge], since: datetime, until: datetime
    ) -> tuple[ReleaseReview, ...]:
        seen = [one for one in found if one.entry.role in SEEN_ROLES and one.kind != "saved"]
        summed = summarize(seen, ("release",), self.currency)
        scores = self._scores(application, since, until)
        lines = []
        for line in summed.lines:
            release = line.group["release"]
            scored, accuracy = scores.get(release, (0, None))
            lines.append(ReleaseReview(release, line.micros, line.answers, scored, accuracy))
        return tuple(lines)

    def _scores(self, application: str, since: datetime, until: datetime) -> dict[str, tuple[int, float | None]]:
        try:
            performance = monitor(self._store).performance(self._scope, application, since=since, until=until)
        except (InvalidInputError, NotFoundError):  # It declares no outcome.
            return {}
        return {
            group.value: (group.scores.rows, group.scores.metrics.get("accuracy")) for group in performance.releases
        }


def _sum(found: Sequence[Charge]) -> int:
    return sum(one.micros for one in found if one.kind != "saved")


def _gains(evaluation: Evaluation) -> tuple[MetricGain, ...]:
    def gain(metric: str, estimate: Any) -> MetricGain:
        return MetricGain(metric, estimate.value, estimate.low, estimate.high)

    return tuple(gain(metric, estimate) for metric, estimate in sorted(evaluation.difference.items()))
