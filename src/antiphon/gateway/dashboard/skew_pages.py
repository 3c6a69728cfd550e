"""The page *Skew*: whether what is read online is what batch computes, by view and feature."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from starlette.responses import RedirectResponse, Response

from antiphon.catalog.features.skew_reports import ViewSkew
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.gateway.admin.feature_watch import differences_shown
from antiphon.gateway.dashboard import plots
from antiphon.gateway.dashboard.pages import SAFE, PageCall
from antiphon.gateway.http.bounds import whole_number

MOST = 500
"""Entities of each view, and predictions, from a page."""
SECONDS = 30.0
MOST_LINES = 1_000
"""Lines of the history that are looked at."""
SHOWN = 20
"""Comparisons that are listed."""


def skew(call: PageCall) -> Response:
    """Shows the last comparison of all views or of one, and those before it."""
    return _show(call, call.query.get("view", ""))


def measure(call: PageCall) -> Response:
    """Compare now, within bounds; then the page with what was found."""
    view = call.form.get("view", "")
    try:
        call.services.access.authorize(call.principal, "publish", f"view/{view or '*'}")
        measuring, sample = call.services.features.skew.measure, _sample(call.form.get("sample", ""))
        measuring(call.scope, [view] if view else [], sample=sample, seconds=SECONDS, trigger=call.principal.id)
    except AntiphonError as error:
        return _show(call, "", error)
    return RedirectResponse(f"/skew?view={quote(view)}" if view else "/skew", 303, headers=SAFE)


def _show(call: PageCall, view: str, problem: AntiphonError | None = None) -> Response:
    features = call.services.features
    found = features.skew.last(call.scope, view or None)
    lines = compared(features.skew.history(call.scope, view or None, MOST_LINES))
    return call.render(
        "skew.html",
        problem,
        page="features",
        found=None if found is None else differences_shown(call, found),
        may=call.may("publish", "view/*"),
        views=sorted({one.view for one in features.freshness(call.scope)}),
        most=MOST,
        view=view,
        lines=lines[:SHOWN],
        plot=plots.shares(lines, view or "all views"),
    )


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
