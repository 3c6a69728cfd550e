"""Outcomes, and how predictions came true."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.outcomes import OutcomeRecord, OutcomeStatus
from antiphon.core.clock import utc
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.learning.outcomes.monitoring import DriftReport, Performance


class OutcomeQuery(msgspec.Struct, frozen=True):
    """Selects outcomes; ``before`` is an instant of arrival."""

    status: OutcomeStatus | None = None
    before: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class PerformanceQuery(msgspec.Struct, frozen=True):
    """Questions as of ``since <= as_of < until``, in event time."""

    since: datetime | None = None
    until: datetime | None = None


class OutcomeLine(msgspec.Struct, frozen=True):
    """One outcome in a list."""

    id: str
    kind: str
    status: str
    value: str
    prediction: str | None
    release: str | None
    role: str | None
    as_of: datetime | None
    available_at: datetime
    created_at: datetime
    probability: float | None
    positive: bool | None
    reference: str
    principal: str


class OutcomeList(msgspec.Struct, frozen=True):
    """Latest first; ``before`` of the next page is the last one's ``created_at``."""

    outcomes: tuple[OutcomeLine, ...]


def _list(call: OperationCall) -> OutcomeList:
    query: OutcomeQuery = call.query
    found = call.services.learning.outcomes.list(
        call.scope, call.path["application"], status=query.status, before=query.before, limit=query.limit
    )
    readable = call.services.access.records.readable_outcomes(
        call.scope, call.principal, call.path["application"], found
    )
    return OutcomeList(tuple(line(outcome) for outcome in readable))


def _performance(call: OperationCall) -> Performance:
    query: PerformanceQuery = call.query
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    since = None if query.since is None else utc(query.since)
    until = None if query.until is None else utc(query.until)
    return call.services.learning.monitor.performance(call.scope, call.path["application"], since=since, until=until)


def _drift(call: OperationCall) -> DriftReport:
    call.services.access.records.require_application(call.scope, call.principal, call.path["application"])
    return call.services.learning.monitor.drift(call.scope, call.path["application"])


def line(outcome: OutcomeRecord) -> OutcomeLine:
    """An outcome without its entity keys."""
    return msgspec.convert(outcome, OutcomeLine, from_attributes=True)


OPERATIONS = (
    Operation(
        "GET",
        "/admin/outcomes/{application}",
        "List outcomes, latest first.",
        "read",
        OutcomeList,
        _list,
        OutcomeQuery,
    ),
    Operation(
        "GET",
        "/admin/outcomes/{application}/performance",
        "How predictions came true: whole, by release, day and slice.",
        "read",
        Performance,
        _performance,
        PerformanceQuery,
    ),
    Operation(
        "GET",
        "/admin/outcomes/{application}/drift",
        "Printed features and forecasts, then and now.",
        "read",
        DriftReport,
        _drift,
    ),
)
