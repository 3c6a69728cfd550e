"""Counts of bad requests and of bad time for each objective, read from the history once and then kept up with it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from antiphon.catalog.measurements import Amounts, MeasurementRows
from antiphon.core.clock import parse_duration
from antiphon.core.histograms import within
from antiphon.definitions.objectives import ObjectiveSpec
from antiphon.operations.history.measures import MEASURES
from antiphon.operations.objectives.burn import RULES, CountHistory, Counts

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

_FINE = max(rule.long for rule in RULES)
_AGAIN = {MINUTE: timedelta(minutes=5), HOUR: HOUR}
"""The last periods are read again: more may have come to them."""

_TIMED = {"first_byte": "antiphon_first_byte_seconds", "latency": "antiphon_answer_seconds"}
_MEASURES = {"antiphon_requests", "antiphon_application_stale", *_TIMED.values()}


class ObjectiveCounts:
    """Counts of one tenant's objectives, by the minute and by the hour."""

    def __init__(self, rows: MeasurementRows, tenant: str) -> None:
        self._rows = rows
        self._tenant = tenant
        self._counts: dict[timedelta, dict[ObjectiveSpec, dict[datetime, Counts]]] = {MINUTE: {}, HOUR: {}}
        self._until: dict[timedelta, datetime] = {}

    def read(self, objectives: Iterable[ObjectiveSpec], now: datetime) -> None:
        """Take in what has been measured up to a moment. An objective that is new is read from its window's begin."""
        listed = list(objectives)
        longest = max((parse_duration(one.window) for one in listed), default=HOUR)
        for period, span in ((MINUTE, _FINE), (HOUR, longest)):
            counts = self._counts[period]
            known = counts.keys() >= set(listed) and period in self._until
            since = now - span
            if known:
                since = max(since, self._until[period] - _AGAIN[period])
            measured = self._rows.read(self._tenant, period, since, now, _MEASURES)
            for objective in listed:
                of_objective = counts.setdefault(objective, {})
                of_objective |= {start: counted(objective, one) for start, one in measured.items()}
                for old in [start for start in of_objective if start < now - span]:
                    del of_objective[old]
            for gone in counts.keys() - set(listed):
                del counts[gone]
            self._until[period] = now

    def of(self, objective: ObjectiveSpec) -> CountHistory:
        """Those of an objective."""
        fine, coarse = (self._counts[period].get(objective, {}) for period in (MINUTE, HOUR))
        return CountHistory(fine, coarse, "time" if objective.kind == "freshness" else "events")


def counted(objective: ObjectiveSpec, measured: Amounts) -> Counts:
    """The counts of an objective in one period."""
    bad = total = 0.0
    application = objective.application
    if objective.kind == "freshness":
        for (name, labels), amount in measured.items():
            if name == "antiphon_application_stale" and labels == (application,):
                bad, total = bad + amount.total, total + amount.weight
        return Counts(bad, total)
    for (name, labels), amount in measured.items():
        if labels[:2] != (application, "online"):
            continue
        if objective.kind == "errors" and name == "antiphon_requests":
            fault = MEASURES[name].aligned(labels)[3]
            bad += amount.total if fault == "platform" else 0.0
            total += amount.total if fault != "caller" else 0.0
        elif name == _TIMED.get(objective.kind):
            assert objective.within is not None
            bad += amount.weight - within(amount.buckets, parse_duration(objective.within).total_seconds())
            total += amount.weight
    return Counts(bad, total)
