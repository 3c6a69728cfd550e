"""Schedules, windows and freezes: work that happens by itself, and times in which none begins."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.definitions.schedules import WorkClass
from antiphon.gateway.admin.shapes import Reason, ReasonRequest, RunLine, run_lines
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.conducting.schedule_lines import ScheduleLine
from antiphon.services.conducting.schedules import MOST_SLOTS, ProjectSchedules
from antiphon.services.conducting.traffic import HourlyLoad
from antiphon.services.conducting.upcoming import UpcomingWork
from antiphon.services.conducting.windows import WindowOccurrence


class ScheduleList(msgspec.Struct, frozen=True):
    """By name."""

    schedules: tuple[ScheduleLine, ...]


class WindowList(msgspec.Struct, frozen=True):
    """By beginning."""

    windows: tuple[WindowOccurrence, ...]


class HoldList(msgspec.Struct, frozen=True):
    """By beginning."""

    freezes: tuple[RunHold, ...]


class UpcomingList(msgspec.Struct, frozen=True):
    """By the earliest beginning; what runs is first, and what waits for events last."""

    work: tuple[UpcomingWork, ...]


class ForecastList(msgspec.Struct, frozen=True):
    """By the hour from the present one on; none before there was a day of requests."""

    hours: tuple[HourlyLoad, ...]


class ForecastQuery(msgspec.Struct, frozen=True):
    """So many hours ahead."""

    hours: Annotated[int, msgspec.Meta(ge=1, le=168)] = 24


class PauseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pause until a moment, with the reason, for the record."""

    reason: Reason
    until: Annotated[datetime, msgspec.Meta(tz=True)]


class FreezeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A freeze until a moment, with the reason, for the record.

    Attributes:
        work: classes of work; by default all but refreshes.
        begins: by default now.
        slots: so many of these runs may be under way at once, which makes it a limit.
    """

    reason: Reason
    until: Annotated[datetime, msgspec.Meta(tz=True)]
    work: tuple[WorkClass, ...] = ()
    begins: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    slots: Annotated[int, msgspec.Meta(ge=0, le=MOST_SLOTS)] = 0


def _schedules(call: OperationCall) -> ProjectSchedules:
    return call.services.work.schedules(call.scope)


@operation("GET", "/admin/schedules", "List schedules, with what each waits for.", "read")
def _list(call: OperationCall) -> ScheduleList:
    return ScheduleList(_schedules(call).list())


@operation("POST", "/admin/schedules/{schedule}/pause", "Let a schedule order nothing for a while.", "release")
def _pause(call: OperationCall, body: PauseRequest) -> ScheduleRecord:
    return _schedules(call).pause(call.principal.id, call.path["schedule"], body.reason, body.until)


@operation("POST", "/admin/schedules/{schedule}/resume", "End a schedule's pause.", "release")
def _resume(call: OperationCall) -> ScheduleRecord:
    return _schedules(call).resume(call.principal.id, call.path["schedule"])


@operation("GET", "/admin/schedules-forecast", "Requests that each hour is expected to bring.", "read")
def _forecast(call: OperationCall, query: ForecastQuery) -> ForecastList:
    return ForecastList(_schedules(call).forecast(query.hours))


@operation("GET", "/admin/runs-plan", "List work that is under way and to come, by when it can begin.", "read")
def _plan(call: OperationCall) -> UpcomingList:
    return UpcomingList(_schedules(call).upcoming())


@operation("GET", "/admin/windows", "List declared windows as they come, three days ahead.", "read")
def _windows(call: OperationCall) -> WindowList:
    return WindowList(_schedules(call).windows())


@operation("GET", "/admin/freezes", "List freezes, limits and blackouts that are not over.", "read")
def _holds(call: OperationCall) -> HoldList:
    return HoldList(_schedules(call).holds())


@operation(
    "POST", "/admin/freezes", "Let no expensive work begin until a moment, or so much at once.", "release", status=201
)
def _freeze(call: OperationCall, body: FreezeRequest) -> RunHold:
    who, found = call.principal.id, _schedules(call)
    return found.freeze(who, body.reason, body.until, body.work, body.begins, slots=body.slots)


@operation("POST", "/admin/freezes/{hold}/end", "End a freeze or limit before its time.", "release")
def _thaw(call: OperationCall) -> RunHold:
    return _schedules(call).thaw(call.principal.id, call.path["hold"])


@operation("POST", "/admin/runs/{run}/exempt", "Let one run go past freezes and blackouts.", "administer")
def _exempt(call: OperationCall, body: ReasonRequest) -> RunLine:
    run = call.path["run"]
    _schedules(call).exempt(call.principal.id, run, body.reason)
    return run_lines([call.services.work.runs.get(call.scope, run)], {})[0]
