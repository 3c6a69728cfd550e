"""Predictions and their receipts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool

from antiphon.catalog.serving.receipt import (
    SEEN_ROLES,
    STAND_IN_ROLES,
    Path,
    Receipt,
)
from antiphon.core.errors import NotFoundError
from antiphon.core.settings_costs import PriceSettings
from antiphon.gateway import limits
from antiphon.gateway.admin.shapes import read
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.operations.cost.receipts import price


class PredictionQuery(msgspec.Struct, frozen=True):
    """Selects receipts; ``all_roles`` also those of shadows and evaluations, which reached no user."""

    application: str | None = None
    all_roles: bool = False
    path: Path | None = None
    before: datetime | None = None
    limit: Few = 50


class PredictionLine(msgspec.Struct, frozen=True):
    """A prediction in a list; seconds are wall seconds."""

    prediction: str
    application: str
    release: str
    path: str
    origin: str
    created_at: datetime
    as_of: datetime
    publication: int | None
    finish_reason: str
    first_byte_seconds: float
    total_seconds: float
    prompt_tokens: int
    completion_tokens: int
    guards: tuple[str, ...]
    cost: float


class PredictionList(msgspec.Struct, frozen=True):
    """Newest first; ``before`` of the next page is the last one's ``created_at``."""

    predictions: tuple[PredictionLine, ...]


class PredictionDetail(msgspec.Struct, frozen=True):
    """A receipt with the texts it points to; a text is ``None`` once erased."""

    receipt: Receipt
    text: str | None
    question: str | None
    entity: str | None
    prompts: tuple[str | None, ...]
    cost: float
    currency: str


@operation("GET", "/admin/predictions", "List predictions, newest first.", "read")
def _list(call: OperationCall, query: PredictionQuery) -> PredictionList:
    receipts = call.services.predictions.receipts.list(
        call.scope, query.application, query.path, query.before, query.limit,
        roles=None if query.all_roles else SEEN_ROLES + STAND_IN_ROLES,
    )  # fmt: skip
    return PredictionList(tuple(prediction_line(receipt, call.services.settings.prices) for receipt in receipts))


@operation("GET", "/admin/predictions/{prediction}", "One prediction with its receipt and texts.", "read")
def _get(call: OperationCall) -> PredictionDetail:
    return detail(call, call.path["prediction"])


@operation(
    "GET",
    "/admin/predictions/{prediction}/explain",
    "Everything a prediction was made from; down to the source rows for those who may read these.",
    "read",
)
def _explain(call: OperationCall) -> Mapping[str, Any]:
    records, prediction = call.services.access.records, call.path["prediction"]
    receipt = records.require_prediction(call.scope, call.principal, prediction)
    source_rows = records.may_read_source_rows(call.scope, call.principal, receipt)
    return call.services.predictions.explain(call.scope, prediction, source_rows)


@operation(
    "POST",
    "/admin/predictions/{prediction}/replay",
    "Make the text again and compare; asked, bounded and counted like the answer.",
    "read",
)
async def _replay(call: OperationCall) -> Mapping[str, Any]:
    services, who, prediction = call.services, call.principal, call.path["prediction"]
    receipt = await run_in_threadpool(services.access.records.require_replay, call.scope, who, prediction)
    if receipt.cache.prediction is not None:
        receipt = await run_in_threadpool(services.predictions.receipts.get, call.scope, receipt.cache.prediction)
    most = receipt.usage.prompt_tokens + sum(attempt.max_tokens for attempt in receipt.attempts)
    reservation = await limits.reserve_tokens(services, who, most)
    try:
        replayed = await services.predictions.replay(call.scope, prediction)
    except BaseException as error:
        if reservation is not None:
            reservation.failed(error)
        raise
    if reservation is not None:
        reservation.answered(receipt.usage.prompt_tokens, receipt.usage.completion_tokens)
    return replayed


def detail(call: OperationCall, prediction: str) -> PredictionDetail:
    """A receipt with its texts, for somebody who may read them.

    Raises:
        NotFoundError: no such prediction in this scope.
        ForbiddenError: policy keeps it from this principal.
    """
    services, scope = call.services, call.scope
    receipt = services.access.records.require_prediction(scope, call.principal, prediction)

    def text(blob: str | None) -> str | None:
        try:
            return services.predictions.texts.get(scope, blob).decode(errors="replace") if blob else None
        except NotFoundError:
            return None

    return PredictionDetail(
        receipt=receipt,
        text=text(receipt.text_blob),
        question=text(receipt.question_blob),
        entity=text(receipt.entity_blob),
        prompts=tuple(text(attempt.prompt_blob) for attempt in receipt.attempts),
        cost=cost(receipt, services.settings.prices),
        currency=services.settings.prices.currency,
    )


def prediction_line(receipt: Receipt, prices: PriceSettings) -> PredictionLine:
    """A receipt as it is listed."""
    others = {
        "origin": receipt.cache.origin,
        "first_byte_seconds": receipt.timing.first_byte,
        "total_seconds": receipt.timing.total,
        "prompt_tokens": receipt.usage.prompt_tokens,
        "completion_tokens": receipt.usage.completion_tokens,
        "guards": [guard.action for guard in receipt.guards],
        "cost": cost(receipt, prices),
    }
    return read(msgspec.structs.asdict(receipt) | others, PredictionLine)


def cost(receipt: Receipt, prices: PriceSettings) -> float:
    """As it was priced then, or by today's prices."""
    return receipt.cost if receipt.cost is not None else price(receipt.usage, prices, receipt.model)
