"""The page *Schedules*: work that happens by itself, and the times in which none begins."""

from __future__ import annotations

from datetime import datetime

from starlette.responses import RedirectResponse, Response

from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError
from antiphon.definitions.workflows import EXPENSIVE
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason
from antiphon.services.conducting.windows import held_work


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


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    found = call.services.work.schedules(call.scope)
    return call.render(
        "schedules.html",
        problem,
        page="schedules",
        reason=call.form.get("reason", ""),
        schedules=found.list(),
        windows=found.windows(),
        holds=[(hold, held_work(hold.workflows)) for hold in found.holds()],
        upcoming=found.upcoming(),
        forecast=found.forecast(),
        work=EXPENSIVE,
        may=call.may("release", "application/*"),
    )
