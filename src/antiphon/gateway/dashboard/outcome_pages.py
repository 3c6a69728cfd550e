"""The pages *Outcomes* (how predictions came true) and *Runs* (what works in the background)."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.gateway.admin import shapes
from antiphon.gateway.dashboard.pages import Pages
from antiphon.gateway.dashboard.plots import by_day
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.learning.registry.card import reliability_plot

STATUSES = ("joined", "late", "duplicate", "contradictory", "unknown")
RUNS = 50


async def outcomes(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Counts, coverage, measures and drift of one application."""
    selected = request.query_params.get("application") or None
    found = await run_in_threadpool(_read, pages.services, scope, who, selected)
    return pages.render("outcomes.html", 200, page="outcomes", who=who, statuses=STATUSES, **found)


async def runs(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Runs of workflows, newest first."""
    return pages.render("runs.html", page="runs", who=who, runs=await _runs(pages, scope))


async def run_rows(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """The same, to be put into the page."""
    return pages.render("run_rows.html", runs=await _runs(pages, scope))


async def _runs(pages: Pages, scope: Scope) -> tuple[shapes.RunLine, ...]:
    found = await run_in_threadpool(pages.services.work.runs.list, scope, RUNS)
    return shapes.read_all(found, shapes.RunLine)


def _read(services: GatewayServices, scope: Scope, who: Principal, selected: str | None) -> dict[str, object]:
    known = applications(services, scope)
    application = chosen(known, selected)
    found: dict[str, object] = {"applications": known, "application": application, "performance": None, "why": None}
    if application is None:
        return found
    try:
        services.access.records.require_application(scope, who, application)
        performance = services.learning.monitor.performance(scope, application)
        drift = services.learning.monitor.drift(scope, application)
    except (InvalidInputError, NotFoundError, ForbiddenError) as error:
        # It declares no outcome, is applied no more, or is not for this reader: nothing is shown, and what to do is.
        return {**found, "why": error}
    releases = {release.id: release for release in services.learning.releases.list(scope, application)}
    return {
        **found,
        "performance": performance,
        "drift": drift,
        "releases": releases,
        "dots": () if performance.whole is None else reliability_plot(performance.whole.reliability, "came true"),
        "days": by_day(performance.days),
    }
