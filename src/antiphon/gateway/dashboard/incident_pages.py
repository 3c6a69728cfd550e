"""The pages *Incidents*: the list, and one incident with its path of evidence and its timeline."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response

from antiphon.catalog.incidents import IncidentEvidence
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.gateway.admin.incidents import incidents_of
from antiphon.gateway.dashboard.pages import SAFE, PageCall
from antiphon.operations.incidents.course import impact_sentence

_SHOWN = 100


def incidents(call: PageCall) -> Response:
    """Every incident of late, the latest first."""
    found = incidents_of(call).list(limit=_SHOWN)
    return call.render("incidents.html", page="incidents", incidents=found, impact=impact_sentence)


def incident(call: PageCall) -> Response:
    """One incident."""
    return _show(call)


def act(call: PageCall) -> Response:
    """Acknowledge, assign, note, silence or resolve; then the page again, with what was wrong if anything was."""
    call.services.access.authorize(call.principal, "release", "application/*")
    found, who, form = incidents_of(call), call.principal.id, call.form
    id, text = call.path["incident"], form.get("text", "")
    try:
        match form.get("act"):
            case "acknowledge":
                found.acknowledge(id, who)
            case "assign":
                found.assign(id, text, who)
            case "note":
                found.note(id, text, who)
            case "silence":
                found.silence(id, form.get("for", ""), text, who)
            case "resolve":
                found.resolve(id, text, who)
            case other:
                raise InvalidInputError(f"{other!r} is nothing to do.", where="act", next_step="Press a button.")
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse(f"/incidents/{id}", 303, headers=SAFE)


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    readable, id = incidents_of(call), call.path["incident"]
    shown, found = readable.get(id), call.services.work.incidents(call.scope).get(id)
    playbooks = call.services.work.playbooks(call.scope)
    runs = readable.acted(playbooks.runs(incident=found.id))
    decided = {one.playbook for one in runs if one.state not in ("suggested", "waiting")}
    fitting = [one for one in playbooks.fitting(found) if found.active and one.name not in decided]
    return call.render(
        "incident.html", problem, page="incidents", incident=shown, impact=impact_sentence(shown), opens=opens,
        said=readable.said, may=call.may("release", "application/*"), playbook_runs=runs, fitting=fitting,
    )  # fmt: skip


def opens(evidence: IncidentEvidence) -> str:
    """The address at which a person sees what evidence rests on."""
    kind, _, name = evidence.record.partition("/")
    known = {
        "run": "/runs",
        "view": f"/features/{name}",
        "release": "/releases",
        "objective": "/objectives",
        "drift": "/outcomes",
        "applied": "/changes",
    }
    if kind in known:
        return known[kind]
    if evidence.measure:
        parts = {"by": "", "where": evidence.where, "span": "1h"}
        return f"/admin/history/{evidence.measure}?" + urlencode({n: v for n, v in parts.items() if v})
    return "/"
