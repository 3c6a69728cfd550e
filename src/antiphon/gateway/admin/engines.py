"""Engines that have joined, and drains of them, for administrators of the tenant that runs the installation."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.core.errors import ForbiddenError
from antiphon.gateway.admin.shapes import ReasonRequest
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.engines.drains import EngineDrain, EngineDrains, JoinedEngine


class JoinedEngineList(msgspec.Struct, frozen=True):
    """By name."""

    engines: tuple[JoinedEngine, ...]


class DrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason, for the record, and after how long the drain ends by itself, such as ``1h``."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    duration: str = "1h"


class DrainEnd(msgspec.Struct, frozen=True):
    """The drain that was ended; ``null`` where there was none."""

    drain: EngineDrain | None


@operation("GET", "/admin/engines", "List the engines that have joined, with their drains.", "administer")
def _list(call: OperationCall) -> JoinedEngineList:
    return JoinedEngineList(_engines(call).list())


@operation("POST", "/admin/engines/{engine}/drain", "Give an engine no new request for a time.", "administer")
def _drain(call: OperationCall, body: DrainRequest) -> EngineDrain:
    return _engines(call).drain(call.principal.id, call.path["engine"], body.reason, body.duration)


@operation("POST", "/admin/engines/{engine}/resume", "Give a drained engine requests again.", "administer")
def _resume(call: OperationCall, body: ReasonRequest) -> DrainEnd:
    return DrainEnd(_engines(call).resume(call.principal.id, call.path["engine"], body.reason))


def _engines(call: OperationCall) -> EngineDrains:
    """Raises ``ForbiddenError`` for other tenants: they share the engines, and do not run them."""
    if call.scope.tenant != call.services.settings.project.tenant:
        raise ForbiddenError(
            "Engines are of the tenant that runs the installation.",
            where="engines",
            next_step="Ask its administrators.",
        )
    return call.services.work.engines
