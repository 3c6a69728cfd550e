"""Evaluations of releases, with the gates' verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from antiphon.catalog.evaluations import Evaluation
from antiphon.core.scope import Scope
from antiphon.gateway.admin import release_shapes
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.gates import DISPARITY
from antiphon.learning.registry.card import ModelCard
from antiphon.learning.registry.models import ModelLine


class EvaluationQuery(msgspec.Struct, frozen=True):
    """Selects evaluations."""

    application: str | None = None
    release: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


def _list(call: OperationCall) -> release_shapes.EvaluationList:
    query: EvaluationQuery = call.query
    found = call.services.learning.evaluations.list(call.scope, query.application, query.release, query.limit)
    shown = evaluations_shown(call.services, call.scope, call.principal, found)
    return release_shapes.EvaluationList(tuple(map(release_shapes.evaluation_line, shown)))


def _get(call: OperationCall) -> Evaluation:
    found = call.services.learning.evaluations.get(call.scope, call.path["evaluation"])
    return evaluations_shown(call.services, call.scope, call.principal, [found])[0]


def card_shown(services: GatewayServices, scope: Scope, who: Principal, name: str) -> ModelCard:
    """A model's card, with evaluations as :func:`evaluations_shown`.

    Raises:
        NotFoundError: there is no such model.
    """
    card = services.learning.registry.card(scope, name)
    newest = () if card.evaluation is None else (card.evaluation,)
    shown = evaluations_shown(services, scope, who, (*newest, *card.earlier))
    return msgspec.structs.replace(card, evaluation=shown[0] if newest else None, earlier=shown[len(newest) :])


def lines_shown(
    services: GatewayServices, scope: Scope, who: Principal, lines: Sequence[ModelLine]
) -> tuple[ModelLine, ...]:
    """Model versions in a list, with evaluations as :func:`evaluations_shown`."""
    shown = iter(
        evaluations_shown(services, scope, who, [one.evaluation for one in lines if one.evaluation is not None])
    )
    return tuple(
        line if line.evaluation is None else msgspec.structs.replace(line, evaluation=next(shown)) for line in lines
    )


def evaluations_shown(
    services: GatewayServices, scope: Scope, who: Principal, evaluations: Sequence[Evaluation]
) -> tuple[Evaluation, ...]:
    """Evaluations; what one says of single values of an entity's keys is for those who may read all entities."""
    readable = {
        name: services.access.records.may_read_application(scope, who, name)
        for name in {one.application for one in evaluations}
    }
    return tuple(one if readable[one.application] else _without_slices(one) for one in evaluations)


def _without_slices(evaluation: Evaluation) -> Evaluation:
    gates = (msgspec.structs.replace(gate, reason="") if gate.name == DISPARITY else gate for gate in evaluation.gates)
    return msgspec.structs.replace(evaluation, slices=(), gates=tuple(gates))


OPERATIONS = (
    Operation(
        "GET",
        "/admin/evaluations",
        "List evaluations, latest first.",
        "read",
        release_shapes.EvaluationList,
        _list,
        EvaluationQuery,
    ),
    Operation("GET", "/admin/evaluations/{evaluation}", "One evaluation, with its gates.", "read", Evaluation, _get),
)
