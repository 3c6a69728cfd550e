"""The page *Policy*: what is in force, what is proposed and what it would change, and a hand on it."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError
from antiphon.gateway.admin.policies import acting, version_number
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason


def policy(call: PageCall) -> Response:
    """Versions, the text in force and what a proposal changes."""
    call.services.access.authorize(call.principal, "propose", "policy/*")
    return _show(call, call.query.get("version", ""))


def act(call: PageCall) -> Response:
    """Approve or reject, with a reason; then the page again, with what was wrong if anything was."""
    # Outside of the block below: whoever may not approve does not get the page in the answer either.
    call.services.access.authorize(call.principal, "approve", "policy/*")
    try:
        policies, reason = call.services.access.policies, required_reason(call.form, ("approve", "reject"))
        decide = policies.approve if call.form["act"] == "approve" else policies.reject
        decide(call.scope, _number(call.form.get("number", "")), by=call.principal, reason=reason)
    except AntiphonError as error:
        return _show(call, call.form.get("number", ""), error)
    return RedirectResponse("/policy", 303, headers=SAFE)


def _show(call: PageCall, selected: str, problem: AntiphonError | None = None) -> Response:
    policies = call.services.access.policies
    versions = policies.list(call.scope)
    now = acting(versions)
    proposed = next((version for version in versions if version.state == "proposed"), now)
    chosen = policies.get(call.scope, _number(selected)) if selected else proposed
    return call.render(
        "policy.html",
        problem,
        page="policy",
        reason=call.form.get("reason", ""),
        versions=versions,
        now=now,
        chosen=chosen,
        changes=None if chosen.number == now.number else policies.diff(call.scope, now.number, chosen.document),
        may=call.may("approve", "policy/*"),
    )


def _number(text: str) -> int:
    return version_number(text, "version", "Choose one of the list.")
