"""The page *Notifications*: what was said, what became of it in each channel, and a test of a channel.

Invariant: the address says all of what is shown, and nothing on the page holds a channel's secret, URL or recipient.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.gateway.dashboard.audit_pages import LONGEST
from antiphon.gateway.dashboard.pages import PageCall, required_reason
from antiphon.gateway.http.bounds import MOST
from antiphon.services.notifications.project_notifications import STATES, DeliveryState

PAGE = 40


def notifications(call: PageCall) -> Response:
    """Notifications, the latest first; of a kind and with a delivery in a state, if asked for."""
    return _show(call)


def notification_rows(call: PageCall) -> Response:
    """The same, to be put into the page."""
    return call.render("notification_rows.html", **_list(call))


def send_test(call: PageCall) -> Response:
    """Send a test to a channel, for a reason; then the page again, with what the receiver answered or was wrong."""
    channel = call.form.get("channel", "")
    call.services.access.authorize(call.principal, "administer", f"notification/{channel}")
    try:
        reason = required_reason(call.form, ("test",))
        reply = call.services.work.notifications(call.scope).test(channel, call.principal, reason)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return _show(call, error)
    return _show(call, said=f"{channel} took it: {reply}.")


def _show(call: PageCall, problem: AntiphonError | None = None, said: str = "") -> Response:
    found = call.services.work.notifications(call.scope)
    return call.render(
        "notifications.html",
        problem,
        page="notifications",
        said=said,
        kinds=found.kinds(),
        states=list(STATES),
        channels=found.channels(),
        may=found.has_channels and call.may("administer", "notification/*"),
        reason=call.form.get("reason", ""),
        tested=call.form.get("channel", ""),
        **_list(call),
    )


def _list(call: PageCall) -> dict[str, Any]:
    kind, before = call.query.get("kind", "").strip(), _number(call.query.get("before", ""))
    if len(kind) > LONGEST:
        raise InvalidInputError(f"{len(kind)} characters are too many.", where="kind", next_step="Write less.")
    state = _state(call.query.get("state", ""))
    readable = call.services.work.notifications(call.scope).of_reader(
        lambda name: call.may("read", f"application/{name}")
    )
    found = readable.page(PAGE, kind=kind, state=state, before=before)
    chosen = {name: value for name, value in (("kind", kind), ("state", state)) if value}
    here = chosen | ({} if before is None else {"before": str(before)})
    return {
        "lines": found.lines,
        "kind": kind,
        "state": state,
        "newest": None if before is None else _address("/notifications", chosen),
        "older": None if found.behind is None else _address("/notifications", {**chosen, "before": str(found.behind)}),
        "part": _address("/dashboard/notifications", here),
    }


def _address(path: str, query: dict[str, str]) -> str:
    return path + (f"?{urlencode(query)}" if query else "")


def _state(text: str) -> DeliveryState | None:
    found = next((name for name in STATES if name == text), None)
    if text and found is None:
        raise InvalidInputError(
            f"{text!r} is no state.", where="state", next_step=f"Choose one of {', '.join(STATES)}."
        )
    return found


def _number(text: str) -> int | None:
    if text and (not text.isdecimal() or int(text[:20]) > MOST):
        raise InvalidInputError("`before` names no notification.", where="before", next_step="Follow the link again.")
    return int(text) if text else None
