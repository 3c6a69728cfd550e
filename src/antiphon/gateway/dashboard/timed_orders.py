"""Orders that end by themselves, as pages show them: engines that are drained, applications that answer from store.

Invariant: nobody is shown an order about what policy keeps from them, nor a button for what it would refuse.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.gateway.operation import OperationCall


class TimedOrder(msgspec.Struct, frozen=True):
    """An order: what it is about, since when by the audit log, and whether the reader may end it."""

    name: str
    since: datetime | None
    principal: str
    reason: str
    until: datetime
    may: bool


def engine_drains(call: OperationCall) -> list[TimedOrder]:
    """Drains of engines, for administrators of the tenant that runs the installation."""
    if call.scope.tenant != call.services.settings.project.tenant:
        return []
    found = call.services.work.engines
    drains = [one.drain for one in found.list() if one.drain is not None]
    return [
        TimedOrder(one.engine, found.began(one), one.principal, one.reason, one.until, True)
        for one in drains if call.may("administer", f"process/{one.engine}")
    ]  # fmt: skip


def precomputed_modes(call: OperationCall) -> list[TimedOrder]:
    """Applications that answer from store alone, of those that the reader may read."""
    found = call.services.work.precomputed(call.scope)
    return [
        TimedOrder(
            one.application, found.began(one), one.principal, one.reason, one.until,
            call.may("release", f"application/{one.application}"),
        )
        for one in found.list() if call.may("read", f"application/{one.application}")
    ]  # fmt: skip
