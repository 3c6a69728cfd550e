"""The pages *Audit* (who saw or changed what, and the checkpoint that proves it) and *Tenants*. They change nothing."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from starlette.responses import Response

from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.gateway.admin.audit import page
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.governance.audit.log import AuditFilter
from antiphon.operations.cost.amounts import decimal_text

PAGE = 50
FIELDS = ("who", "action", "subject", "since", "until", "denied", "before")
LONGEST = 300


def tenants(call: PageCall) -> Response:
    """Tenants with their shares, quotas, budgets, use and grants; to another tenant than the project's its own."""
    call.services.access.authorize(call.principal, "administer", "tenant/*")
    after = call.query.get("after", "")
    uses = call.services.access.tenants.uses(by=call.principal, limit=PAGE + 1, after=after)
    shown, environment = uses[:PAGE], call.scope.environment
    budgets = {one.tenant.id: call.services.work.budgets(Scope(one.tenant.id, environment)).list() for one in shown}
    more = f"/tenants?{urlencode({'after': shown[-1].tenant.id})}" if len(uses) > PAGE else None
    return call.render(
        "tenants.html", page="tenants", uses=shown, budgets=budgets, more=more, first=bool(after), amount=decimal_text
    )


def audit(call: PageCall) -> Response:
    """One page of records, by the filters in the query."""
    call.services.access.authorize(call.principal, "audit", "audit/*")
    trail = call.services.access.trail
    given = {name: call.query.get(name, "").strip() for name in FIELDS}
    found = page(call, filter_of(given))
    older = None
    if found.next is not None:
        chosen = {**given, "before": str(found.next)}
        older = "/audit?" + urlencode({name: value for name, value in chosen.items() if value})
    return call.render(
        "audit.html", page="audit", records=found.records, given=given, older=older,
        checkpoint=trail.checkpoint(call.scope), key=trail.key.verifier(call.scope),
    )  # fmt: skip


def filter_of(given: dict[str, str]) -> AuditFilter:
    """The filter that a form's fields ask for.

    Raises:
        InvalidInputError: a field cannot be read; it is named.
    """
    for name, text in given.items():
        if len(text) > LONGEST:
            raise InvalidInputError(f"{len(text)} characters are too many.", where=name, next_step="Write less.")
    before = given["before"]
    if before and (not before.isdecimal() or len(before) > 18):
        raise InvalidInputError("`before` names no page.", where="before", next_step="Follow the link again.")
    return AuditFilter(
        who=given["who"] or None,
        action=given["action"] or None,
        subject=given["subject"] or None,
        since=_moment("since", given["since"]),
        until=_moment("until", given["until"]),
        denied=given["denied"] == "1",
        before=int(before) if before else None,
        limit=PAGE,
    )


def _moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidInputError(
            f"{text!r} is no time.", where=name, next_step="Write 2026-11-24T08:00 (UTC), or with an offset."
        ) from None
    # A form's field has no zone; the page says UTC beside it.
    return utc(found if found.tzinfo is not None else datetime.fromisoformat(f"{found.isoformat()}+00:00"))
