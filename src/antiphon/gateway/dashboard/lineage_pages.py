"""The page *Lineage* of a prediction: which source rows made its features, and whether they make them again."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.core.scope import Scope
from antiphon.features.offline.lineage import Lineage
from antiphon.gateway.admin.feature_watch import lineage_of_prediction
from antiphon.gateway.dashboard.pages import Pages
from antiphon.governance.identity.principal import Principal

_ROWS = 30


async def lineage(pages: Pages, request: Request, who: Principal, scope: Scope) -> Response:
    """One feature of a prediction, or all; those that an on-demand feature read follow it."""
    prediction = str(request.path_params["prediction"])
    feature = request.query_params.get("feature") or None
    found = await run_in_threadpool(lineage_of_prediction, pages.services, scope, who, prediction, feature, _ROWS)
    shown: list[Lineage] = []
    for one in found:
        shown += [one.placeless(), *(read.placeless() for read in one.reads if feature is not None)]
    return pages.render("lineage.html", page="requests", who=who, prediction=prediction, shown=shown, feature=feature)
