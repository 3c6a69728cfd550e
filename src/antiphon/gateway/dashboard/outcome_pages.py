"""The pages *Outcomes* (how predictions came true) and *Runs* (what works in the background)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from antiphon.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.gateway.dashboard.plots import by_day
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.learning.registry.card import reliability_plot

STATUSES = ("joined", "late", "duplicate", "contradictory", "unknown")
RUNS = 50


def outcomes(call: PageCall) -> Response:
    """Counts, coverage, measures and drift of one application."""
    known = applications(call)
    application = chosen(known, call.query.get("application") or None)
    found: dict[str, Any] = {"performance": None, "why": None}
    if application is not None:
        try:
            found |= _performance(call, application)
        except (InvalidInputError, NotFoundError, ForbiddenError) as error:
            # It declares none, is applied no more, or is not for this reader: nothing is shown, and what to do is.
            found["why"] = error
    return call.render(
        "outcomes.html", page="outcomes", statuses=STATUSES, applications=known, application=application, **found
    )


def runs(call: PageCall) -> Response:
    """Runs of workflows, newest first."""
    return call.render("runs.html", page="runs", runs=call.services.work.runs.list(call.scope, RUNS))


def run_rows(call: PageCall) -> Response:
    """The same, to be put into the page."""
    return call.render("run_rows.html", runs=call.services.work.runs.list(call.scope, RUNS))


def _performance(call: PageCall, application: str) -> dict[str, Any]:
    call.services.access.records.require_application(call.scope, call.principal, application)
    performance = call.services.learning.monitor.performance(call.scope, application)
    return {
        "performance": performance,
        "drift": call.services.learning.monitor.drift(call.scope, application),
        "releases": {one.id: one for one in call.services.learning.releases.list(call.scope, application)},
        "dots": () if performance.whole is None else reliability_plot(performance.whole.reliability, "came true"),
        "days": by_day(performance.days),
    }
