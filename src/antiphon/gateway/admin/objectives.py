"""Objectives of applications, their error budgets and alerts."""

from __future__ import annotations

import msgspec

from antiphon.catalog.objective_states import ObjectiveAlert
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.objectives import ObjectiveLine


class ObjectiveList(msgspec.Struct, frozen=True):
    """By name."""

    objectives: tuple[ObjectiveLine, ...]


class AlertList(msgspec.Struct, frozen=True):
    """The latest first."""

    alerts: tuple[ObjectiveAlert, ...]


class AlertQuery(msgspec.Struct, frozen=True):
    """So many alerts."""

    limit: Few = 50


@operation("GET", "/admin/objectives", "List objectives, with what is left of their error budgets.", "read")
def _list(call: OperationCall) -> ObjectiveList:
    return ObjectiveList(call.services.work.objectives(call.scope).list())


@operation("GET", "/admin/objectives-alerts", "List alerts of objectives.", "read")
def _alerts(call: OperationCall, query: AlertQuery) -> AlertList:
    return AlertList(call.services.work.objectives(call.scope).alerts(query.limit))
