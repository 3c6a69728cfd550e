"""The page *Skew*: whether what is read online is what batch computes, by view and feature."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs, quote

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from antiphon.catalog.skew_reports import ViewSkew
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.gateway import incoming
from antiphon.gateway.admin.feature_watch import differences_shown, may_publish
from antiphon.gateway.bounds import whole_number
from antiphon.gateway.dashboard import plots
from antiphon.gateway.dashboard.pages import SAFE, Pages
from antiphon.governance.identity.principal import Principal

MOST = 500
"""Entities of each view, and predictions, from a page."""
SECONDS = 30.0
MOST_LINES = 1_000
"""Lines of the history that are looked at."""
SHOWN = 20
"""Comparisons that are listed."""


async def skew(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Shows the last comparison of all views or of one, and those before it."""
    return await _show(pages, who, scope, request.query_params.get("view", ""))


async def measure(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """Compare now, within bounds; then the page with what was found."""
    form = {
        name: values[0].strip()
        for name, values in parse_qs((await incoming.body(request, 10_000)).decode(errors="replace")).items()
    }
    view = form.get("view", "")
    try:
        await run_in_threadpool(pages.services.access.authorize, who, "publish", f"view/{view or '*'}")
        measuring = pages.services.features.skew.measure
        sample = _sample(form.get("sample", ""))
        selected = [view] if view else []
        await run_in_threadpool(lambda: measuring(scope, selected, sample=sample, seconds=SECONDS, trigger=who.id))
    except AntiphonError as error:
        return await _show(pages, who, scope, "", error)
    return RedirectResponse(f"/skew?view={quote(view)}" if view else "/skew", 303, headers=SAFE)


async def _show(
    pages: Pages, who: Principal, scope: Scope, view: str, problem: AntiphonError | None = None
) -> Response:
    services = pages.services
    kept = services.features.skew
    found = await run_in_threadpool(kept.last, scope, view or None)
    lines = compared(await run_in_threadpool(kept.history, scope, view or None, MOST_LINES))
    may = await run_in_threadpool(may_publish, services, who, "*")
    views = sorted({one.view for one in await run_in_threadpool(services.features.freshness, scope)})
    if found is not None:
        found = await run_in_threadpool(differences_shown, services, scope, who, found)
    code = 200 if problem is None else problem.http_status
    return pages.render(
        "skew.html", code, page="features", who=who, found=found, may=may, views=views, problem=problem, most=MOST,
        view=view, lines=lines[:SHOWN], plot=plots.shares(lines, view or "all views"),
    )  # fmt: skip


def compared(lines: Sequence[ViewSkew]) -> list[ViewSkew]:
    """One line a comparison, of all the views in it together; in the order of their first lines."""
    found: dict[str, ViewSkew] = {}
    for line in lines:
        known = found.get(line.report)
        if known is None:
            found[line.report] = line
            continue
        both, different = known.compared + line.compared, known.different + line.different
        found[line.report] = msgspec.structs.replace(
            known,
            view=f"{known.view}, {line.view}",
            compared=both,
            different=different,
            not_comparable=known.not_comparable + line.not_comparable,
            share=different / both if both else None,
        )
    return list(found.values())


def _sample(text: str) -> int:
    sample = whole_number(text)
    if sample is None or not 1 <= sample <= MOST:
        raise InvalidInputError(f"{text[:20]!r} is no sample size.", where="sample", next_step=f"Give 1 to {MOST}.")
    return sample
