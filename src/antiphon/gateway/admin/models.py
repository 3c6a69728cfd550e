"""Model versions, their cards, two compared, and ordering a training."""

from __future__ import annotations

import msgspec

from antiphon.core.clock import utc
from antiphon.gateway.admin import release_shapes, shapes
from antiphon.gateway.admin.evaluations import card_shown, lines_shown
from antiphon.gateway.operation import HtmlPage, Operation, OperationCall
from antiphon.learning.registry import card as cards
from antiphon.learning.registry.comparison import ModelComparison
from antiphon.learning.retraining.orders import TrainingRequest


class ModelVersionQuery(msgspec.Struct, frozen=True):
    """Only this application's."""

    application: str | None = None


class ModelComparisonQuery(msgspec.Struct, frozen=True):
    """Each is ``APPLICATION.vN``, ``APPLICATION:ALIAS`` or a release."""

    a: str
    b: str


def _list(call: OperationCall) -> release_shapes.VersionList:
    lines = call.services.learning.registry.lines(call.scope, call.query.application)
    shown = lines_shown(call.services, call.scope, call.principal, lines)
    return release_shapes.VersionList(tuple(map(release_shapes.version_line, shown)))


def _get(call: OperationCall) -> release_shapes.ModelDetail:
    return release_shapes.model_detail(card_shown(call.services, call.scope, call.principal, call.path["model"]))


def _card(call: OperationCall) -> HtmlPage:
    card = card_shown(call.services, call.scope, call.principal, call.path["model"])
    return HtmlPage(cards.as_html(card), cards.content_security_policy())


def _compare(call: OperationCall) -> ModelComparison:
    query: ModelComparisonQuery = call.query
    return call.services.learning.registry.compare(call.scope, query.a, query.b)


def _train(call: OperationCall) -> shapes.RunLine:
    body: TrainingRequest = call.body
    # Policy may name one application; the operation as a whole was asked about before.
    call.services.access.authorize(call.principal, "release", f"application/{body.application}")
    order = msgspec.structs.replace(body, cutoff=None if body.cutoff is None else utc(body.cutoff))
    run = call.services.learning.training.place(call.scope, call.principal.id, order, call.principal)
    return shapes.read(call.services.work.runs.get(call.scope, run), shapes.RunLine)


OPERATIONS = (
    Operation(
        "GET",
        "/admin/models",
        "List model versions, latest first.",
        "read",
        release_shapes.VersionList,
        _list,
        ModelVersionQuery,
    ),
    Operation(
        "GET",
        "/admin/models/compare",
        "Two models side by side, and by pairs on identical rows.",
        "read",
        ModelComparison,
        _compare,
        ModelComparisonQuery,
    ),
    Operation(
        "GET",
        "/admin/models/{model}",
        "A model: lineage, recipe, losses, aliases, evaluation.",
        "read",
        release_shapes.ModelDetail,
        _get,
    ),
    Operation("GET", "/admin/models/{model}/card", "A model's card as a page.", "read", str, _card, page=True),
    Operation(
        "POST",
        "/admin/train",
        "Order a training; the answer is its run.",
        "release",
        shapes.RunLine,
        _train,
        body=TrainingRequest,
        changes=True,
        status=202,
    ),
)
