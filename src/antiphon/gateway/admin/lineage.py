"""Lineage: events of runs, and the graph from sources to answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.lineage.graph import Direction, LineageGraph
from antiphon.services.lineage.values import LineageEvent


class LineageQuery(msgspec.Struct, frozen=True):
    """The graph ``of`` a run, prediction, release, job, snapshot, dataset, evaluation, model version or view; without
    one of everything behind the live releases."""

    of: str | None = None
    direction: Direction = "both"


class LineageEventQuery(msgspec.Struct, frozen=True):
    """Events of one run, or of the latest ones, since a time."""

    run: str | None = None
    since: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50


class LineageEventList(msgspec.Struct, frozen=True):
    """In the order in which they happened; files outside the project without their folders."""

    events: tuple[LineageEvent, ...]


@operation("GET", "/admin/lineage", "The graph of what something was made from and what was made of it.", "read")
def _graph(call: OperationCall, query: LineageQuery) -> LineageGraph:
    return readable_graph(call, query.of, query.direction)


@operation("GET", "/admin/lineage-events", "What runs read and made, as events of their lineage.", "read")
def _events(call: OperationCall, query: LineageEventQuery) -> LineageEventList:
    found = call.services.work.run_lineage.events(call.scope, query.run, limit=query.limit, since=query.since)
    return LineageEventList(tuple(one.placeless() for one in found))


def readable_graph(call: OperationCall, of: str | None, direction: Direction = "both") -> LineageGraph:
    """The graph around a node, for a principal who may read it.

    Raises:
        NotFoundError: there is nothing of this name. ForbiddenError: policy keeps the prediction from this principal.
    """
    lineage = call.services.work.run_lineage
    if of is not None and lineage.node(call.scope, of).kind == "prediction":
        call.services.access.records.require_prediction(call.scope, call.principal, of)
    return lineage.graph(call.scope, of, direction)
