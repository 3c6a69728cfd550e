"""Model versions, their cards, two compared, and ordering a training."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.catalog.learning.models import ModelVersion
from antiphon.core.clock import utc
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.gateway.admin.evaluations import EvaluationLine, card_shown, lines_shown
from antiphon.gateway.admin.shapes import ApplicationQuery, RunLine, read
from antiphon.gateway.operation import HtmlPage, OperationCall, operation
from antiphon.learning.registry import card as cards
from antiphon.learning.registry.card import CardDataset, CardRelease
from antiphon.learning.registry.comparison import ModelComparison
from antiphon.learning.registry.models import ModelLine
from antiphon.learning.retraining.orders import TrainingRequest


class ModelComparisonQuery(msgspec.Struct, frozen=True):
    """Each is ``APPLICATION.vN``, ``APPLICATION:ALIAS`` or a release."""

    a: str
    b: str


class ModelVersionItem(msgspec.Struct, frozen=True):
    """A model version in a list; ``evaluation`` is the newest of a release that serves it."""

    id: str
    application: str
    number: int
    base: str
    dataset: str
    parent: str | None
    weights_sha256: str
    seconds: float
    created_at: datetime
    aliases: tuple[str, ...]
    releases: tuple[str, ...]
    evaluation: EvaluationLine | None


class VersionList(msgspec.Struct, frozen=True):
    """By application, latest first."""

    versions: tuple[ModelVersionItem, ...]


class ModelDetail(msgspec.Struct, frozen=True):
    """A model with its lineage (dataset, parent, code), recipe, losses and aliases, as its card has them."""

    name: str
    application: str
    purpose: str
    owner: str
    outcome: OutcomeShape | None
    version: ModelVersion | None
    aliases: tuple[str, ...]
    releases: tuple[CardRelease, ...]
    datasets: tuple[CardDataset, ...]
    evaluation: Evaluation | None
    earlier: tuple[EvaluationLine, ...]
    limits: tuple[str, ...]


@operation("GET", "/admin/models", "List model versions, latest first.", "read")
def _list(call: OperationCall, query: ApplicationQuery) -> VersionList:
    lines = call.services.learning.registry.lines(call.scope, query.application)
    return VersionList(tuple(map(version_line, lines_shown(call, lines))))


@operation("GET", "/admin/models/compare", "Two models side by side, and by pairs on identical rows.", "read")
def _compare(call: OperationCall, query: ModelComparisonQuery) -> ModelComparison:
    return call.services.learning.registry.compare(call.scope, query.a, query.b)


@operation("GET", "/admin/models/{model}", "A model: lineage, recipe, losses, aliases, evaluation.", "read")
def _get(call: OperationCall) -> ModelDetail:
    return read(card_shown(call, call.path["model"]), ModelDetail)


@operation("GET", "/admin/models/{model}/card", "A model's card as a page.", "read")
def _card(call: OperationCall) -> HtmlPage:
    return HtmlPage(cards.as_html(card_shown(call, call.path["model"])), cards.content_security_policy())


@operation("POST", "/admin/train", "Order a training; the answer is its run.", "release", changes=True, status=202)
def _train(call: OperationCall, body: TrainingRequest) -> RunLine:
    # Policy may name one application; the operation as a whole was asked about before.
    call.services.access.authorize(call.principal, "release", f"application/{body.application}")
    order = msgspec.structs.replace(body, cutoff=None if body.cutoff is None else utc(body.cutoff))
    run = call.services.learning.training.place(call.scope, call.principal.id, order, call.principal)
    return read(call.services.work.runs.get(call.scope, run), RunLine)


def version_line(line: ModelLine) -> ModelVersionItem:
    """A version as it is listed."""
    others = {"weights_sha256": line.version.weights.sha256, **msgspec.structs.asdict(line)}
    return read(msgspec.structs.asdict(line.version) | others, ModelVersionItem)
