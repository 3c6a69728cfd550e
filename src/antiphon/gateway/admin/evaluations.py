"""Evaluations of releases, with the gates' verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation, EvaluationGate, IntervalEstimate
from antiphon.gateway.admin.shapes import read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.learning.evaluation.gates import DISPARITY
from antiphon.learning.registry.card import ModelCard
from antiphon.learning.registry.models import ModelLine


class EvaluationQuery(msgspec.Struct, frozen=True):
    """Selects evaluations."""

    application: str | None = None
    release: str | None = None
    limit: Few = 50


class EvaluationLine(msgspec.Struct, frozen=True):
    """An evaluation in a list; metrics and their advantages over the labels' shares have 95 % intervals."""

    id: str
    application: str
    release: str
    model: str
    dataset: str
    mode: str
    rows: int
    labels: dict[str, int]
    metrics: dict[str, IntervalEstimate]
    advantages: dict[str, IntervalEstimate]
    against: str | None
    passed: bool
    gates: tuple[EvaluationGate, ...]
    created_at: datetime


class EvaluationList(msgspec.Struct, frozen=True):
    """Latest first."""

    evaluations: tuple[EvaluationLine, ...]


@operation("GET", "/admin/evaluations", "List evaluations, latest first.", "read")
def _list(call: OperationCall, query: EvaluationQuery) -> EvaluationList:
    found = call.services.learning.evaluations.list(call.scope, query.application, query.release, query.limit)
    return EvaluationList(read_all(evaluations_shown(call, found), EvaluationLine))


@operation("GET", "/admin/evaluations/{evaluation}", "One evaluation, with its gates.", "read")
def _get(call: OperationCall) -> Evaluation:
    found = call.services.learning.evaluations.get(call.scope, call.path["evaluation"])
    return evaluations_shown(call, [found])[0]


def card_shown(call: OperationCall, name: str) -> ModelCard:
    """A model's card, with evaluations as :func:`evaluations_shown`.

    Raises:
        NotFoundError: there is no such model.
    """
    card = call.services.learning.registry.card(call.scope, name)
    newest = () if card.evaluation is None else evaluations_shown(call, [card.evaluation])
    earlier = evaluations_shown(call, card.earlier)
    return msgspec.structs.replace(card, evaluation=next(iter(newest), None), earlier=earlier)


def lines_shown(call: OperationCall, lines: Sequence[ModelLine]) -> tuple[ModelLine, ...]:
    """Model versions in a list, with evaluations as :func:`evaluations_shown`."""
    shown = iter(evaluations_shown(call, [one.evaluation for one in lines if one.evaluation is not None]))
    return tuple(
        line if line.evaluation is None else msgspec.structs.replace(line, evaluation=next(shown)) for line in lines
    )


def evaluations_shown(call: OperationCall, evaluations: Sequence[Evaluation]) -> tuple[Evaluation, ...]:
    """Evaluations; what one says of single values of an entity's keys is for those who may read all entities."""
    may_read = call.services.access.records.may_read_application
    readable = {name: may_read(call.scope, call.principal, name) for name in {one.application for one in evaluations}}
    return tuple(one if readable[one.application] else _without_slices(one) for one in evaluations)


def _without_slices(evaluation: Evaluation) -> Evaluation:
    gates = (
        msgspec.structs.replace(gate, reason="") if gate.name.endswith(DISPARITY) else gate for gate in evaluation.gates
    )
    return msgspec.structs.replace(evaluation, slices=(), gates=tuple(gates))
