"""The page *Features*: how fresh each view is, what the gates said, and two versions of one side by side."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.scope import Scope
from antiphon.features.history import StatisticsDifference
from antiphon.gateway.dashboard.histograms import histogram, quality_over_time
from antiphon.gateway.dashboard.pages import Pages
from antiphon.gateway.dashboard.plots import Plot
from antiphon.governance.principal import Principal

_VERSIONS = 30


async def views(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Every served view at a glance."""
    found = await run_in_threadpool(pages.services.freshness, scope)
    return pages.render("features.html", page="features", who=who, views=found)


async def view(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """One view: what is served, what the gates said, statistics, history."""
    name = str(request.path_params["view"])
    history = pages.services.remembered()
    shown = await run_in_threadpool(history.describe, scope, name)
    lines = await run_in_threadpool(history.history, scope, name, _VERSIONS)
    fresh = await run_in_threadpool(pages.services.freshness, scope)
    current = shown.current
    statistics = (
        [StatisticsDifference(name, None, found) for name, found in current.statistics.items()] if current else []
    )
    return pages.render(
        "view.html",
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
    found = await run_in_threadpool(pages.services.remembered().difference, scope, before, after)
    parts: list[tuple[str, list[tuple[StatisticsDifference, Plot | None]]]] = [
        ("Features", [(one, histogram(one)) for one in found.features]),
        ("Columns of the source", [(one, histogram(one)) for one in found.columns]),
    ]
    return pages.render("view_diff.html", page="features", who=who, found=found, parts=parts)
