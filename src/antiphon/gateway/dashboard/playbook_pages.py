"""The page *Playbooks*: what mends incidents, what it did, and what waits for a person."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from antiphon.catalog.playbooks import incident_of, run_id
from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.gateway.admin.incidents import incidents_of
from antiphon.gateway.dashboard.pages import SAFE, PageCall

_SHOWN = 50


def playbooks(call: PageCall) -> Response:
    """Every playbook, and its runs of late."""
    return _show(call)


def act(call: PageCall) -> Response:
    """Approve or reject a run, or begin one; then the page again, with what was wrong if anything was."""
    call.services.access.authorize(call.principal, "release", "application/*")
    found, who, form = call.services.work.playbooks(call.scope), call.principal.id, call.form
    run, reason = form.get("run", ""), form.get("reason", "")
    try:
        incidents_of(call).require(form.get("incident", "") or incident_of(run))
        if form.get("act") in ("approve", "run"):
            for key in found.keys(run or run_id(form.get("incident", ""), form.get("playbook", ""))):
                call.services.access.authorize(call.principal, "administer", key)
        match form.get("act"):
            case "approve":
                found.approve(run, who, reason)
            case "reject":
                found.reject(run, who, reason)
            case "run":
                found.run(form.get("playbook", ""), form.get("incident", ""), who, reason)
            case other:
                raise InvalidInputError(f"{other!r} is nothing to do.", where="act", next_step="Press a button.")
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse("/playbooks", 303, headers=SAFE)


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    found = call.services.work.playbooks(call.scope)
    return call.render(
        "playbooks.html", problem, page="playbooks", lines=found.list(),
        runs=incidents_of(call).acted(found.runs(limit=_SHOWN)), may=call.may("release", "application/*"),
    )  # fmt: skip
