"""The page *Models*: versions, what they were made from, what they do, and two of them side by side."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.scope import Scope
from antiphon.gateway.admin.evaluations import card_shown, lines_shown
from antiphon.gateway.dashboard.pages import Pages
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.gateway.operation import HtmlPage, page_response
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.learning.registry import card as cards


async def models(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Versions of an application's model."""
    found = await run_in_threadpool(_read, pages.services, scope, who, request.query_params.get("application") or None)
    return pages.render("models.html", 200, page="models", who=who, **found)


async def model(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """One model: figures, gates, lineage."""
    name = str(request.path_params["model"])
    card = await run_in_threadpool(card_shown, pages.services, scope, who, name)
    evaluation = card.evaluation
    return pages.render(
        "model.html",
        page="models",
        who=who,
        name=name,
        card=card,
        version=card.version,
        evaluation=evaluation,
        dots=() if evaluation is None else cards.reliability_plot(evaluation.reliability, "came true"),
        curve=None if card.version is None else cards.loss_curve(card.version.losses),
    )


async def card(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """The card, a page that stands by itself."""
    found = await run_in_threadpool(card_shown, pages.services, scope, who, str(request.path_params["model"]))
    return page_response(HtmlPage(cards.as_html(found), cards.content_security_policy()))


async def compare(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Two models side by side."""
    first, second = (request.query_params.get(name, "") for name in ("a", "b"))
    found = await run_in_threadpool(pages.services.learning.registry.compare, scope, first, second)
    return pages.render("compare.html", page="models", who=who, found=found)


def _read(services: GatewayServices, scope: Scope, who: Principal, selected: str | None) -> dict[str, object]:
    known = applications(services, scope)
    application = chosen(known, selected)
    lines = () if application is None else services.learning.registry.lines(scope, application)
    lines = lines_shown(services, scope, who, lines)
    releases = [] if application is None else services.learning.releases.list(scope, application)
    evaluated = (
        set()
        if application is None
        else {one.release for one in services.learning.evaluations.list(scope, application, None, 1_000)}
    )
    return {
        "applications": known,
        "application": application,
        "lines": lines,
        "releases": {release.id: release for release in releases},
        # A base model has no version: the releases that serve it stand for it.
        "untrained": [
            release for release in releases if release.bundle.model.version is None and release.id in evaluated
        ],
    }
