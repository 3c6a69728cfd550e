"""The page *Skew*: whether what is read online is what batch computes, by view and feature."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.core.errors import AntiphonError, InvalidInput
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.admin.feature_watch import may_publish
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.governance.principal import Principal

MOST = 500
"""Entities of each view, and predictions, from a page."""
SECONDS = 30.0


async def skew(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """What was found last."""
    return await _show(pages, who, scope)


async def measure(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Compare now, within bounds; then the page with what was found."""
    form = {
        name: values[0].strip()
        for name, values in parse_qs((await incoming.body(request, 10_000)).decode(errors="replace")).items()
    }
    view = form.get("view", "")
    try:
        await run_in_threadpool(pages.services.authorise, who, "publish", f"view/{view or '*'}")
        measuring = pages.services.watched().skew.measure
        sample = _sample(form.get("sample", ""))
        await run_in_threadpool(lambda: measuring(scope, [view] if view else [], sample=sample, seconds=SECONDS))
    except AntiphonError as error:
        return await _show(pages, who, scope, error)
    return RedirectResponse("/skew", 303, headers=SAFE)


async def _show(pages: Pages, who: Principal, scope: Scope, problem: AntiphonError | None = None) -> Response:
    services = pages.services
    found = await run_in_threadpool(services.watched().skew.last, scope)
    may = await run_in_threadpool(may_publish, services, who, "*")
    views = sorted({one.view for one in await run_in_threadpool(services.freshness, scope)})
    if found is not None and not may:
        found = found.without_entities()
    code = 200 if problem is None else problem.http_status
    return pages.render(
        "skew.html", code, page="features", who=who, found=found, may=may, views=views, problem=problem, most=MOST
    )


def _sample(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise InvalidInput(f"{text[:20]!r} is no sample size.", where="sample", next_step=f"Give 1 to {MOST}.")
    return int(text)
