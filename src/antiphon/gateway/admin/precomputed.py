"""Applications that answer from store alone for a time."""

from __future__ import annotations

import msgspec

from antiphon.catalog.serving.precomputed_modes import PrecomputedMode
from antiphon.gateway.admin.shapes import ReasonRequest, TimedRequest
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.precomputed import ProjectPrecomputedModes


class PrecomputedModeList(msgspec.Struct, frozen=True):
    """By application."""

    modes: tuple[PrecomputedMode, ...]


class PrecomputedEnd(msgspec.Struct, frozen=True):
    """The mode that was ended; ``null`` where there was none."""

    mode: PrecomputedMode | None


@operation("GET", "/admin/precomputed", "List applications that answer from store alone.", "read")
def _list(call: OperationCall) -> PrecomputedModeList:
    found = _modes(call).list()
    return PrecomputedModeList(tuple(one for one in found if call.may("read", f"application/{one.application}")))


@operation("POST", "/admin/precomputed/{application}/begin", "Have it answer from store alone for a time.", "release")
def _begin(call: OperationCall, body: TimedRequest) -> PrecomputedMode:
    return _modes(call).begin(call.principal.id, call.path["application"], body.reason, body.duration)


@operation("POST", "/admin/precomputed/{application}/end", "Have it answer as ever.", "release")
def _end(call: OperationCall, body: ReasonRequest) -> PrecomputedEnd:
    return PrecomputedEnd(_modes(call).end(call.principal.id, call.path["application"], body.reason))


def _modes(call: OperationCall) -> ProjectPrecomputedModes:
    return call.services.work.precomputed(call.scope)
