"""The page *Objectives*: whether applications do what they are to do, and their alerts."""

from __future__ import annotations

from starlette.responses import Response

from antiphon.gateway.dashboard.pages import PageCall

_ALERTS = 30


def objectives(call: PageCall) -> Response:
    """Objectives by application, and the latest alerts."""
    found = call.services.work.objectives(call.scope)
    return call.render("objectives.html", page="objectives", objectives=found.list(), alerts=found.alerts(_ALERTS))
