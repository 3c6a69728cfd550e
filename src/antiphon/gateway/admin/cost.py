"""Cost: sums of what was charged, and a forecast."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.gateway.operation import OperationCall, operation
from antiphon.operations.cost.forecast import CostForecast
from antiphon.operations.cost.summary import CostSummary


class CostQuery(msgspec.Struct, frozen=True):
    """Charges that are booked in ``since <= hour < until``, the last 30 days by default.

    Attributes:
        by: what they are summed by, with commas: application, path, role, release, principal, engine, model, work,
            resource, tenant, kind, hour, day, month.
    """

    by: str = "application"
    since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class CostForecastQuery(msgspec.Struct, frozen=True):
    """So many days ahead."""

    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 30


class ForecastAnswer(msgspec.Struct, frozen=True):
    """The forecast; ``null`` before there was a week of charges that is over."""

    forecast: CostForecast | None


@operation("GET", "/admin/cost", "Sum what was charged, in micro-units of a currency.", "read")
def _show(call: OperationCall, query: CostQuery) -> CostSummary:
    names = tuple(name.strip() for name in query.by.split(",") if name.strip())
    return call.services.work.costs(call.scope).summary(names, query.since, query.until)


@operation("GET", "/admin/cost-forecast", "What the next days are expected to cost.", "read")
def _forecast(call: OperationCall, query: CostForecastQuery) -> ForecastAnswer:
    return ForecastAnswer(call.services.work.costs(call.scope).forecast(query.days))
