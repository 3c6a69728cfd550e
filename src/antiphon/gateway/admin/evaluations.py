"""Evaluations of releases, with the gates' verdicts."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.catalog.evaluations import Evaluation
from antiphon.gateway.admin import release_shapes
from antiphon.gateway.operation import Call, Operation


class EvaluationsWanted(msgspec.Struct, frozen=True):
    """Which evaluations."""

    application: str | None = None
    release: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


def _list(call: Call) -> release_shapes.EvaluationList:
    wanted: EvaluationsWanted = call.query
    found = call.services.learned().evaluations.list(call.scope, wanted.application, wanted.release, wanted.limit)
    return release_shapes.EvaluationList(tuple(map(release_shapes.evaluation_line, found)))


def _get(call: Call) -> Evaluation:
    return call.services.learned().evaluations.get(call.scope, call.path["evaluation"])


OPERATIONS = (
    Operation(
        "GET",
        "/admin/evaluations",
        "List evaluations, latest first.",
        "read",
        release_shapes.EvaluationList,
        _list,
        EvaluationsWanted,
    ),
    Operation("GET", "/admin/evaluations/{evaluation}", "One evaluation, with its gates.", "read", Evaluation, _get),
)
