"""The page *Schedules*: work that happens by itself, and the times in which none begins."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from starlette.responses import RedirectResponse, Response

from antiphon.catalog.run_holds import RunHold
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.definitions.workflows import EXPENSIVE
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason
from antiphon.gateway.dashboard.timeline import HOUR, WorkTimeline, bars_of, timeline
from antiphon.services.conducting.traffic import HourlyLoad
from antiphon.services.conducting.upcoming import UpcomingWork
from antiphon.services.conducting.windows import WindowOccurrence, held_work

_SPANS = {"6h": timedelta(hours=6), "1d": timedelta(days=1), "3d": timedelta(days=3)}
"""Time behind and ahead of now that the timeline shows."""

_RUNS = 100
_REQUESTS = "antiphon_requests"


def schedules(call: PageCall) -> Response:
    """Schedules with what each waits for, declared windows, and freezes."""
    return _show(call)


def act(call: PageCall) -> Response:
    """Freeze, end a freeze, pause or resume a schedule; then the page again, with what was wrong if anything was."""
    call.services.access.authorize(call.principal, "release", "application/*")
    found, who, form = call.services.work.schedules(call.scope), call.principal.id, call.form
    try:
        if form.get("act") == "resume":
            found.resume(who, form.get("name", ""))
        elif form.get("act") == "thaw":
            found.thaw(who, form.get("name", ""))
        else:
            reason = required_reason(form, ("freeze", "pause"))
            if form["act"] == "freeze":
                found.freeze(who, reason, _until(call))
            else:
                found.pause(who, form.get("name", ""), reason, _until(call))
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse("/schedules", 303, headers=SAFE)


def _until(call: PageCall) -> datetime:
    return call.services.clock.now() + parse_duration(call.form.get("for", ""))


def _timeline(
    call: PageCall, span: timedelta, forecast: Sequence[HourlyLoad], upcoming: Sequence[UpcomingWork],
    holds: Sequence[RunHold], windows: Sequence[WindowOccurrence],
) -> WorkTimeline:  # fmt: skip
    services, now = call.services, call.services.clock.now()
    begins = now.replace(minute=0, second=0, microsecond=0) - span
    history = services.metric_history.window(call.scope.tenant, now - begins, None, {_REQUESTS})
    counts = history.columns(_REQUESTS, "total", where={"path": "online"})
    measured: dict[datetime, float] = {}
    for at, value in zip(counts.at, counts.lines[0].values if counts.lines else (), strict=False):
        if value is not None:
            hour = at.replace(minute=0, second=0, microsecond=0)
            measured[hour] = measured.get(hour, 0.0) + value
    held = [(one.begins, one.until, f"{one.kind} {one.name}: {one.reason}") for one in holds]
    held += [(one.begins, one.until, f"window {one.window.name}") for one in windows]
    runs = services.work.runs.list(call.scope, _RUNS)
    return timeline(now, span, measured, forecast, bars_of(runs, upcoming, now), held)


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    found = call.services.work.schedules(call.scope)
    span = call.query.get("span") or "1d"
    if span not in _SPANS:
        raise InvalidInputError(f"{span!r} is no span.", where="span", next_step=f"Choose one of {', '.join(_SPANS)}.")
    upcoming, holds = found.upcoming(), found.holds()
    windows, forecast = found.windows(), found.forecast(int(_SPANS[span] / HOUR))
    return call.render(
        "schedules.html",
        problem,
        page="schedules",
        reason=call.form.get("reason", ""),
        schedules=found.list(),
        windows=windows,
        holds=[(hold, held_work(hold.workflows)) for hold in holds],
        upcoming=upcoming,
        timeline=_timeline(call, _SPANS[span], forecast, upcoming, holds, windows),
        spans=[(name, f"/schedules?span={name}") for name in _SPANS],
        span=span,
        work=EXPENSIVE,
        may=call.may("release", "application/*"),
    )
