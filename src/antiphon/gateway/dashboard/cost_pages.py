"""The page *Cost*: what was charged in the last 30 days, by what, what the next ones will, and budgets."""

from __future__ import annotations

from starlette.responses import Response

from antiphon.core.errors import InvalidInputError
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.gateway.dashboard.plots import by_amount
from antiphon.operations.cost.amounts import decimal_text
from antiphon.operations.cost.summary import DIMENSIONS, summarize


def cost(call: PageCall) -> Response:
    """Sums by a dimension that is chosen, the days of the time, and the forecast."""
    by, problem = call.query.get("by") or "application", None
    costs = call.services.work.costs(call.scope)
    charges, currency = costs.charges(), costs.currency
    try:
        summary = summarize(charges, (by,), currency)
    except InvalidInputError as error:
        by, problem = "application", error
        summary = summarize(charges, (by,), currency)
    days = sorted(summarize(charges, ("day",), currency).lines, key=lambda line: line.group["day"])
    return call.render(
        "cost.html",
        problem,
        page="cost",
        by=by,
        dimensions=list(DIMENSIONS),
        summary=summary,
        plot=by_amount([(line.group["day"], line.micros) for line in days], currency),
        forecast=costs.forecast(),
        budgets=call.services.work.budgets(call.scope).list(),
        amount=decimal_text,
    )
