"""The page *Releases*: what is live, what is on its way beside it, and a hand on both.

Invariant: everything that changes something goes through the same transitions as the API, under the same policy; a
button pressed on a page that is older than the last move is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.admin import release_shapes
from antiphon.gateway.admin.releases import differing, listed
from antiphon.gateway.admin.rollouts import USERS, detail
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.gateway.dashboard.rollout_view import RolloutView, revision, view
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal

JUDGEMENTS = 1_000
"""The last so many are plotted."""

ACTS = ("hold", "resume", "undo", "rollback")


async def releases(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """One application's releases."""
    return await _show(pages, who, scope, request.query_params.get("application") or None)


async def rollout(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """The rollout of an application, to be put into the page; tells the page to reload once it was moved."""
    services, application = pages.services, request.query_params.get("application", "")
    shown = await run_in_threadpool(_rollout, services, scope, application)
    if (shown.revision if shown is not None else "none") != request.query_params.get("seen"):
        return Response(status_code=200, headers={**SAFE, "hx-refresh": "true"}, media_type="text/html")
    if shown is None:
        return Response(status_code=204, headers=SAFE)  # nothing to put into the page
    return pages.render("rollout.html", shown=shown)


async def act(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Hold, resume, undo or roll back, with a reason; then the page again, with what was wrong if anything was."""
    form = {
        name: values[0].strip()
        for name, values in parse_qs((await incoming.body(request, 10_000)).decode(errors="replace")).items()
    }
    application = form.get("application", "")
    try:
        await run_in_threadpool(pages.services.access.authorize, who, "release", f"release/{application}")
        await run_in_threadpool(_act, pages.services, scope, who.id, form)
    except AntiphonError as error:
        return await _show(pages, who, scope, application or None, problem=error, reason=form.get("reason", ""))
    return RedirectResponse(f"/releases?application={quote(application)}", 303, headers=SAFE)


async def diff(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Two releases by field."""
    before, after = (request.query_params.get(name, "") for name in ("before", "after"))
    found = await run_in_threadpool(differing, pages.services, scope, before, after)
    names = await run_in_threadpool(
        lambda: tuple(pages.services.learning.releases.get(scope, release) for release in (before, after))
    )
    return pages.render("diff.html", page="releases", who=who, found=found, before=names[0], after=names[1])


def applications(services: GatewayServices, scope: Scope) -> list[str]:
    """Names of the applications that have a release."""
    return sorted({release.bundle.application.name for release in services.learning.releases.list(scope)})


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


async def _show(
    pages: Pages,
    who: Principal,
    scope: Scope,
    selected: str | None,
    problem: AntiphonError | None = None,
    reason: str = "",
) -> Response:
    found = await run_in_threadpool(_read, pages.services, who, scope, selected)
    code = 200 if problem is None else problem.http_status
    return pages.render("releases.html", code, page="releases", who=who, problem=problem, reason=reason, **found)


def _read(services: GatewayServices, who: Principal, scope: Scope, selected: str | None) -> dict[str, object]:
    known = applications(services, scope)
    application = chosen(known, selected)
    found: dict[str, object] = {"applications": known, "application": application}
    if application is None:
        return found
    lines = listed(services, scope, application).releases
    history = services.learning.releases.history(scope, application)
    changes = services.learning.changelog.of(scope, application)
    shown = _rollout(services, scope, application)
    return {
        **found,
        "releases": lines,
        "live": next((line for line in lines if line.live), None),
        "since": history[-1] if history else None,
        "named": {line.id: line for line in lines},
        "changes": [release_shapes.ChangeLine(one.at, one.principal, one.release, one.sentence) for one in changes][
            ::-1
        ],
        "shown": shown,
        "may": _may(services.access.authorize, who, application),
    }


def _rollout(services: GatewayServices, scope: Scope, application: str) -> RolloutView | None:
    """The rollout under way, else the last one."""
    learning = services.learning
    found = next(iter(learning.rollouts.list(scope, application, 1)), None)
    if found is None:
        return None
    moves = learning.rollouts.moves(scope, found.id)
    return view(found, detail(services, scope, found.id, JUDGEMENTS, USERS), moves)


def _may(authorize: Callable[[Principal, str, str], object], who: Principal, application: str) -> bool:
    try:
        authorize(who, "release", f"release/{application}")
    except ForbiddenError:
        return False
    return True


def _act(services: GatewayServices, scope: Scope, principal: str, form: dict[str, str]) -> None:
    selected, application, reason = (form.get(name, "") for name in ("act", "application", "reason"))
    if selected not in ACTS:
        raise InvalidInputError(f"{selected!r} is nothing to do.", where="act", next_step="Press one of the buttons.")
    if not reason:
        raise InvalidInputError(
            "There is no reason.", where="reason", next_step="Say why: it is kept with what was done."
        )
    learning, transitions = services.learning, services.learning.transitions
    active = learning.rollouts.active(scope, application)
    live = services.learning.releases.live(scope, application)
    # What one saw when one pressed: another rollout, step or live release now is another decision.
    if form.get("seen") != revision(active) or form.get("live") != (live.id if live is not None else ""):
        raise ConflictError(
            "Something moved since this page was loaded.",
            where=application,
            next_step="Look at it as it is now, and decide again.",
        )
    if selected == "rollback":
        transitions.rollback(scope, application, principal=principal, reason=reason)
        return
    if active is None:
        raise ConflictError(
            f"No rollout of {application!r} is under way.", where=application, next_step="There is nothing to do."
        )
    if selected == "undo":
        transitions.undo(scope, active.id, principal=principal, reason=reason, expected=(active.state, active.step))
    elif selected == "hold":
        transitions.hold(scope, active.id, principal=principal, reason=reason)
    else:
        transitions.resume(scope, active.id, principal=principal, reason=reason)
