"""The page *Cost*: what was charged in the last 30 days, by what, what the next ones will, and budgets."""

from __future__ import annotations

from starlette.responses import Response

from antiphon.core.errors import InvalidInputError
from antiphon.gateway.dashboard.pages import PageCall
from antiphon.gateway.dashboard.plots import by_amount
from antiphon.operations.cost.amounts import decimal_text
from antiphon.operations.cost.summary import DIMENSIONS, energy_cells, energy_text, summarize


def cost(call: PageCall) -> Response:
    """Sums by a dimension that is chosen, the days of the time, and the forecast; of one run or batch job, if asked
    for, all that it was charged."""
    by, problem = call.query.get("by") or "application", None
    costs, work = call.services.work.costs(call.scope), call.query.get("work", "")
    charges, currency, energy = costs.of_work([work]) if work else costs.charges(), costs.currency, costs.energy
    try:
        summary = summarize(charges, (by,), currency, energy)
    except InvalidInputError as error:
        by, problem = "application", error
        summary = summarize(charges, (by,), currency, energy)
    days = sorted(summarize(charges, ("day",), currency).lines, key=lambda line: line.group["day"])
    return call.render(
        "cost.html",
        problem,
        page="cost",
        by=by,
        dimensions=list(DIMENSIONS),
        summary=summary,
        plot=by_amount([(line.group["day"], line.micros) for line in days], currency),
        work=work,
        forecast=None if work else costs.forecast(),
        budgets=[] if work else call.services.work.budgets(call.scope).list(),
        amount=decimal_text,
        energy=energy_text(summary),
        watt_hours=energy_cells,
    )
