"""The page *Releases*: what is live, what is on its way beside it, and a hand on both.

Invariant: everything that changes something goes through the same transitions as the API, under the same policy; a
button pressed on a page that is older than the last move is refused.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, NotFoundError
from antiphon.gateway.admin.releases import differing, listed
from antiphon.gateway.admin.rollouts import USERS, detail
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason
from antiphon.gateway.dashboard.rollout_view import RolloutView, revision, view
from antiphon.gateway.dashboard.timed_orders import precomputed_modes

JUDGEMENTS = 1_000
"""The last so many are plotted."""

DECISIONS = 10
"""Decisions about live releases that are shown."""

ACTS = ("hold", "resume", "undo", "rollback")


def releases(call: PageCall) -> Response:
    """One application's releases."""
    return _show(call, call.query.get("application") or None)


def rollout(call: PageCall) -> Response:
    """The rollout of an application, to be put into the page; tells the page to reload once it was moved."""
    shown = _rollout(call, call.query.get("application", ""))
    if (shown.revision if shown is not None else "none") != call.query.get("seen"):
        return Response(status_code=200, headers={**SAFE, "hx-refresh": "true"}, media_type="text/html")
    if shown is None:
        return Response(status_code=204, headers=SAFE)  # nothing to put into the page
    return call.render("rollout.html", shown=shown)


def act(call: PageCall) -> Response:
    """Hold, resume, undo or roll back, with a reason; then the page again, with what was wrong if anything was."""
    application = call.form.get("application", "")
    try:
        call.services.access.authorize(call.principal, "release", f"release/{application}")
        _act(call, application)
    except AntiphonError as error:
        return _show(call, application or None, error)
    return RedirectResponse(f"/releases?application={quote(application)}", 303, headers=SAFE)


def end_precomputed(call: PageCall) -> Response:
    """Have an application answer as ever, for a reason; then the page again, with what was wrong if anything was."""
    application, who = call.form.get("application", ""), call.principal
    try:
        call.services.access.authorize(who, "release", f"application/{application}")
        reason = required_reason(call.form, ("end",))
        call.services.work.precomputed(call.scope).end(who.id, application, reason)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, None, error)
    return RedirectResponse("/releases", 303, headers=SAFE)


def diff(call: PageCall) -> Response:
    """Two releases by field."""
    before, after = (
        call.services.learning.releases.get(call.scope, call.query.get(name, "")) for name in ("before", "after")
    )
    return call.render("diff.html", page="releases", found=differing(before, after), before=before, after=after)


def applications(call: PageCall) -> list[str]:
    """Names of the applications that have a release."""
    return sorted({release.bundle.application.name for release in call.services.learning.releases.list(call.scope)})


def chosen(known: list[str], selected: str | None) -> str | None:
    """The application that a page is about: the one asked for, else the first.

    Raises:
        NotFoundError: the one asked for has no release.
    """
    if selected is not None and selected not in known:
        raise NotFoundError(
            f"There is no application {selected!r} with a release.",
            where="application",
            next_step=f"Choose one of {', '.join(known) or 'none yet'}.",
        )
    return selected or (known[0] if known else None)


def _show(call: PageCall, selected: str | None, problem: AntiphonError | None = None) -> Response:
    known = applications(call)
    application = chosen(known, selected)
    found: dict[str, Any] = {}
    if application is not None:
        learning = call.services.learning
        lines = listed(call, application).releases
        history = learning.releases.history(call.scope, application)
        found = {
            "releases": lines,
            "live": next((line for line in lines if line.live), None),
            "since": history[-1] if history else None,
            "check": next((one for one in learning.gates(call.scope) if one.application == application), None),
            "ungated": _ungated(call, application),
            "changes": learning.changelog.of(call.scope, application)[::-1],
            "shown": _rollout(call, application),
            "watch": call.services.work.watches(call.scope).live(application),
            "decisions": call.services.work.watches(call.scope).decisions(application, DECISIONS),
            "may": call.may("release", f"release/{application}"),
        }
    reason = call.form.get("reason", "")
    return call.render(
        "releases.html", problem, page="releases", reason=reason, applications=known, application=application,
        modes=precomputed_modes(call), **found,
    )  # fmt: skip


def _ungated(call: PageCall, application: str) -> str | None:
    """The declared reason of the live release for having passed no gates."""
    live = call.services.learning.releases.live(call.scope, application)
    declared = None if live is None else live.bundle.application.ungated
    return declared.reason if declared else None


def _rollout(call: PageCall, application: str) -> RolloutView | None:
    """The rollout under way, else the last one."""
    found = next(iter(call.services.learning.rollouts.list(call.scope, application, 1)), None)
    return None if found is None else view(detail(call, found.id, JUDGEMENTS, USERS))


def _act(call: PageCall, application: str) -> None:
    reason = required_reason(call.form, ACTS)
    learning, transitions, who = call.services.learning, call.services.learning.transitions, call.principal.id
    active = learning.rollouts.active(call.scope, application)
    live = learning.releases.live(call.scope, application)
    # What one saw when one pressed: another rollout, step or live release now is another decision.
    if call.form.get("seen") != revision(active) or call.form.get("live") != (live.id if live is not None else ""):
        raise ConflictError(
            "Something moved since this page was loaded.",
            where=application,
            next_step="Look at it as it is now, and decide again.",
        )
    if call.form["act"] == "rollback":
        transitions.rollback(call.scope, application, principal=who, reason=reason)
        return
    if active is None:
        raise ConflictError(
            f"No rollout of {application!r} is under way.", where=application, next_step="There is nothing to do."
        )
    if call.form["act"] == "undo":
        expected = (active.state, active.step)
        transitions.undo(call.scope, active.id, principal=who, reason=reason, expected=expected)
    elif call.form["act"] == "hold":
        transitions.hold(call.scope, active.id, principal=who, reason=reason)
    else:
        transitions.resume(call.scope, active.id, principal=who, reason=reason)
