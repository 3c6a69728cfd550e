"""The page *Features*: how fresh each view is, what the gates said, and two versions of one side by side."""

from __future__ import annotations

from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.features.offline.history import StatisticsDifference
from antiphon.gateway import incoming
from antiphon.gateway.admin.feature_watch import may_publish
from antiphon.gateway.admin.publications import view_statuses
from antiphon.gateway.admin.views import description, difference, history
from antiphon.gateway.bounds import whole_number
from antiphon.gateway.dashboard.histograms import histogram, quality_over_time
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.gateway.dashboard.plots import Plot
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal

_VERSIONS = 30


async def views(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """The status of every view."""
    found = await run_in_threadpool(view_statuses, pages.services, scope, who)
    return pages.render("features.html", page="features", who=who, views=found)


async def view(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """One view: what is served, what the gates said, statistics, history."""
    return await _show(pages, str(request.path_params["view"]), who, scope)


async def act(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Take the view back, hold it or let it go on, with a reason; then the page again, with what was wrong if anything
    was."""
    name = str(request.path_params["view"])
    form = {
        name: values[0].strip()
        for name, values in parse_qs((await incoming.body(request, 10_000)).decode(errors="replace")).items()
    }
    try:
        await run_in_threadpool(pages.services.access.authorize, who, "publish", f"view/{name}")
        await run_in_threadpool(_act, pages.services, scope, name, who.id, form)
    except AntiphonError as error:
        return await _show(pages, name, who, scope, error, form.get("reason", ""))
    return RedirectResponse(f"/features/{quote(name, safe='')}", 303, headers=SAFE)


def _act(services: GatewayServices, scope: Scope, view: str, who: str, form: dict[str, str]) -> None:
    rollback, reason, seen = services.features.rollback, form.get("reason", ""), form.get("seen", "")
    match form.get("act"):
        case "rollback":
            rollback.view(
                scope,
                view,
                form.get("to") or None,
                reason=reason,
                principal=who,
                hold=form.get("hold") == "yes",
                seen=whole_number(seen),
            )
        case "hold":
            rollback.hold(scope, view, reason=reason, principal=who)
        case "resume":
            rollback.resume(scope, view, reason=reason, principal=who)
        case other:
            raise InvalidInputError(f"{str(other)[:40]!r} is nothing that can be done to a view.", where="act")


async def _show(
    pages: Pages,
    name: str,
    who: Principal,
    scope: Scope,
    problem: AntiphonError | None = None,
    reason: str = "",
) -> Response:
    services = pages.services
    shown = await run_in_threadpool(description, services, scope, who, name)
    lines = await run_in_threadpool(history, services, scope, who, name, _VERSIONS)
    fresh = await run_in_threadpool(pages.services.features.freshness, scope)
    current = shown.current
    statistics = (
        [StatisticsDifference(name, None, found) for name, found in current.statistics.items()] if current else []
    )
    publication = await run_in_threadpool(services.features.publications.current, scope)
    may = await run_in_threadpool(may_publish, services, who, name)
    held = (await run_in_threadpool(services.features.rollback.held, scope)).get(name)
    served = {line.snapshot: line for line in lines if line.snapshot is not None and line.outcome != "blocked"}
    return pages.render(
        "view.html",
        200 if problem is None else problem.http_status,
        problem=problem,
        reason=reason,
        publication=publication.number if publication is not None else None,
        held=held,
        may=may and current is not None,
        earlier=[line for line in served.values() if not line.current],
        page="features",
        who=who,
        shown=shown,
        current=current,
        lines=lines,
        fresh=[one for one in fresh if one.view == name],
        plots=[(one.name, one.after, histogram(one)) for one in statistics],
        over_time=quality_over_time(lines),
        made=[line for line in lines if line.snapshot is not None],
    )


async def diff(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Two versions: the definition, and every feature's and column's distribution."""
    before, after = (request.query_params.get(name, "") for name in ("before", "after"))
    found = await run_in_threadpool(difference, pages.services, scope, who, before, after)
    parts: list[tuple[str, list[tuple[StatisticsDifference, Plot | None]]]] = [
        ("Features", [(one, histogram(one)) for one in found.features]),
        ("Columns of the source", [(one, histogram(one)) for one in found.columns]),
    ]
    return pages.render("view_diff.html", page="features", who=who, found=found, parts=parts)
