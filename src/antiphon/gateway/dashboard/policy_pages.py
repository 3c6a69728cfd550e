"""The page *Policy*: what is in force, what is proposed and what it would change, and a hand on it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.admin.policies import acting
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.versions import PolicyVersion

ACTS = ("approve", "reject")


async def policy(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Versions, the text in force and what a proposal changes."""
    await run_in_threadpool(pages.services.access.authorize, who, "propose", "policy/*")
    return await _show(pages, who, scope, request.query_params.get("version", ""))


async def act(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Approve or reject, with a reason; then the page again, with what was wrong if anything was."""
    # Outside of the block below: whoever may not approve does not get the page in the answer either.
    await run_in_threadpool(pages.services.access.authorize, who, "approve", "policy/*")
    form = {
        name: values[0].strip()
        for name, values in parse_qs((await incoming.body(request, 10_000)).decode(errors="replace")).items()
    }
    try:
        await run_in_threadpool(_act, pages.services, who, scope, form)
    except AntiphonError as error:
        return await _show(pages, who, scope, form.get("number", ""), problem=error, reason=form.get("reason", ""))
    return RedirectResponse("/policy", 303, headers=SAFE)


def _act(services: GatewayServices, who: Principal, scope: Scope, form: dict[str, str]) -> None:
    selected, reason, number = (form.get(name, "") for name in ("act", "reason", "number"))
    if selected not in ACTS:
        raise InvalidInputError(f"{selected!r} is nothing to do.", where="act", next_step="Press one of the buttons.")
    if not reason:
        raise InvalidInputError(
            "There is no reason.", where="reason", next_step="Say why: it is kept with what was done."
        )
    policies = services.access.policies
    (policies.approve if selected == "approve" else policies.reject)(scope, _number(number), by=who, reason=reason)


async def _show(
    pages: Pages,
    who: Principal,
    scope: Scope,
    selected: str,
    problem: AntiphonError | None = None,
    reason: str = "",
) -> Response:
    found = await run_in_threadpool(_read, pages.services, who, scope, selected)
    code = 200 if problem is None else problem.http_status
    return pages.render("policy.html", code, page="policy", who=who, problem=problem, reason=reason, **found)


def _read(services: GatewayServices, who: Principal, scope: Scope, selected: str) -> dict[str, object]:
    policies = services.access.policies
    versions = policies.list(scope)
    now = acting(versions)
    chosen: PolicyVersion = policies.get(scope, _number(selected)) if selected else _latest_proposal(versions) or now
    changes = None if chosen.number == now.number else policies.diff(scope, now.number, chosen.document)
    return {"versions": versions, "now": now, "chosen": chosen, "changes": changes, "may": _may(services, who)}


def _latest_proposal(versions: Sequence[PolicyVersion]) -> PolicyVersion | None:
    return next((version for version in versions if version.state == "proposed"), None)


def _may(services: GatewayServices, who: Principal) -> bool:
    try:
        services.access.authorize(who, "approve", "policy/*")
    except ForbiddenError:
        return False
    return True


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInputError(f"{text!r} is no version.", where="version", next_step="Choose one of the list.")
    return int(text)
