"""Pages about models, outcomes and runs."""

from __future__ import annotations

from typing import Any

from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.gateway.admin.evaluations import card_shown, lines_shown
from antiphon.gateway.admin.shapes import run_lines
from antiphon.gateway.dashboard.pages import SAFE, PageCall
from antiphon.gateway.dashboard.plots import by_day
from antiphon.gateway.dashboard.release_pages import applications, chosen
from antiphon.gateway.operation import HtmlPage
from antiphon.learning.registry import card as cards
from antiphon.learning.registry.card import reliability_plot


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


STATUSES = ("joined", "late", "duplicate", "contradictory", "unknown")
LATEST = 20
KINDS = {
    "label": "Labels", "number": "Numbers", "reference": "Reference texts", "correction": "Corrected outputs",
    "signal": "Signals", "thumbs": "Thumbs", "text": "Remarks",
}  # fmt: skip
"""Kinds of outcomes in a reader's words."""
RUNS = 50
_REASON = "on the page Runs"


def outcomes(call: PageCall) -> Response:
    """Counts, coverage, measures, signals and drift of one application, and the outcomes that came last."""
    known = applications(call)
    application = chosen(known, call.query.get("application") or None)
    found: dict[str, Any] = {
        "performance": None, "drift": None, "signals": (), "declared_signals": (), "latest": (), "why": None
    }  # fmt: skip
    if application is not None:
        try:
            records, learning = call.services.access.records, call.services.learning
            records.require_application(call.scope, call.principal, application)
            drift = learning.drift
            found["drift"] = drift.newest(call.scope, application) or drift.reader.compare(call.scope, application)
            found["releases"] = {one.id: one for one in learning.releases.list(call.scope, application)}
            found["signals"] = learning.monitor.signals(call.scope, application)
            found["declared_signals"] = learning.monitor.applications(call.scope, application).signals or ()
            latest = learning.outcomes.list(call.scope, application, limit=LATEST)
            found["latest"] = records.readable_outcomes(call.scope, call.principal, application, latest)
            found |= _performance(call, application, call.query.get("outcome") or None)
        except (InvalidInputError, NotFoundError, ForbiddenError) as error:
            # It declares no outcome, is applied no more, or is not for this reader: what to do is shown.
            found["why"] = error
    return call.render(
        "outcomes.html",
        page="outcomes",
        statuses=STATUSES,
        kinds=KINDS,
        applications=known,
        application=application,
        **found,
    )


def runs(call: PageCall) -> Response:
    """Runs of workflows, newest first."""
    return call.render("runs.html", page="runs", **_runs(call))


def move_run(call: PageCall) -> Response:
    """Queue a run again that failed, pause or resume one; then the page again, with what was wrong if anything was."""
    runs, run, move = call.services.work.runs, call.form.get("run", ""), call.form.get("move", "retry")
    try:
        if move == "pause":
            runs.pause(call.scope, run, call.principal, _REASON)
        elif move == "resume":
            runs.resume(call.scope, run, call.principal)
        else:
            runs.retry(call.scope, run, call.principal, _REASON)
    except ForbiddenError:
        raise
    except AntiphonError as error:
        return call.render("runs.html", error, page="runs", **_runs(call))
    return RedirectResponse("/runs", 303, headers=SAFE)


def run_rows(call: PageCall) -> Response:
    """The same, to be put into the page."""
    return call.render("run_rows.html", **_runs(call))


def _runs(call: PageCall) -> dict[str, Any]:
    runs = call.services.work.runs
    found = runs.list(call.scope, RUNS)
    lines = run_lines(found, runs.waits(call.scope, found))
    return {"runs": lines, "moves": runs.moves(call.scope, found, call.principal)}


def _performance(call: PageCall, application: str, outcome: str | None) -> dict[str, Any]:
    performance = call.services.learning.monitor.performance(call.scope, application, outcome)
    whole = performance.whole
    shown = [
        name
        for name in ("auc", "brier", "mae", "chrf", "rouge_l", "field_f1")
        if whole is not None and name in whole.metrics
    ]
    return {
        "performance": performance,
        "dots": () if whole is None else reliability_plot(whole.reliability, "came true"),
        "days": by_day(performance.days, shown),
        "deciding": next((name for name in ("brier", "mae", "chrf", "field_f1") if name in shown), ""),
    }
