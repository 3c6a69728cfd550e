"""Engines that have joined, and drains of them, for administrators of the tenant that runs the installation."""

from __future__ import annotations

import msgspec

from antiphon.core.errors import ForbiddenError
from antiphon.gateway.admin.shapes import ReasonRequest, TimedRequest
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.engines.drains import EngineDrain, EngineDrains, JoinedEngine


class JoinedEngineList(msgspec.Struct, frozen=True):
    """By name."""

    engines: tuple[JoinedEngine, ...]


class DrainEnd(msgspec.Struct, frozen=True):
    """The drain that was ended; ``null`` where there was none."""

    drain: EngineDrain | None


@operation("GET", "/admin/engines", "List the engines that have joined, with their drains.", "administer")
def _list(call: OperationCall) -> JoinedEngineList:
    return JoinedEngineList(engines_of(call).list())


@operation("POST", "/admin/engines/{engine}/drain", "Give an engine no new request for a time.", "administer")
def _drain(call: OperationCall, body: TimedRequest) -> EngineDrain:
    return engines_of(call).drain(call.principal.id, call.path["engine"], body.reason, body.duration)


@operation("POST", "/admin/engines/{engine}/resume", "Give a drained engine requests again.", "administer")
def _resume(call: OperationCall, body: ReasonRequest) -> DrainEnd:
    return DrainEnd(engines_of(call).resume(call.principal.id, call.path["engine"], body.reason))


def engines_of(call: OperationCall) -> EngineDrains:
    """The drains of engines; raises ``ForbiddenError`` for other tenants: they share the engines, and do not run
    them."""
    if call.scope.tenant != call.services.settings.project.tenant:
        raise ForbiddenError(
            "Engines are of the tenant that runs the installation.",
            where="engines",
            next_step="Ask its administrators.",
        )
    return call.services.work.engines
