"""The page *Models*: versions, what they were made from, what they do, and two of them side by side."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from antiphon.gateway.admin.evaluations import card_shown, lines_shown
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.gateway.operation import HtmlPage
from antiphon.learning.registry import card as cards


def models(call: PageCall) -> Response:
    """Versions of an application's model."""
    learning, known = call.services.learning, applications(call)
    application = chosen(known, call.query.get("application") or None)
    found: dict[str, Any] = {"lines": (), "releases": {}, "untrained": []}
    if application is not None:
        releases = learning.releases.list(call.scope, application)
        evaluated = {one.release for one in learning.evaluations.list(call.scope, application, None, 1_000)}
        found = {
            "lines": lines_shown(call, learning.registry.lines(call.scope, application)),
            "releases": {release.id: release for release in releases},
            # A base model has no version: the releases that serve it stand for it.
            "untrained": [one for one in releases if one.bundle.model.version is None and one.id in evaluated],
        }
    return call.render("models.html", page="models", applications=known, application=application, **found)


def model(call: PageCall) -> Response:
    """One model: figures, gates, lineage."""
    name = call.path["model"]
    card = card_shown(call, name)
    evaluation = card.evaluation
    return call.render(
        "model.html",
        page="models",
        name=name,
        card=card,
        version=card.version,
        evaluation=evaluation,
        dots=() if evaluation is None else cards.reliability_plot(evaluation.reliability, "came true"),
        curve=None if card.version is None else cards.loss_curve(card.version.losses),
    )


def card(call: PageCall) -> Response:
    """The card, a page that stands by itself."""
    found = card_shown(call, call.path["model"])
    return HtmlPage(cards.as_html(found), cards.content_security_policy())


def compare(call: PageCall) -> Response:
    """Two models side by side."""
    first, second = (call.query.get(name, "") for name in ("a", "b"))
    return call.render(
        "compare.html", page="models", found=call.services.learning.registry.compare(call.scope, first, second)
    )
