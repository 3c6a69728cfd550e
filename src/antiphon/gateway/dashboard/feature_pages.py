"""The page *Features*: how fresh each view is, what the gates said, and two versions of one side by side."""

from __future__ import annotations

from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.features.offline.history import StatisticsDifference
from antiphon.gateway.admin.publications import view_statuses
from antiphon.gateway.admin.views import description, difference, history
from antiphon.gateway.dashboard.histograms import histogram, quality_over_time
from antiphon.gateway.dashboard.pages import SAFE, PageCall
from antiphon.gateway.http.bounds import whole_number

_VERSIONS = 30


def views(call: PageCall) -> Response:
    """The status of every view."""
    return call.render("features.html", page="features", views=view_statuses(call))


def view(call: PageCall) -> Response:
    """One view: what is served, what the gates said, statistics, history."""
    return _show(call)


def act(call: PageCall) -> Response:
    """Take the view back, hold it or let it go on, with a reason; then the page again, with what was wrong if anything
    was."""
    name = call.path["view"]
    try:
        call.services.access.authorize(call.principal, "publish", f"view/{name}")
        _act(call, name)
    except AntiphonError as error:
        return _show(call, error)
    return RedirectResponse(f"/features/{quote(name, safe='')}", 303, headers=SAFE)


def _act(call: PageCall, view: str) -> None:
    rollback, form, who = call.services.features.rollback, call.form, call.principal.id
    reason = form.get("reason", "")
    match form.get("act"):
        case "rollback":
            to, hold, seen = form.get("to") or None, form.get("hold") == "yes", whole_number(form.get("seen", ""))
            rollback.view(call.scope, view, to, reason=reason, principal=who, hold=hold, seen=seen)
        case "hold":
            rollback.hold(call.scope, view, reason=reason, principal=who)
        case "resume":
            rollback.resume(call.scope, view, reason=reason, principal=who)
        case other:
            raise InvalidInputError(f"{str(other)[:40]!r} is nothing that can be done to a view.", where="act")


def _show(call: PageCall, problem: AntiphonError | None = None) -> Response:
    features, name = call.services.features, call.path["view"]
    shown = description(call, name)
    lines = history(call, name, _VERSIONS)
    current = shown.current
    statistics = () if current is None else current.statistics.items()
    publication = features.publications.current(call.scope)
    made = [line for line in lines if line.snapshot is not None]
    served = {line.snapshot: line for line in made if line.outcome != "blocked"}
    return call.render(
        "view.html",
        problem,
        page="features",
        reason=call.form.get("reason", ""),
        publication=publication.number if publication is not None else None,
        held=features.rollback.held(call.scope).get(name),
        may=current is not None and call.may("publish", f"view/{name}"),
        earlier=[line for line in served.values() if not line.current],
        shown=shown,
        current=current,
        lines=lines,
        fresh=[one for one in features.freshness(call.scope) if one.view == name],
        plots=[
            (feature, found, histogram(StatisticsDifference(feature, None, found))) for feature, found in statistics
        ],
        over_time=quality_over_time(lines),
        made=made,
    )


def diff(call: PageCall) -> Response:
    """Two versions: the definition, and every feature's and column's distribution."""
    found = difference(call, call.query.get("before", ""), call.query.get("after", ""))
    parts = [
        (title, [(one, histogram(one)) for one in differences])
        for title, differences in (("Features", found.features), ("Columns of the source", found.columns))
    ]
    return call.render("view_diff.html", page="features", found=found, parts=parts)
