"""Outcomes, and how predictions came true."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.learning.outcomes import OutcomeStatus
from antiphon.core.clock import utc
from antiphon.gateway.admin.shapes import read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.learning.outcomes.drift_report import DriftReport
from antiphon.learning.outcomes.monitoring import PendingOutcome, Performance, SignalRates


class OutcomeQuery(msgspec.Struct, frozen=True):
    """Selects outcomes; ``before`` is an instant of arrival."""

    status: OutcomeStatus | None = None
    before: datetime | None = None
    limit: Few = 50


class PerformanceQuery(msgspec.Struct, frozen=True):
    """Questions as of ``since <= as_of < until``, in event time, by a declared outcome; the first by default."""

    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class PendingQuery(msgspec.Struct, frozen=True):
    """A declared outcome; the first by default."""

    outcome: str | None = None
    limit: Few = 50


class PendingList(msgspec.Struct, frozen=True):
    """Oldest first."""

    predictions: tuple[PendingOutcome, ...]


class SignalList(msgspec.Struct, frozen=True):
    """By signal, newest release first."""

    signals: tuple[SignalRates, ...]


class OutcomeLine(msgspec.Struct, frozen=True):
    """One outcome in a list, without its entity keys."""

    id: str
    outcome: str
    kind: str
    status: str
    value: str
    prediction: str | None
    release: str | None
    role: str | None
    as_of: datetime | None
    available_at: datetime
    created_at: datetime
    probabilities: dict[str, float]
    reference: str
    principal: str


class OutcomeList(msgspec.Struct, frozen=True):
    """Latest first; ``before`` of the next page is the last one's ``created_at``."""

    outcomes: tuple[OutcomeLine, ...]


@operation("GET", "/admin/outcomes/{application}", "List outcomes, latest first.", "read")
def _list(call: OperationCall, query: OutcomeQuery) -> OutcomeList:
    scope, application = call.scope, call.path["application"]
    outcomes, records = call.services.learning.outcomes, call.services.access.records
    found = outcomes.list(scope, application, status=query.status, before=query.before, limit=query.limit)
    return OutcomeList(read_all(records.readable_outcomes(scope, call.principal, application, found), OutcomeLine))


@operation(
    "GET",
    "/admin/outcomes/{application}/performance",
    "How predictions came true: whole, by release, day and slice.",
    "read",
)
def _performance(call: OperationCall, query: PerformanceQuery) -> Performance:
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    since, until = (None if moment is None else utc(moment) for moment in (query.since, query.until))
    return call.services.learning.monitor.performance(
        call.scope, call.path["application"], query.outcome, since=since, until=until
    )


@operation("GET", "/admin/outcomes/{application}/pending", "Predictions without an outcome yet, oldest first.", "read")
def _pending(call: OperationCall, query: PendingQuery) -> PendingList:
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    found = call.services.learning.monitor.pending(
        call.scope, call.path["application"], query.outcome, limit=query.limit
    )
    return PendingList(found)


@operation("GET", "/admin/outcomes/{application}/signals", "What users sent of answers, by signal and release.", "read")
def _signals(call: OperationCall) -> SignalList:
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    return SignalList(call.services.learning.monitor.signals(call.scope, call.path["application"]))


class DriftQuery(msgspec.Struct, frozen=True):
    """``now``: compare now, without texts and metrics, in place of the newest report that the worker has kept."""

    now: bool = False


@operation(
    "GET", "/admin/outcomes/{application}/drift", "What is asked and answered, in the release's first week and now.",
    "read",
)  # fmt: skip
def _drift(call: OperationCall, query: DriftQuery) -> DriftReport:
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    drift, application = call.services.learning.drift, call.path["application"]
    kept = None if query.now else drift.newest(call.scope, application)
    return kept or drift.reader.compare(call.scope, application)
