"""The page *Keys*: API keys of the tenant without their secrets, and revoking one.

Invariant: it is for who may administer keys, as the same over HTTP is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.gateway.dashboard.audit_pages import LONGEST
from antiphon.gateway.dashboard.pages import SAFE, PageCall, required_reason
from antiphon.governance.identity.key_records import KeyRecord

PAGE = 100
KeyState = Literal["valid", "waits", "expired", "revoked", "disabled"]
_STATES: tuple[KeyState, ...] = ("valid", "waits", "expired", "revoked", "disabled")


def keys(call: PageCall) -> Response:
    """Keys of the tenant, the newest first; of one state or with a part of a name, if asked for."""
    call.services.access.authorize(call.principal, "administer", "key/*")
    return _show(call)


def revoke(call: PageCall) -> Response:
    """Revoke a key, for a reason; then the page again, with what was wrong if anything was."""
    key = call.form.get("key", "")
    call.services.access.authorize(call.principal, "administer", f"key/{key}")
    try:
        reason = required_reason(call.form, ("revoke",))
        call.services.access.identity.revoke(call.scope.tenant, key, by=call.principal.id, reason=reason)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse("/keys", 303, headers=SAFE)


def key_state(record: KeyRecord, now: datetime) -> KeyState:
    """The state of a key: only a valid one opens anything."""
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= now:
        return "expired"
    if record.disabled or record.tenant_state != "active":
        return "disabled"
    return "waits" if record.waits else "valid"


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    name, state, now = call.query.get("name", "").strip(), call.query.get("state", ""), call.services.clock.now()
    if state and state not in _STATES:
        raise InvalidInputError(
            f"{state!r} is no state.", where="state", next_step=f"Choose one of {', '.join(_STATES)}."
        )
    if len(name) > LONGEST:
        raise InvalidInputError(f"{len(name)} characters are too many.", where="name", next_step="Write less.")
    every = [(one, key_state(one, now)) for one in call.services.access.identity.list(call.scope.tenant)]
    found = [(one, is_) for one, is_ in every if name.lower() in one.name.lower() and (not state or is_ == state)]
    found.sort(key=lambda item: (item[0].created_at, item[0].id), reverse=True)
    return call.render(
        "keys.html", problem, page="keys", keys=found[:PAGE], found=len(found), total=len(every), most=PAGE,
        name=name, state=state, states=_STATES,
    )  # fmt: skip
