"""The history: measurements of all processes, over spans of up to years."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.gateway.operation import OperationCall, operation
from antiphon.operations.history.measures import MEASURES, Measure
from antiphon.operations.history.window import HistoryColumns
from antiphon.services.history import parse_labels, parse_span


class MeasureList(msgspec.Struct, frozen=True):
    """The measures that are kept."""

    measures: tuple[Measure, ...]


class HistoryQuery(msgspec.Struct, frozen=True):
    """Selects columns.

    Attributes:
        span: such as ``6h`` or ``30d``, up to ten years, ``until`` a moment, by default now.
        statistic: one that the measure has: ``total`` or ``rate`` of counts, ``mean`` or ``greatest`` of levels,
            ``p50``, ``p90``, ``p99``, ``mean``, ``count`` or ``rate`` of durations.
        by: labels, separated by commas, with a line for each combination of their values.
        where: ``label=value``, separated by commas.
    """

    span: str = "1d"
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    statistic: str | None = None
    by: str = ""
    where: str = ""


@operation("GET", "/admin/history", "List the measures that the history keeps.", "read")
def _list(call: OperationCall) -> MeasureList:
    return MeasureList(tuple(MEASURES.values()))


@operation("GET", "/admin/history/{measure}", "Read one measure over time.", "read")
def _columns(call: OperationCall, query: HistoryQuery) -> HistoryColumns:
    return call.services.metric_history.columns(
        call.scope.tenant,
        call.path["measure"],
        parse_span(query.span),
        query.until,
        statistic=query.statistic,
        by=[label.strip() for label in query.by.split(",") if label.strip()],
        where=parse_labels(query.where),
    )
